"""What a test leaves behind: threads, tasks, buses, runs, streams, and what still refers to what happened in it."""

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
from crewbus._util.deadlines import deadline, remaining
from crewbus.bus.bus import live_buses
from crewbus.bus.default import existing_default_bus
from crewbus.streams.buffer import Buffer
from crewbus.testing.leaks.heap import frames_from, live, reachable
from crewbus.testing.leaks.holders import Holders

PATIENCE: Final = 2.0
"""Seconds that threads and tasks which are about to end may take to."""
_BRIEFLY: Final = 0.1
"""Seconds that references which somebody is about to let go of may take to go."""
_POLL: Final = 0.02
_SHOWN: Final = 3
"""How many of a kind are told of one by one."""
_POOL: Final = re.compile(r"asyncio_\d+")
"""The names of the threads of an event loop's own pool, which end with the loop."""
_IDLE: Final = "_worker"
"""The function in which a thread of a pool waits for work."""
_STDLIB: Final = sysconfig.get_path("stdlib")


@attrs.frozen
class Remains:
    """What is there at one moment, of all that a test may leave behind."""

    threads: list[threading.Thread]
    tasks: list[asyncio.Task[Any]]
    buses: list[Bus]
    runs: list[Run]
    streams: list[Stream]
    envelopes: list[Envelope]

    @classmethod
    def of_now(cls) -> Remains:
        """What is there now."""
        found = live(asyncio.Task, Bus, Run, Stream, Envelope)
        tasks = [task for task in found[asyncio.Task] if not task.done()]
        threads = [thread for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
        return cls(threads, tasks, found[Bus], found[Run], found[Stream], found[Envelope])

    def without(self, known: set[int]) -> Remains:
        """This, but for the things of these ids."""
        kinds = attrs.astuple(self, recurse=False)
        return Remains(*[[thing for thing in things if id(thing) not in known] for things in kinds])

    @property
    def may_be_leaks(self) -> bool:
        """Whether there is more than buses that are closed."""
        open_buses = [bus for bus in self.buses if not bus.closed]
        return any(attrs.astuple(attrs.evolve(self, buses=open_buses), recurse=False))

    def ids(self) -> set[int]:
        """The ids of all of it."""
        return {id(thing) for things in attrs.astuple(self, recurse=False) for thing in things}


class Look(NamedTuple):
    """What a look has shown. It holds nothing of what it saw, or the next one would see it again."""

    lines: list[str]
    moves: bool
    """Whether something may be about to go by itself."""


class LeakCheck:
    """Tells what is there that was not there when it was made: the fixture `no_leaks`."""

    def __init__(self) -> None:
        self._allowed: list[Any] = []
        self._default = existing_default_bus()
        self._before = Remains.of_now()  # held, so that nothing new takes the place of what is gone

    def allow(self, *things: Any) -> None:
        """Have these be no leaks, nor the runs, streams and envelopes that they hold."""
        self._allowed += things

    def leaks(self, *held: Any) -> list[str]:
        """What was left behind, each in a line; what can be reached from ``held`` may live.

        What is about to end by itself, such as a thread that has nothing left to do, has ``PATIENCE`` seconds to.
        """
        self._close_default_bus()
        for bus in self._new().buses:
            if bus.closed:
                _let_handlers_go(bus)
        until, soon = deadline(PATIENCE), deadline(_BRIEFLY)
        while (look := self._look(held)).lines and remaining(until if look.moves else soon):
            threading.Event().wait(_POLL)
        return look.lines

    def _look(self, held: Sequence[Any]) -> Look:
        gc.collect()
        found = self._found()
        return Look(list(_told(found, held, self._allowed)), _moves(found))

    def _close_default_bus(self) -> None:
        """Close the process's default bus, if it was made since: that is nobody's task."""
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
        yield id(bus._tasks._thread)
        yield from (id(worker._thread) for worker in bus._workers())
    running = sys._current_frames()
    for thread in threading.enumerate():
        frame = running.get(thread.ident or 0)
        if _POOL.fullmatch(thread.name) and frame is not None and frame.f_code.co_name == _IDLE:
            yield id(thread)


def _held_by_fixtures() -> set[int]:
    """The ids of what fixtures hold that are not torn down; what others gave a bus or loop of theirs is not theirs."""
    pytests = (pytest.Collector, pytest.Config, pytest.FixtureRequest, pytest.Item)
    return reachable(live(pytest.FixtureDef)[pytest.FixtureDef], stop=(Bus, asyncio.AbstractEventLoop, *pytests))


def _let_handlers_go(bus: Bus) -> None:
    """Have a closed bus, which calls nobody any more, hold none of those that it called."""
    bus._subscriptions, bus._retired = (), []
    bus._forget_plans()


def _moves(found: Remains) -> bool:
    """Whether something of it, or what a handler was given, may be about to go by itself."""
    on_loops = any(task.get_loop().is_running() for task in found.tasks)
    return bool(found.threads) or on_loops or any(bus._tasks.owe() for bus in list(live_buses))


# What is said of it


def _told(found: Remains, held: Sequence[Any], allowed: list[Any]) -> Iterator[str]:
    if not found.may_be_leaks:
        return
    buses = [bus for bus in found.buses if not bus.closed]
    running = [run for run in found.runs if run.state == "running"]
    registered = [stream for stream in found.streams if _is_registered(stream)]
    said = [*found.threads, *found.tasks, *buses, *running, *registered]
    holders = Holders(*attrs.astuple(found, recurse=False), *held, allowed, said)
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
    yield from _references(found, said, held, allowed, holders)


def _references(
    found: Remains, said: list[Any], held: Sequence[Any], allowed: list[Any], holders: Holders
) -> Iterator[str]:
    """What is there of runs that are over, though nobody needs it any more."""
    excepted = reachable(allowed) | {id(thing) for thing in said}
    kept = [thing for thing in (*found.streams, *found.runs, *found.envelopes) if id(thing) not in excepted]
    if not kept:
        return
    for name, plugin in [pair for bus in found.buses if bus.closed for pair in bus.plugins.list_name_plugin()]:
        inside = reachable([plugin], stop=(Bus,))
        theirs = _outermost([thing for thing in kept if id(thing) in inside])
        yield from _few(theirs, f"is still held by the plugin {name!r}", partial(_place_in, holders, plugin))
    others = reachable([*said, *_frames_of(found.threads), *held, *_pytests()])
    rest = _outermost([thing for thing in kept if id(thing) not in others])
    yield from _few(rest, "is still there", partial(_holder_of, holders))


def _outermost(things: list[Any]) -> list[Any]:
    """Those of them that no stream or run holds which stands before them."""
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
    """What pytest keeps of a test: its fixtures, what was logged, what is patched until a fixture undoes it."""
    found = live(pytest.FixtureDef, pytest.MonkeyPatch, logging.LogRecord)
    patched = [thing for patch in found[pytest.MonkeyPatch] for thing in _patched(patch)]
    return [*found[pytest.FixtureDef], *found[logging.LogRecord], *patched]


def _patched(patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What stands in its place: that it knows where, and does not hold."""
    yield from (inspect.getattr_static(target, name, None) for target, name, _ in getattr(patch, "_setattr", ()))
    yield from (items.get(key) for items, key, _ in getattr(patch, "_setitem", ()))


def _few(things: list[Any], what: str, more: Callable[[Any], str]) -> Iterator[str]:
    """A line for each of the first, and one for the rest."""
    for thing in things[:_SHOWN]:
        yield f"{_name_of(thing)} {what}{more(thing)}"
    rest = Counter(type(thing).__name__ for thing in things[_SHOWN:])
    if rest:
        yield f"and {', '.join(f'{count} x {name}' for name, count in rest.items())} more"


def _is_registered(stream: Stream) -> bool:
    """Whether a bus that is open would still give it frames."""
    buffer = stream.source
    if not isinstance(buffer, Buffer) or buffer.closed or buffer.ended:
        return False
    awaited = (ref() for bus in list(live_buses) for ref in list(bus._awaited.get(buffer.run_id, ())))
    return buffer.run is not None or any(waiting is buffer for waiting in awaited)


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
    """Where a thread is: in the innermost function that is none of the standard library's."""
    stack = list(frames_from(sys._current_frames().get(thread.ident or 0)))
    for frame in [frame for frame in stack if not _is_stdlib(frame.f_code.co_filename)] or stack[:1]:
        return f", in {frame.f_code.co_qualname}() at {frame.f_code.co_filename}:{frame.f_lineno}"
    return ""


def _is_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and "site-packages" not in file


def _coroutine_of(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or repr(coroutine)
