"""What processes do that the contract of a store kills. It imports no pytest, so that they start fast."""

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

__all__ = ["STEPS", "hold_until_line", "kill_self", "perform_steps", "write_and_confirm"]

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
"""Each kind of write, twice if it can meet different states."""


def perform_steps(store: Store, acknowledged: int) -> None:
    """Do so many steps, and print the number of each once it is flushed; start the next, and kill the process."""
    for number, step in enumerate(STEPS[:acknowledged]):
        step(store)
        store.flush()
        _print(f"{number}\n")
    for step in STEPS[acknowledged : acknowledged + 1]:
        step(store)
    kill_self()


def write_and_confirm(store: Store) -> None:
    """Write fifty events, and print when the store has confirmed them."""
    outcome = queue.SimpleQueue[BaseException | None]()
    write(store, "a", store.begin("a"), 0, 50)
    store.when_written("a", outcome.put)
    _print("confirmed" if outcome.get() is None else "failed")


def hold_until_line(store: Store) -> None:
    """Hold a log until a line arrives on stdin; then write to it, and print the outcome."""
    epoch = store.begin("a")
    write(store, "a", epoch, 0, 3)
    store.flush()
    _print("held\n")
    sys.stdin.readline()
    try:
        write(store, "a", epoch, 3)
        store.flush()
        _print("written\n")
    except RecordingError as error:
        _print(f"{type(error).__name__}\n")


def kill_self() -> None:
    """Kill this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
