"""Containing faults: a failing observer, handler or callback changes nothing for anybody else, and is named."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from crewbus.events import Envelope
from crewbus.exceptions import text_of

__all__ = ["Failure"]


@attrs.frozen
class Failure:
    """A fault that was contained: whose it was, and what it was."""

    kind: str
    """"plugin", "handler" or "callback"."""
    name: str
    """The plugin's name, or the handler's or callback's module and qualified name."""
    error: BaseException
    hook: str | None = None
    """The hook that failed, of a plugin."""
    distribution: str | None = None
    """Name and version of the distribution that the plugin came with, where it came with one."""
    envelope: Any = None
    """What was being handled, where it was an event."""

    def __str__(self) -> str:
        where = f" in {self.hook}" if self.hook else ""
        origin = f" ({self.distribution})" if self.distribution else ""
        what = f" while handling {type(self.envelope.event).__name__} {self.envelope.id}" if self.envelope else ""
        return f"{self.kind} {self.name}{origin}{where} raised {type(self.error).__name__}{what}: {text_of(self.error)}"


Report = Callable[[BaseException, Envelope | None], BaseException | None]
"""Tells of a contained fault; returns what escaped from those that were told."""


class Guard:
    """What stands around an observer's function in pluggy's registry, since pluggy stops a call at the first exception.

    The guard reports an Exception, and keeps any other BaseException until the siblings have run; without a
    ``report`` it keeps every exception. What is kept, `collecting` raises and `gathering` hands out.
    """

    def __init__(self, function: Callable[..., Any], report: Report | None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.report = report

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        gathered: Gathered | None = _local.gathered
        try:
            result = self.function(*args, **kwargs)
        except BaseException as error:
            kept: BaseException | None = error
            if self.report is not None and isinstance(error, Exception):
                kept = self.report(error, gathered.envelope if gathered is not None else None)
            if gathered is not None:
                gathered.first = gathered.first or kept
            elif kept is not None:
                raise
            return None
        if gathered is not None:
            gathered.returned += 1
        return result


class Gathered:
    """What guarded functions did in one call of a hook."""

    def __init__(self, envelope: Envelope | None) -> None:
        self.envelope = envelope
        self.first: BaseException | None = None
        """The first exception that was kept."""
        self.returned = 0
        """How many returned."""


class _Local(threading.local):
    gathered: Gathered | None = None


_local = _Local()


@contextmanager
def gathering(envelope: Envelope | None = None) -> Iterator[Gathered]:
    """Let guarded functions keep what they raise, handling ``envelope``, until all have run."""
    outer, gathered = _local.gathered, Gathered(envelope)
    _local.gathered = gathered
    try:
        yield gathered
    finally:
        _local.gathered = outer


@contextmanager
def collecting(envelope: Envelope | None = None) -> Iterator[None]:
    """Let the siblings of a guarded function run before its BaseException goes on, ahead of what a wrapper raises."""
    with gathering(envelope) as gathered:
        try:
            yield
        except Exception:
            if gathered.first is None:
                raise
    if gathered.first is not None:
        try:
            raise gathered.first
        finally:
            gathered.first = None  # or the exception, its traceback and this frame would hold each other
