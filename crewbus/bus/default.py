"""The process's default bus, and the functions that libraries call on the current bus."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from crewbus._util import reentrant_lock
from crewbus.bus.bus import Bus
from crewbus.bus.process import process_exit
from crewbus.events import Chunk, Envelope
from crewbus.exceptions import BusClosedError, PluginError
from crewbus.scopes import Call, Function, Run, callbacks_in_context, innermost

__all__ = ["achunk", "aemit", "call", "chunk", "current_bus", "default_bus", "drain", "emit", "run"]


class _Default:
    """The process's default bus, made at first use."""

    def __init__(self) -> None:
        self.bus: Bus | None = None
        self.options: Mapping[str, Any] = {}
        self.forked()

    def forked(self) -> None:
        """In a forked child: make a new lock; the thread that was making the bus does not exist here."""
        self.lock, self.making = reentrant_lock(), False

    def get(self) -> Bus:
        with self.lock:
            if self.bus is None or self.bus.closed:
                if process_exit.begun:
                    raise BusClosedError("the process is ending: nothing would close a new default bus")
                self.bus = self._make()
            return self.bus

    def _make(self) -> Bus:
        if self.making:  # by this thread: another one would wait for the lock
            raise PluginError(
                "the default bus is still being made, and can't be used while its plugins are imported and configured: "
                "use the bus that crewbus_configure gets, or use the default bus later"
            )
        self.making = True
        try:
            return Bus(**self.options)
        finally:
            self.making = False

    @contextmanager
    def made_with(self, **options: Any) -> Iterator[None]:
        """Make the default bus with these arguments if it is first used inside the ``with``.

        Raises `PluginError` if there are any, and the default bus exists already.
        """
        with self.lock:
            if options and self.bus is not None and not self.bus.closed:
                raise PluginError(
                    f"the default bus exists already, so {', '.join(options)} can't apply: close it first"
                )
            before, self.options = self.options, options
        try:
            yield
        finally:
            self.options = before

    @contextmanager
    def separate(self) -> Iterator[None]:
        """Hide the default bus: one that is made inside the ``with`` is closed at its end, and this one is restored."""
        before = self._replace(None)
        try:
            yield
        finally:
            made = self._replace(before)
            if made is not None:
                made.close()

    def _replace(self, bus: Bus | None) -> Bus | None:
        with self.lock:
            before, self.bus = self.bus, bus
        return before


_default: Final = _Default()
made_with: Final = _default.made_with
separate_default_bus: Final = _default.separate


def existing_default_bus() -> Bus | None:
    """The process's default bus, or None if it was not made yet. It may be closed."""
    return _default.bus


def default_bus() -> Bus:
    """The process's default bus, with the installed plugins; made at first use, and again after it was closed.

    Raises `PluginError` if one of those plugins uses it while it is being made, and `BusClosedError` at the end of the
    process, once its buses are closed.
    """
    return _default.get()


def current_bus(default: Bus | None = None) -> Bus:
    """The bus of the current run or call, else ``default``, else the default bus. For libraries."""
    here = innermost()
    return here.bus if here is not None and isinstance(here.bus, Bus) else default or default_bus()


def emit(event: Any, source: Any = None) -> Envelope | None:
    """Emit ``event`` on the current run's bus, or on the default bus. For libraries. See `Bus.emit`."""
    return current_bus().emit(event, source=source)


def chunk(text: str, kind: str = "text", source: Any = None) -> Envelope | None:
    """Emit a `Chunk` on the current run's bus, or on the default bus. For libraries."""
    return current_bus().emit(Chunk(text, kind), source=source)


def aemit(event: Any, source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
    """As `emit`, and then `drain`: so an async emitter waits for slow consumers. See `Bus.aemit`."""
    return current_bus().aemit(event, source=source)


def achunk(text: str, kind: str = "text", source: Any = None) -> Coroutine[Any, Any, Envelope | None]:
    """As `chunk`, and then `drain`: so an async emitter waits for slow consumers. See `Bus.achunk`."""
    return current_bus().achunk(text, kind, source)


def call(
    name: str,
    *,
    kind: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    input: Any = None,  # noqa: A002 - as of `Bus.call`
    callbacks: Iterable[Function] | None = (),
    inherit: bool = False,
    source: Any = None,
) -> Call:
    """A call on the bus of the current call, of `Bus.callbacks` in this context, or of the current run.

    Otherwise on the default bus. For libraries. See `Bus.call`.
    """
    here, given = innermost(), callbacks_in_context()
    bus = given[-1].bus if given and (here is None or here.call is None) else None
    return (bus if isinstance(bus, Bus) else current_bus()).call(
        name, kind=kind, attributes=attributes, input=input, callbacks=callbacks, inherit=inherit, source=source
    )


def run(name: str | None = None, *, key: str | None = None, tags: Mapping[str, str] | None = None) -> Run:
    """A run on the current run's bus, or on the default bus. For libraries. See `Bus.run`."""
    return current_bus().run(name, key=key, tags=tags)


def drain() -> Coroutine[Any, Any, None]:
    """Wait until the streams of the current run, and handlers, have room. See `Bus.drain`."""
    return current_bus().drain()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_default.forked)
