"""Submitted work: a call in a thread of its own, whose outcome is a future's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from crewbus._util import is_async, name_of
from crewbus.exceptions import TargetError
from crewbus.work.owned import OwnedTask

if TYPE_CHECKING:
    from concurrent.futures import Future


def submission(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], live: set[OwnedTask]
) -> tuple[Future[Any], OwnedTask]:
    """A future and the task that resolves it. Raises `TargetError` if ``function`` can't be called in a thread."""
    from concurrent.futures import Future  # loaded at first use

    if not callable(function):
        raise TargetError(f"bus.submit() takes a function and its arguments; {function!r} can't be called")
    if is_async(function):
        raise TargetError(f"{name_of(function)} is async: create a task, or submit(asyncio.run, ...) it")
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def on_end(result: Any, error: BaseException | None) -> None:
        # The future's callbacks see no context, like those of a pool's futures.
        Context().run(_resolve, future, result, error)

    return future, OwnedTask(function, args, kwargs, live=live, on_end=on_end)


def _resolve(future: Future[Any], result: Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
