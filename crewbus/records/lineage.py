"""Lineages: a fork has the events that it shares with its ancestors under its own ids."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from functools import cached_property, lru_cache
from typing import Final, Self

from crewbus.stores import LogPart, Store, StoredEvent

_GENERATED: Final = re.compile("[0-9a-f]{28}")


def is_generated(run_id: str) -> bool:
    """Whether an id looks like one that crewbus generated."""
    return _GENERATED.fullmatch(run_id) is not None


@lru_cache(4096)
def _renamed(run_id: str, fork_id: str) -> str:
    return hashlib.blake2b(f"{fork_id}:{run_id}".encode(), digest_size=14).hexdigest()


class Lineage:
    """Translates the ids in shared events: a fork has its own root run and its own nested runs.

    Chosen ids stay the same. Nothing is read of the ancestors before an event that they share is translated.
    """

    def __init__(self, store: Store, root_id: str, shared: int | None = None) -> None:
        self.root_id = root_id
        self._store = store
        self._shared = shared
        self._translated: dict[tuple[str, int], str] = {}

    @classmethod
    def of_fork(cls, store: Store, root_id: str, at: int, fork_id: str) -> Self:
        """The lineage that a fork of ``root_id`` at number ``at`` will have."""
        made = cls(store, fork_id, at)
        shared = [part for part in store.parts(root_id) if part.first <= at]
        made._parts = [*shared, LogPart(fork_id, at + 1, at)]
        return made

    def __bool__(self) -> bool:
        return self.shared >= 0

    @cached_property
    def shared(self) -> int:
        """The number of the last shared event; -1 if there is none."""
        return self._store.shared(self.root_id) if self._shared is None else self._shared

    @cached_property
    def _parts(self) -> list[LogPart]:
        return self._store.parts(self.root_id)

    @cached_property
    def _starts(self) -> list[int]:
        return [part.first for part in self._parts]

    def own(self, stored: StoredEvent) -> StoredEvent:
        """Return an event with the ids that it has in this record."""
        if stored.seq > self.shared:
            return stored
        parent = None if stored.parent is None else self.envelope_id(stored.parent, stored.seq)
        return stored._replace(run_id=self.run_id(stored.run_id, stored.seq), parent=parent)

    def run_id(self, run_id: str, seq: int) -> str:
        """Translate the id of a run in an event of this number."""
        if seq > self.shared:
            return run_id
        at = bisect_right(self._starts, seq) - 1
        found = self._translated.get((run_id, at))
        if found is None:
            found = self._translated[run_id, at] = self._translate(run_id, at)
        return found

    def _translate(self, run_id: str, at: int) -> str:
        if run_id == self._parts[at].root_id:
            return self.root_id
        if is_generated(run_id):
            for part in self._parts[at + 1 :]:
                run_id = _renamed(run_id, part.root_id)
        return run_id

    def envelope_id(self, envelope_id: str, seq: int) -> str:
        """Translate the id of an envelope in an event of this number."""
        head, colon, number = envelope_id.rpartition(":")
        return f"{self.run_id(head, seq)}{colon}{number}"
