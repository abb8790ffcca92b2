"""What the processes do that a store's contract kills: imports no pytest, so that they start fast."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Callable
from typing import Final

from crewbus.exceptions import RecordingError
from crewbus.stores import Store
from crewbus.testing.store.model import write

__all__ = ["STEPS", "die", "hear", "hold", "perform"]

Step = Callable[[Store], object]

STEPS: Final[tuple[Step, ...]] = (
    lambda store: store.begin("a"),
    lambda store: write(store, "a", 1, 0, 5),
    lambda store: write(store, "a", 1, 5),
    lambda store: store.begin("b"),
    lambda store: write(store, "b", 1, 0, 300),
    lambda store: store.finish("a", 1),
    lambda store: store.fork("a", 3, "c"),
    lambda store: store.acquire("c"),
    lambda store: write(store, "c", 1, 4, 6),
    lambda store: store.release("c", 1),
    lambda store: store.acquire("a"),
    lambda store: write(store, "a", 2, 6, 4),
    lambda store: store.fork("c", 7, "d"),
    lambda store: store.drop("d"),
    lambda store: store.finish("b", 1),
    lambda store: store.drop("b"),
    lambda store: store.finish("a", 2),
)
"""One of each kind of write, twice where the second meets another state."""


def perform(store: Store, acknowledged: int) -> None:
    """Do so many steps, flush after each and say so; begin the next and be killed."""
    for number, step in enumerate(STEPS[:acknowledged]):
        step(store)
        store.flush()
        _say(f"{number}\n")
    for step in STEPS[acknowledged : acknowledged + 1]:
        step(store)
    die()


def hear(store: Store) -> None:
    """Write fifty events, and say when they are told to be written."""
    told = queue.SimpleQueue[BaseException | None]()
    write(store, "a", store.begin("a"), 0, 50)
    store.when_written("a", told.put)
    _say("heard" if told.get() is None else "failed")


def hold(store: Store) -> None:
    """Hold a log, say so, wait for a line, write on and say how that ended."""
    epoch = store.begin("a")
    write(store, "a", epoch, 0, 3)
    store.flush()
    _say("held\n")
    sys.stdin.readline()
    try:
        write(store, "a", epoch, 3)
        store.flush()
        _say("written\n")
    except RecordingError as error:
        _say(f"{type(error).__name__}\n")


def die() -> None:
    """Be killed, at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
