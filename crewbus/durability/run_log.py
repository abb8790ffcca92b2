"""Logs: what the runs of a recorded tree share besides their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

from crewbus.exceptions import InputError

if TYPE_CHECKING:
    from crewbus.durability.replay import Replay
    from crewbus.durability.tracked import Tracked
    from crewbus.scopes.scope import Scope

Durability = Literal["async", "sync"]
"""When an emission of a recorded run returns: with the event on its way to the store, or on disk."""


Base = tuple[str, str, str]
"""What steps have in common that are told apart by their ordinals only: path, name, key."""


def checked(durability: Durability | None) -> Durability | None:
    """``durability``; raises `InputError` where it is none."""
    if durability not in (None, *get_args(Durability)):
        raise InputError(f"durability={durability!r}: choose {' or '.join(map(repr, get_args(Durability)))}")
    return durability


class Log:
    """How a tree is recorded. All of it is read and changed under the tree's lock."""

    __slots__ = ("busy", "entities", "epoch", "ordinals", "replay", "sources", "strands", "sync")

    def __init__(self, sync: bool, epoch: int = 0) -> None:
        self.sync = sync
        self.epoch = epoch
        """With which epoch of the store a resumed run writes; 0: the recorder begins the log."""
        self.ordinals = Ordinals()
        self.entities: dict[str, Tracked] = {}
        """What is tracked, by name, until the run is over."""
        self.sources: dict[int, Tracked] = {}
        """What is tracked since it was the source of an event, by its id(): it lives as long as this does."""
        self.strands: WeakKeyDictionary[Scope, int] = WeakKeyDictionary()
        """The thread or task in which each run was entered."""
        self.busy: set[Base] = set()
        """The steps under way whose arguments can't be told apart."""
        self.replay: Replay | None = None
        """What a resumed run has still to repeat."""

    def let_go(self) -> None:
        """Keep nothing of the runs: they are over."""
        self.entities.clear()
        self.sources.clear()
        self.strands.clear()
        self.ordinals = Ordinals()
        self.replay = None

    def name_for(self, name: str) -> str:
        """A name for another entity of the type of that name: with a number where it is taken."""
        number = len(self.sources) + 1
        return name if name not in self.entities else f"{name}#{number}"

    @property
    def careful(self) -> bool:
        """Whether an emission must look closer than just at being recorded."""
        return self.sync or self.replay is not None


class FailedTry(NamedTuple):
    """What a step that failed had come to: taken back as a whole when it is tried again."""

    since: int
    opened: tuple[str, ...]
    steps: tuple[tuple[Base, int], ...]


class Ordinals:
    """Numbers the steps that are equal in path, name and key. One that failed gives its number to the next try."""

    def __init__(self) -> None:
        self._next: dict[str, dict[tuple[str, str], int]] = {}
        """By path, then by name and key."""
        self._free: dict[Base, dict[int, FailedTry | None]] = {}

    def take(self, base: Base) -> tuple[int, FailedTry | None]:
        """The number of another one, and what an earlier try at it had come to."""
        free = self._free.get(base)
        if free:
            ordinal = min(free)
            draft = free.pop(ordinal)
            if not free:
                del self._free[base]
            return ordinal, draft
        there = self._next.setdefault(base[0], {})
        ordinal = there.get(base[1:], 0)
        there[base[1:]] = ordinal + 1
        return ordinal, None

    def give_back(self, base: Base, ordinal: int, draft: FailedTry | None = None) -> None:
        """Have the one of that number be tried again; nothing if it was not yet given out."""
        if ordinal < self._next.get(base[0], {}).get(base[1:], 0):
            free = self._free.setdefault(base, {})
            free[ordinal] = draft or free.get(ordinal)

    def forget_in(self, path: str) -> None:
        """Forget what was given out in a step that has finished: tried again, it begins anew."""
        self._next.pop(path, None)
