"""Finds what a test leaves behind: threads, tasks, buses, runs, streams, and references to its runs and events."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import re
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import attrs
import pytest

from crewbus import Bus, Envelope, Run, Stream
from crewbus._util import deadline, remaining
from crewbus.bus import existing_default_bus, live_buses
from crewbus.streams import Buffer
from crewbus.testing.leaks.heap import frames_from, live, reachable
from crewbus.testing.leaks.holders import Holders

PATIENCE: Final = 2.0
"""Seconds that threads and tasks may take to end."""
_BRIEFLY: Final = 0.1
"""Seconds that references may take to disappear."""
_POLL: Final = 0.02
_SHOWN: Final = 3
"""How many objects of a kind have a line of their own."""
_POOL: Final = re.compile(r"asyncio_\d+")
"""The names of threads in an event loop's default pool, which end with the loop."""
_IDLE: Final = "_worker"
"""The function in which an idle thread of a pool waits."""
_STDLIB: Final = sysconfig.get_path("stdlib")


@attrs.frozen
class Remains:
    """The objects that a test may leave behind, at one moment."""

    threads: list[threading.Thread]
    tasks: list[asyncio.Task[Any]]
    buses: list[Bus]
    runs: list[Run]
    streams: list[Stream]
    envelopes: list[Envelope]

    @classmethod
    def of_now(cls) -> Remains:
        """The objects of this moment."""
        found = live(asyncio.Task, Bus, Run, Stream, Envelope)
        tasks = [task for task in found[asyncio.Task] if not task.done()]
        threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
        return cls(threads, tasks, found[Bus], found[Run], found[Stream], found[Envelope])

    def without(self, known: set[int]) -> Remains:
        """These objects, except those with the given ids."""
        kinds = attrs.astuple(self, recurse=False)
        return Remains(*[[thing for thing in things if id(thing) not in known] for things in kinds])

    @property
    def may_be_leaks(self) -> bool:
        """Whether anything but closed buses is left."""
        open_buses = [bus for bus in self.buses if not bus.closed]
        return any(attrs.astuple(attrs.evolve(self, buses=open_buses), recurse=False))

    def ids(self) -> set[int]:
        """The ids of all objects."""
        return {id(thing) for things in attrs.astuple(self, recurse=False) for thing in things}


class Look(NamedTuple):
    """The result of one look. It holds none of the objects, which the next look would find again."""

    lines: list[str]
    moves: bool
    """Whether something may still end by itself."""


class LeakCheck:
    """Finds objects that did not exist when it was made: the fixture `no_leaks`."""

    def __init__(self) -> None:
        self._allowed: list[Any] = []
        self._default = existing_default_bus()
        self._before = Remains.of_now()  # held, so that no id is reused

    def allow(self, *things: Any) -> None:
        """Permit these, and the runs, streams and envelopes that they hold."""
        self._allowed += things

    def leaks(self, *held: Any) -> list[str]:
        """A line for each object that was left behind; objects reachable from ``held`` may stay.

        Threads and tasks that are about to end have ``PATIENCE`` seconds for it.
        """
        self._close_default_bus()
        until, soon = deadline(PATIENCE), deadline(_BRIEFLY)
        while (look := self._look(held)).lines and remaining(until if look.moves else soon):
            threading.Event().wait(_POLL)
        return look.lines

    def _look(self, held: Sequence[Any]) -> Look:
        gc.collect()
        found = self._found()
        return Look(list(_lines_of(found, held, self._allowed)), _moves(found))

    def _close_default_bus(self) -> None:
        """Close the process's default bus if the test made it: no test has to."""
        made = existing_default_bus()
        if made is not None and made is not self._default:
            made.close()

    def _found(self) -> Remains:
        found = self._new()
        return found.without(_held_by_fixtures()) if found.may_be_leaks else found

    def _new(self) -> Remains:
        excepted = {id(thing) for thing in self._allowed} | set(_serving_threads())
        return Remains.of_now().without(self._before.ids() | excepted)


def _serving_threads() -> Iterator[int]:
    """The ids of the threads that open buses and loops keep, which end once they are idle, or with the bus or loop."""
    for bus in list(live_buses):
        yield from map(id, bus.lifecycle.threads())
    running = sys._current_frames()
    for thread in threading.enumerate():
        frame = running.get(thread.ident or 0)
        if _POOL.fullmatch(thread.name) and frame is not None and frame.f_code.co_name == _IDLE:
            yield id(thread)


def _held_by_fixtures() -> set[int]:
    """The ids of objects that live fixtures hold, except through a bus or loop, to which others add objects."""
    pytests = (pytest.Collector, pytest.Config, pytest.FixtureRequest, pytest.Item)
    return reachable(live(pytest.FixtureDef)[pytest.FixtureDef], stop=(Bus, asyncio.AbstractEventLoop, *pytests))


def _moves(found: Remains) -> bool:
    """Whether something of it, or what a handler was given, may be about to go by itself."""
    on_loops = any(task.get_loop().is_running() for task in found.tasks)
    return bool(found.threads) or on_loops or any(bus.lifecycle.has_pending() for bus in list(live_buses))


# The lines


def _lines_of(found: Remains, held: Sequence[Any], allowed: list[Any]) -> Iterator[str]:
    if not found.may_be_leaks:
        return
    buses = [bus for bus in found.buses if not bus.closed]
    running = [run for run in found.runs if run.state == "running"]
    registered = [stream for stream in found.streams if _is_registered(stream)]
    reported = [*found.threads, *found.tasks, *buses, *running, *registered]
    holders = Holders(*attrs.astuple(found, recurse=False), *held, allowed, reported)
    for thread in found.threads:
        yield f"thread {thread.name!r} is alive{_place_of(thread)}: let it end, and join it"
    for task in found.tasks:
        yield f"task {task.get_name()!r} ({_coroutine_of(task)}) is pending: await it, or cancel it and await that"
    for bus in buses:
        yield f"{bus!r} is open: close it, or leave its 'with'"
    for run in running:
        yield f"{_name_of(run)} never ended: leave its 'with', or call finish()"
    for stream in registered:
        yield f"{_name_of(stream)} is still registered: read it to its end, or close it{_holder_of(holders, stream)}"
    yield from _references(found, reported, held, allowed, holders)


def _references(
    found: Remains, reported: list[Any], held: Sequence[Any], allowed: list[Any], holders: Holders
) -> Iterator[str]:
    """Lines for the objects of finished runs that something still holds."""
    excepted = reachable(allowed) | {id(thing) for thing in reported}
    kept = [thing for thing in (*found.streams, *found.runs, *found.envelopes) if id(thing) not in excepted]
    if not kept:
        return
    for name, plugin in [pair for bus in found.buses if bus.closed for pair in bus.plugins.list_name_plugin()]:
        inside = reachable([plugin], stop=(Bus,))
        theirs = _outermost([thing for thing in kept if id(thing) in inside])
        yield from _few(theirs, f"is still held by the plugin {name!r}", partial(_place_in, holders, plugin))
    others = reachable([*reported, *_frames_of(found.threads), *held, *_pytests()])
    rest = _outermost([thing for thing in kept if id(thing) not in others])
    yield from _few(rest, "is still there", partial(_holder_of, holders))


def _outermost(things: list[Any]) -> list[Any]:
    """The objects that are not held by a stream or run earlier in the list."""
    inside, found = set[int](), []
    for thing in things:
        if id(thing) not in inside:
            found.append(thing)
            if not isinstance(thing, Envelope):
                inside |= reachable([thing], stop=(Bus,))
    return found


def _frames_of(threads: list[threading.Thread]) -> list[Any]:
    running = sys._current_frames()
    return [frame for thread in threads for frame in frames_from(running.get(thread.ident or 0))]


def _pytests() -> list[Any]:
    """What pytest keeps of a test: its fixtures, log records, and objects that monkeypatch put in place."""
    found = live(pytest.FixtureDef, pytest.MonkeyPatch, logging.LogRecord)
    patched = [thing for patch in found[pytest.MonkeyPatch] for thing in _patched(patch)]
    return [*found[pytest.FixtureDef], *found[logging.LogRecord], *patched]


def _patched(patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The objects that a monkeypatch put in place.

    MonkeyPatch has no public list of its patches, so this reads the private ones.
    """
    yield from (inspect.getattr_static(target, name, None) for target, name, _ in getattr(patch, "_setattr", ()))
    yield from (items.get(key) for items, key, _ in getattr(patch, "_setitem", ()))


def _few(things: list[Any], what: str, more: Callable[[Any], str]) -> Iterator[str]:
    """A line for each of the first objects, and one for the rest."""
    for thing in things[:_SHOWN]:
        yield f"{_name_of(thing)} {what}{more(thing)}"
    rest = Counter(type(thing).__name__ for thing in things[_SHOWN:])
    if rest:
        yield f"and {', '.join(f'{count} x {name}' for name, count in rest.items())} more"


def _is_registered(stream: Stream) -> bool:
    """Whether an open bus would still deliver frames to it."""
    buffer = stream.source
    if not isinstance(buffer, Buffer) or buffer.closed or buffer.ended:
        return False
    return buffer.run is not None or any(bus.lifecycle.is_watching(buffer) for bus in list(live_buses))


def _name_of(thing: Any) -> str:
    if isinstance(thing, Run):
        return f"run {thing.id}" + (f" ({thing.name})" if thing.name else "")
    if isinstance(thing, Envelope):
        return f"envelope {thing.id} of {type(thing.event).__qualname__}"
    return repr(thing)


def _holder_of(holders: Holders, thing: Any) -> str:
    holder = holders.of(thing)
    return f", held by {holder}" if holder is not None else ", and its holder was not found"


def _place_in(holders: Holders, plugin: Any, thing: Any) -> str:
    place = holders.of(thing, plugin)
    return f": {place}" if place is not None else ""


def _place_of(thread: threading.Thread) -> str:
    """Where a thread is: the innermost function outside the standard library."""
    stack = list(frames_from(sys._current_frames().get(thread.ident or 0)))
    for frame in [frame for frame in stack if not _is_stdlib(frame.f_code.co_filename)] or stack[:1]:
        return f", in {frame.f_code.co_qualname}() at {frame.f_code.co_filename}:{frame.f_lineno}"
    return ""


def _is_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and "site-packages" not in file


def _coroutine_of(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or repr(coroutine)
