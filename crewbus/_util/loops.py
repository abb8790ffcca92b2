"""Event loops: the running one, and calls from other threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from crewbus._util.daemon import start_daemon
from crewbus._util.errors import raise_first

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None. Does not load asyncio."""
    events = sys.modules.get("asyncio.events")
    return events._get_running_loop() if events is not None else None


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Schedule ``call`` on ``loop``, from any thread. Does nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


async def in_thread(call: Callable[[], object]) -> None:
    """Make ``call`` in a thread of its own, without blocking the loop; in this one if no thread can start.

    Unlike `in_worker` it does not wait for the end of the call if it is cancelled.
    """
    import asyncio  # loaded: this runs on a loop

    loop, errors = asyncio.get_running_loop(), list[BaseException]()
    done = loop.create_future()

    def make() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
        call_on(loop, partial(settle, done))

    try:
        start_daemon("crewbus-call", copy_context().run, make)
    except RuntimeError:  # the system has no thread left, or the interpreter is ending
        make()
    await done
    raise_first(errors)


def settle(future: asyncio.Future[None]) -> None:
    """Complete ``future`` unless it is done; called on its loop."""
    if not future.done():
        future.set_result(None)


async def in_worker(call: Callable[[], T], undo: Callable[[T], Any] | None = None) -> T:
    """Make a call that may block in a worker thread, in a copy of this context, while the event loop goes on.

    The call is over when this returns or raises, even if it is cancelled: nothing happens later. If it is cancelled,
    ``undo`` gets the result that the caller will not get, in a worker thread too.
    """
    import asyncio

    try:
        future = asyncio.get_running_loop().run_in_executor(None, copy_context().run, call)
    except RuntimeError:  # no thread can be started any more: the interpreter is exiting
        return call()
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    try:
        if undo is not None and not future.cancelled() and future.exception() is None:
            with suppress(asyncio.CancelledError):
                await in_worker(partial(undo, future.result()))
        raise cancelled
    finally:
        cancelled = None  # break the exception/traceback/frame reference cycle


def awaitable(
    method: Callable[Concatenate[S, P], T], undo: Callable[[T], Any] | None = None
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The form of a method that may block for an event loop: see `in_worker`."""

    @wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_worker(partial(method, self, *args, **kwargs), undo)

    call.__name__ = f"a{method.__name__}"
    call.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{call.__name__}"
    call.__doc__ = f"As `{method.__name__}`, without blocking the event loop."
    return call
