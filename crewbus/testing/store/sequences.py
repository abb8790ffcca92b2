"""The contract of a store: whatever is called in whatever order, it answers as the model does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from crewbus.stores import LANDMARKS, Store
from crewbus.testing.store.case import PATIENCE, StoreCase
from crewbus.testing.store.model import Model, album, write

Call = tuple[str, Any]
SEEDS = 12
CALLS = 60
NAMES = "abcdef"


def _next_call(model: Model, chance: random.Random) -> Call:
    """A method and its arguments: mostly what makes sense as the model stands, sometimes one thing that doesn't."""
    root = chance.choice(NAMES)
    log = model.logs.get(root)
    if log is None:
        return chance.choice(
            [("begin", (root,))] * 3 + [("acquire", (root,)), ("drop", (root,)), ("fork", (root, 0, "z"))]
        )
    old = log.epoch > 1 and chance.random() < 0.2
    epoch, end = log.epoch - old, len(log.events)
    start, at = max(0, end + chance.choice([-1, 0, 0, 0, 1])), chance.randint(-1, end)
    calls: list[Call] = [("append", (root, epoch, start, chance.randint(1, 4)))] * 4
    calls += [
        ("begin", (root,)),
        ("acquire", (root,)),
        ("take", (root,)),
        ("drop", (root,)),
        ("release", (root, epoch)),
    ]
    calls += [("fork", (root, at, chance.choice(NAMES) if 0 <= at < end else "z"))]
    calls += [("finish", (root, epoch))] * (log.held or old)
    return chance.choice(calls)


def _take(store: Store, root_id: str) -> int:
    store.revoke(root_id)
    return store.acquire(root_id)


def _make(store: Store, call: Call) -> object:
    """What the call returns, or the class of what it raises, or `flush` after it."""
    name, arguments = call
    method: dict[str, Callable[..., object]] = {"append": write, "take": _take}
    try:
        outcome = method[name](store, *arguments) if name in method else getattr(store, name)(*arguments)
        store.flush(PATIENCE)
    except Exception as error:
        return type(error)
    return outcome


def _agree(expected: object, found: object) -> bool:
    if isinstance(expected, type):
        return isinstance(found, type) and issubclass(found, expected)
    return found == expected


class SequenceContract(StoreCase):
    """What holds of calls in any order."""

    @pytest.mark.parametrize("seed", range(SEEDS))
    def test_any_calls_in_any_order(self, seed: int) -> None:
        """Each call returns or raises what the model does, and leaves every log as the model has it."""
        store, model, chance = self.new(), Model(), random.Random(seed)
        made: list[Call] = []
        for _ in range(CALLS):
            made.append(call := _next_call(model, chance))
            expected, found = _make(model, call), _make(store, call)
            assert _agree(expected, found), f"{found}, where the model has {expected}: {made}"
            _compare(store, model, f"after {made}")


def _compare(store: Store, model: Model, when: str) -> None:
    expected, found = album(model), album(store)
    assert list(found) == list(expected), when
    assert found == expected, when
    for root in NAMES:
        assert store.root_of(f"{root}/nested") == model.root_of(f"{root}/nested"), when
        if root in found:
            assert list(store.landmarks(root)) == [e for e in found[root].events if e.name in LANDMARKS], when
