"""How large an event may be."""

from __future__ import annotations

from typing import Final, Literal

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""How many bytes the JSON of one event may have by default."""

Oversized = Literal["refuse", "truncate"]
"""What happens to an event that is larger than the limit."""
