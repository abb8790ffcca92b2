"""The steps of a record, by identity."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from crewbus.records.recorded import RecordedHome

__all__ = ["RecordedSteps"]


class RecordedSteps:
    """Finds steps by identity. One that started later than what was looked for is not decoded yet.

    A resumed run asks for its steps in about the order in which they are recorded.
    """

    def __init__(self) -> None:
        self._known: dict[str, RecordedHome] = {}
        self._others: deque[RecordedHome] = deque()
        """Those whose identity was not read yet, in the order in which they started."""

    def __iter__(self) -> Iterator[RecordedHome]:
        while self._others:
            self._read_on()
        return iter(list(self._known.values()))

    def add(self, step: RecordedHome) -> None:
        """Add a step, which has another identity than those that are here."""
        self._others.append(step)

    def find(self, identity: str) -> RecordedHome | None:
        """The step of this identity, or None."""
        found = self._known.get(identity)
        while found is None and self._others:
            if self._read_on() == identity:
                found = self._known[identity]
        return found

    def remove(self, step: RecordedHome) -> None:
        """Forget a step, if it is here."""
        if self.find(step.identity) is step:
            del self._known[step.identity]

    def _read_on(self) -> str:
        step = self._others.popleft()
        identity = step.identity
        self._known[identity] = step
        return identity
