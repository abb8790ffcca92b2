"""For how long events are collected for one transaction."""

from __future__ import annotations

from typing import Final

GATHERING: Final = 0.02
"""Seconds to collect events for one transaction, unless a caller waits for them."""
LONGEST_GATHERING: Final = 0.1
"""The same under a heavy load: the more logs, the more pages of the file each transaction writes."""
PATIENCE: Final = 4.0
"""Events are collected for so many times as long as the last transaction took, between these two."""


def gathering(took: float) -> float:
    """For how long to collect events after a transaction that took so many seconds."""
    return min(max(GATHERING, PATIENCE * took), LONGEST_GATHERING)
