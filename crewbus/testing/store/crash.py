"""What processes do that the contract of a store kills. It imports no pytest, so that they start fast."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from crewbus.exceptions import RecordingError
from crewbus.stores import Cap, Claim, Claimed, LogFilter, Store
from crewbus.testing.store.model import first_events, stored, write

__all__ = [
    "CAP",
    "STEPS",
    "claim_and_print",
    "create_and_post",
    "hold_until_line",
    "kill_self",
    "perform_steps",
    "work_off",
    "write_and_confirm",
]

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


def create_and_post(store: Store) -> None:
    """Create a log, and post a message to it."""
    store.create("a", first_events("a", 200, queue="x"))
    _print(f"{store.post('a', 'u', b'1', 'k')}\n")


def claim_and_print(store: Store, limit: int) -> None:
    """Claim logs, and print their ids."""
    for claimed in store.claim(Claim(limit)):
        _print(f"{claimed.root_id}\n")


CAP: Final = 1
"""How many logs of a key may be alive in `work_off`."""
PAUSE: Final = 0.2
"""Seconds after which it looks again, although nothing seems to have changed."""


def work_off(store: Store) -> None:
    """Claim logs, one at a time and two held at once, and finish them until none are left; print the id of each."""
    changed, held = threading.Event(), list[Claimed]()
    stop = store.watch(changed.set)
    claim, all_ = Claim(caps=(Cap("key", CAP),)), LogFilter(tags={"queue": "x"})
    until = time.monotonic() + PAUSE
    while True:
        changed.clear()
        for claimed in store.claim(claim):
            held.append(claimed)
            for key in "pq":
                alive = [one for one in store.find(LogFilter(tags={"key": key})) if one.info.alive]
                if len(alive) > CAP:
                    _print(f"{len(alive)} of {key} are alive\n")
        # A store may notify all the time, as one does whose server others use too.
        if len(held) > 1 or not changed.wait(PAUSE) or time.monotonic() >= until:
            until = time.monotonic() + PAUSE
            for root_id, epoch in held[:1]:
                store.append(root_id, epoch, stored(store.info(root_id).last + 1, root_id, name="crewbus.RunFinished"))
                store.finish(root_id, epoch)
                store.flush()
                _print(f"{root_id}\n")
            del held[:1]
        if not held and all(one.info.sealed for one in store.find(all_)):
            break
    stop()


def kill_self() -> None:
    """Kill this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
