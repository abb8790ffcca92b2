"""The content of calls: what they are given and what they return, which a record gets on request only."""

from __future__ import annotations

from typing import Any, Final

import attrs

from crewbus.events import CallFinished, CallStarted

WITH_CONTENT: Final = frozenset({CallStarted, CallFinished})
"""The event types that have such content."""


def without_content(event: Any) -> Any:
    """Return ``event``, of one of those types, without its content, as it is recorded by default."""
    return attrs.evolve(event, **({"input": None} if isinstance(event, CallStarted) else {"output": None}))
