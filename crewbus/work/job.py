"""Jobs: functions that were submitted, each in a thread of its own, in the context of whoever submitted it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from crewbus._util.callables import is_async, name_of
from crewbus.exceptions import TargetError
from crewbus.work.owned import trimmed

if TYPE_CHECKING:
    from concurrent.futures import Future


class Job:
    """One call of a function, whose outcome is a future's.

    It has a daemon thread of its own: jobs that wait for each other can't starve, and none keeps the process alive.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        from concurrent.futures import Future  # loaded at first use

        if not callable(function):
            raise TargetError(f"bus.submit() takes a function and its arguments; {function!r} can't be called")
        if is_async(function):
            raise TargetError(f"{name_of(function)} is async: create a task, or submit(asyncio.run, ...) it")
        self.name = name_of(function)
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()
        context = copy_context()
        self._call: Callable[[], Any] | None = lambda: context.run(function, *args, **kwargs)
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._over = threading.Event()

    def begin(self, ended: Callable[[Job], object]) -> None:
        """Start the thread, which calls ``ended`` last."""
        thread = threading.Thread(target=self._serve, args=(ended,), name=f"crewbus:{self.name}", daemon=True)
        # In a context of its own, since some builds' threads inherit the caller's and would keep it.
        Context().run(thread.start)
        self._thread = thread

    def _serve(self, ended: Callable[[Job], object]) -> None:
        self._ident = threading.get_ident()
        call = self._call
        assert call is not None
        try:
            result = call()
        except BaseException as error:
            self._call = call = None  # what the job was about goes before whoever waits goes on
            self.future.set_exception(trimmed(error))
        else:
            self._call = call = None
            self.future.set_result(result)
        finally:
            ended(self)
            self._over.set()
            del self  # or the error, its traceback, this frame and the future would hold each other

    def wait(self, timeout: float | None) -> bool:
        """Block until it is over, and its thread too; returns whether it is. Inside the job itself it does not wait."""
        if self.is_here():
            return True
        if not self._over.wait(timeout):
            return False
        if self._thread is not None:
            self._thread.join()  # it has nothing left to do but to end
        return True

    def is_here(self) -> bool:
        """Whether the caller is this very job."""
        return self._ident == threading.get_ident()

    async def wait_async(self, timeout: float | None) -> bool:
        """As `wait`, without blocking the loop."""
        import asyncio

        return await asyncio.to_thread(self.wait, timeout)
