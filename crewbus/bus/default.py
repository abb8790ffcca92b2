"""The process's default bus, and what libraries call on whichever bus is in scope."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from crewbus.bus.bus import Bus
from crewbus.events import Chunk, Envelope
from crewbus.exceptions import PluginError
from crewbus.scopes import Call, Function, Run, callbacks_in_context, scope_var

__all__ = ["call", "chunk", "current_bus", "default_bus", "drain", "emit", "run"]


class _Default:
    """The process's default bus, made at first use."""

    def __init__(self) -> None:
        self.bus: Bus | None = None
        self.options: Mapping[str, Any] = {}
        self.forked()

    def forked(self) -> None:
        """In a forked child: take a new lock; whoever was making the bus makes none here."""
        self.lock, self.making = threading.RLock(), False

    def get(self) -> Bus:
        with self.lock:
            if self.bus is None or self.bus.closed:
                self.bus = self._make()
            return self.bus

    def _make(self) -> Bus:
        if self.making:  # by this very thread: another one would wait for the lock
            raise PluginError(
                "the default bus is just being made, and is not there while its plugins are imported and configured: "
                "use the bus that crewbus_configure is given, or ask for it later"
            )
        self.making = True
        try:
            return Bus(**self.options)
        finally:
            self.making = False

    @contextmanager
    def made_with(self, **options: Any) -> Iterator[None]:
        """Have the default bus be made with these arguments, if it is made meanwhile.

        Raises `PluginError` where there are any, and the bus is there already.
        """
        with self.lock:
            if options and self.bus is not None and not self.bus.closed:
                raise PluginError(
                    f"the default bus is there already, too early for {', '.join(options)}: close it first"
                )
            before, self.options = self.options, options
        try:
            yield
        finally:
            self.options = before

    @contextmanager
    def separate(self) -> Iterator[None]:
        """Have no default bus at first: one that is made meanwhile is closed afterwards, and this one is back."""
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
    """The process's default bus, if it was made already; it may be closed."""
    return _default.bus


def default_bus() -> Bus:
    """The process's default bus, with the plugins that are installed; made at first use, and anew once closed.

    Raises `PluginError` where one of those plugins asks for it while it is being made.
    """
    return _default.get()


def current_bus(default: Bus | None = None) -> Bus:
    """The bus of the current run or call, else ``default``, else the default bus: where a library emits."""
    here = scope_var.get()
    return here.bus if here is not None and isinstance(here.bus, Bus) else default or default_bus()


def emit(event: Any, source: Any = None) -> Envelope | None:
    """Emit ``event`` on the bus of the run in scope, or else on the default bus: for libraries. See `Bus.emit`."""
    return current_bus().emit(event, source=source)


def chunk(text: str, kind: str = "text", source: Any = None) -> Envelope | None:
    """Emit a `Chunk` on the bus of the run in scope, or else on the default bus: for libraries."""
    return current_bus().emit(Chunk(text, kind), source=source)


def call(name: str, *, callbacks: Iterable[Function] | None = (), inherit: bool = False, source: Any = None) -> Call:
    """A call on the bus of the call in scope, of the callbacks given here, or of the run in scope, or on the default.

    For libraries. See `Bus.call`.
    """
    here, given = scope_var.get(), callbacks_in_context()
    bus = given[-1].bus if given and (here is None or here.call is None) else None
    return (bus if isinstance(bus, Bus) else current_bus()).call(
        name, callbacks=callbacks, inherit=inherit, source=source
    )


def run(name: str | None = None, *, tags: Mapping[str, str] | None = None) -> Run:
    """A run on the bus of the run in scope, or else on the default bus: for libraries. See `Bus.run`."""
    return current_bus().run(name, tags=tags)


async def drain() -> None:
    """Wait until the streams of the run in scope have room: where an async producer feels its consumers."""
    await current_bus().drain()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_default.forked)
