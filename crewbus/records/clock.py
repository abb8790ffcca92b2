"""The time of a record without the pauses before its run was resumed."""

from __future__ import annotations

from typing import Final

_LATEST: Final = 253402300799.0  # the last second that datetime can represent


class RecordClock:
    """Converts the times of a record's events, in order, to seconds since the first one, without pauses."""

    def __init__(self) -> None:
        self._zero: float | None = None
        self._last = 0.0

    def read(self, at: float) -> float:
        """The time of an event. A time out of range is replaced by that of the previous event."""
        if 0 <= at <= _LATEST:
            if self._zero is None:
                self._zero = at
            self._last = max(0.0, at - self._zero)
        return self._last

    def skip_pause(self, at: float) -> float:
        """Leave out the time between the previous event and ``at``, and return it."""
        if self._zero is None or not 0 <= at <= _LATEST:
            return 0.0
        pause = max(0.0, at - self._zero - self._last)
        self._zero += pause
        return pause
