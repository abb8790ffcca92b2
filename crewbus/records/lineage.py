"""Lineages: a fork has the events that it shares with its ancestors under its own ids."""

from __future__ import annotations

import hashlib
import re
import sys
from functools import lru_cache
from typing import Final

from crewbus.stores import Store, StoredEvent

_GENERATED: Final = re.compile("[0-9a-f]{28}")


def is_generated(run_id: str) -> bool:
    """Whether an id looks like one that crewbus generated."""
    return _GENERATED.fullmatch(run_id) is not None


@lru_cache(4096)
def _renamed(run_id: str, fork_id: str) -> str:
    return hashlib.blake2b(f"{fork_id}:{run_id}".encode(), digest_size=14).hexdigest()


def in_fork(envelope_id: str, root_id: str, fork_id: str) -> str:
    """Return the id that an envelope of the record of ``root_id`` has in a fork that shares it."""
    head, colon, number = envelope_id.rpartition(":")
    run_id = fork_id if head == root_id else _renamed(head, fork_id) if is_generated(head) else head
    return f"{run_id}{colon}{number}"


class Lineage:
    """Translates the ids in shared events: a fork has its own root run and its own nested runs.

    Chosen ids stay the same.
    """

    def __init__(self, store: Store, root_id: str) -> None:
        self.root_id = root_id
        ancestors = store.lineage(root_id)
        self._ancestors = frozenset(ancestors)
        self._shared: list[tuple[str, int]] = []
        """The fork and the forks among its ancestors, the oldest first, each with the last number that it shares."""
        last = sys.maxsize
        for fork_id in (root_id, *ancestors) if ancestors else ():
            parent_at = store.info(fork_id).parent_at
            if parent_at is not None:
                last = min(last, parent_at)  # a fork may begin within what its parent shares
                self._shared.insert(0, (fork_id, last))

    def __bool__(self) -> bool:
        return bool(self._ancestors)

    @property
    def shared(self) -> int:
        """The number of the last shared event; -1 if there is none."""
        return self._shared[-1][1] if self._shared else -1

    def own(self, stored: StoredEvent) -> StoredEvent:
        """Return an event with the ids that it has in this record."""
        if not self:
            return stored
        parent = None if stored.parent is None else self.envelope_id(stored.parent, stored.seq)
        return stored._replace(run_id=self.run_id(stored.run_id, stored.seq), parent=parent)

    def run_id(self, run_id: str, seq: int) -> str:
        """Translate the id of a run in an event of this number."""
        if run_id in self._ancestors:
            return self.root_id
        if not is_generated(run_id):
            return run_id
        for fork_id, last in self._shared:
            if seq <= last:
                run_id = _renamed(run_id, fork_id)
        return run_id

    def envelope_id(self, envelope_id: str, seq: int) -> str:
        """Translate the id of an envelope in an event of this number."""
        head, colon, number = envelope_id.rpartition(":")
        return f"{self.run_id(head, seq)}{colon}{number}"
