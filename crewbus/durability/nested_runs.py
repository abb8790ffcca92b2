"""Nested runs: what tells those in one home apart. By name and chosen id, by name and key, else by their order."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from crewbus.exceptions import StepError
from crewbus.scopes import Run, Scope
from crewbus.serialization import json_writer

_write: Final = json_writer(ensure_ascii=False)


class RunKey(NamedTuple):
    """What equal runs in one home have in common."""

    name: str | None
    id: str | None
    """The id that its maker chose."""
    key: str | None


def key_of(run: Run) -> RunKey:
    """What ``run`` has in common with equal ones."""
    return RunKey(run.name, run.id if run.named else None, run.key)


class _Equals:
    """The runs in one home that have one key."""

    __slots__ = ("_limit", "live", "started")

    def __init__(self) -> None:
        self.started = 0
        self.live: list[ref[Run]] = []
        """Those that may be in progress. If there are several, all of them are ambiguous."""
        self._limit = 8

    def add(self, run: Run) -> Run | None:
        """Take one more that starts; returns one that is in progress, if there is one."""
        while self.live and _is_over(self.live[-1]()):
            self.live.pop()
        other = self.live[-1]() if self.live else None
        if len(self.live) > self._limit:
            self.live = [one for one in self.live if not _is_over(one())]
            self._limit = max(8, 2 * len(self.live))
        self.live.append(ref(run))
        self.started += 1
        return other


class NestedRuns:
    """Tells the nested runs of a tree apart. Used under the lock of the tree."""

    def __init__(self) -> None:
        self._homes: WeakKeyDictionary[Scope, dict[RunKey, _Equals]] = WeakKeyDictionary()
        self._orders: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._paths: WeakKeyDictionary[Run, str] = WeakKeyDictionary()
        self._ambiguous: WeakSet[Run] = WeakSet()

    def start(self, run: Run) -> None:
        """Give ``run``, which starts, its order among equals. If an equal one is in progress, both are ambiguous."""
        if run.around is None or run.named:
            return
        equals = self._homes.setdefault(run.around, {}).setdefault(key_of(run), _Equals())
        self._orders[run] = equals.started
        other = equals.add(run)
        if other is not None:
            self._ambiguous.update((run, other))
            self._paths.clear()  # so that those of the runs in them are asked for again

    def begin_try(self, step: Scope) -> None:
        """Count the runs in a step anew, which is tried again."""
        self._homes.pop(step, None)

    def order_of(self, run: Run) -> int:
        """How many equal runs had started in its home before this one."""
        return self._orders.get(run, 0)

    def path_of(self, run: Run) -> str:
        """A digest of where a run is: of the homes around it, and of what tells it apart there; "" for a root run.

        Each is made once. Raises `StepError` for an ambiguous run.
        """
        missing: list[Run] = []
        home: Any = run
        while isinstance(home, Run) and home.around is not None and home not in self._paths:
            if home in self._ambiguous:
                raise _ambiguous(home)
            missing.append(home)
            home = home.around
        path: str = self._paths.get(home, "") if isinstance(home, Run) else home.path  # of a step
        for inner in reversed(missing):
            path = self._paths[inner] = digest([path, *key_of(inner), self.order_of(inner)])
        return path


def _is_over(run: Run | None) -> bool:
    return run is None or (run.ended and run.state != "new")


def _ambiguous(run: Run) -> StepError:
    described = f"run {run.name!r}" if run.name else f"run {run.id}, which has no name,"
    keyed = f" and key {run.key!r}" if run.key else ""
    return StepError(
        f"{described} ran at the same time as another of its name{keyed} in the same place: a resumed run could not "
        "distinguish their steps. Give each a key that is the same after a resume: bus.run(..., key=...)"
    )


def digest(parts: list[Any]) -> str:
    """A digest of a JSON value: 24 hex digits, the same in every process."""
    return blake2b(_write(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
