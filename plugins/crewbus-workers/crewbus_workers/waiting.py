"""Waiting in a recorded run: for a time, and for messages. A long wait in a queued run occupies no process."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import crewbus
from crewbus import InputError, RunError
from crewbus_workers.checks import is_seconds
from crewbus_workers.errors import MessageTimeoutError
from crewbus_workers.events import WORKFLOW_TAG
from crewbus_workers.messages import Message, checked_channel, next_message
from crewbus_workers.wakeup import Wakeup

if TYPE_CHECKING:
    from crewbus import Run

__all__ = ["areceive", "asleep", "receive", "sleep"]

HELD: Final = 5.0
"""For how many seconds a wait stays in the process: one that is longer suspends a queued run."""
LOOK: Final = 0.5
"""How many seconds pass at most until a wait looks whether it was cancelled, or a message came unnoticed."""
_SLEEP: Final = "crewbus_workers.sleep"
_RECEIVE: Final = "crewbus_workers.receive"
_DEADLINE: Final = "crewbus_workers.deadline"


# Sleeping


def sleep(seconds: float) -> None:
    """Wait, in a recorded run until a time that is recorded: after a resume, only what is left of it.

    Above five seconds a queued run is suspended, and a worker resumes it when it is due. Outside a recorded run it
    just waits. Raises `InputError`, and what stops the run. On an event loop: ``await asleep(seconds)``.
    """
    _check_seconds(seconds)
    run = _recorded_run()
    if run is None:
        time.sleep(seconds)
        return
    until = run.step(_SLEEP, _time_after, seconds)
    _suspend_if_long(run, "sleeping", until)
    never = threading.Event()
    while (rest := until - time.time()) > 0:
        never.wait(min(rest, LOOK))
        run.check()


async def asleep(seconds: float) -> None:
    """As `sleep`, without blocking the loop."""
    _check_seconds(seconds)
    run = _recorded_run()
    if run is None:
        await asyncio.sleep(seconds)
        return
    until = await run.step(_SLEEP, _atime_after, seconds)
    _suspend_if_long(run, "sleeping", until)
    await asyncio.sleep(max(0.0, until - time.time()))


def _check_seconds(seconds: Any) -> None:
    if not is_seconds(seconds):
        raise InputError(f"a wait lasts a number of seconds; got {seconds!r}")


def _time_after(seconds: float) -> float:
    return time.time() + seconds


async def _atime_after(seconds: float) -> float:
    return time.time() + seconds


# Receiving


def receive(channel: str, timeout: float | None = None) -> Any:
    """Wait for the next message on ``channel`` to this run, and return its payload.

    Messages on a channel are consumed in the order in which they were sent, each once, wherever the run is resumed.
    After five seconds a queued run is suspended, and a worker resumes it when a message comes or ``timeout``
    seconds have passed since the first call. Raises `MessageTimeoutError` then, `RunError` outside a recorded run,
    `InputError`, and what stops the run. On an event loop: ``await areceive(channel)``.
    """
    run = _receiving_run(channel, timeout)
    deadline = math.inf if timeout is None else run.step(_DEADLINE, _time_after, timeout, key=channel)
    return _payload(run, channel, timeout, run.step(_RECEIVE, _wait_for_message, run, channel, deadline, key=channel))


async def areceive(channel: str, timeout: float | None = None) -> Any:
    """As `receive`, without blocking the loop."""
    run = _receiving_run(channel, timeout)
    deadline = math.inf if timeout is None else await run.step(_DEADLINE, _atime_after, timeout, key=channel)
    found = await run.step(_RECEIVE, _await_message, run, channel, deadline, key=channel)
    return _payload(run, channel, timeout, found)


def _receiving_run(channel: str, timeout: float | None) -> Run:
    checked_channel(channel)
    if timeout is not None:
        _check_seconds(timeout)
    run = _recorded_run()
    if run is None:
        raise RunError(f"receive({channel!r}) is called in a recorded run, to which messages are sent; none is current")
    return run


def _payload(run: Run, channel: str, timeout: float | None, found: list[Any] | None) -> Any:
    if found is None:
        raise MessageTimeoutError(f"run {run.root.id}: no message came on channel {channel!r} in {timeout} s")
    message = Message(*found)
    _consumed(run)[channel] = message.number
    return run.bus.recording.read((message.data, message.type, message.version), Any)


def _wait_for_message(run: Run, channel: str, deadline: float) -> list[Any] | None:
    changed = threading.Event()
    unwatch = run.bus.store.watch_log(run.root.id, changed.set)
    begun = time.monotonic()
    try:
        while (found := _look(run, channel)) is None and (rest := _rest(run, channel, deadline, begun)) > 0:
            changed.wait(min(rest, LOOK))
            changed.clear()
            run.check()
    finally:
        unwatch()
    return found


async def _await_message(run: Run, channel: str, deadline: float) -> list[Any] | None:
    changed = Wakeup()
    unwatch = await asyncio.to_thread(run.bus.store.watch_log, run.root.id, changed.set)
    begun = time.monotonic()
    try:
        while (found := await asyncio.to_thread(_look, run, channel)) is None and (
            rest := _rest(run, channel, deadline, begun)
        ) > 0:
            await changed.wait(min(rest, LOOK))
            changed.clear()
    finally:
        unwatch()
    return found


def _look(run: Run, channel: str) -> list[Any] | None:
    """The next message, as a JSON value, which a step can record; None: none has come yet."""
    posted = run.bus.store.posted(run.root.id, _consumed(run).get(channel, -1))
    found = next_message(posted, channel)
    return list(found) if found is not None else None


def _rest(run: Run, channel: str, deadline: float, begun: float) -> float:
    """How many seconds the wait may still last here; suspends a queued run that has waited long."""
    rest = deadline - time.time()
    if rest > 0 and time.monotonic() - begun >= HELD:
        _suspend_if_long(run, f"waiting for a message on channel {channel!r}", deadline, waited=True)
    return rest


# Runs


_numbers: Final[WeakKeyDictionary[Run, dict[str, int]]] = WeakKeyDictionary()
"""By root run and channel, the number of the last message that was consumed, in this process or before the resume."""
_lock: Final = crewbus.reentrant_lock()


def _consumed(run: Run) -> dict[str, int]:
    with _lock:
        return _numbers.setdefault(run.root, {})


def _recorded_run() -> Run | None:
    run = crewbus.current_run()
    return run if run is not None and run.recorded and not run.ended else None


def _suspend_if_long(run: Run, reason: str, until: float, *, waited: bool = False) -> None:
    """Suspend a queued run whose wait is long: that raises `Suspended`. Others, which no worker resumes, wait here."""
    if WORKFLOW_TAG in run.root.tags and (waited or until - time.time() > HELD):
        run.root.suspend(reason, until=until)
        run.check()
