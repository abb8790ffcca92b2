"""What holds an object, as an expression. objgraph finds the chain of references."""

from __future__ import annotations

import gc
import re
import sys
import threading
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import objgraph

from crewbus.testing.leaks.heap import frames_from, is_globals

_DEEP: Final = 20
"""How many references a chain may have."""
_MOST: Final = 500
"""How many objects a search looks at; each takes a pass over the heap."""
_DICT: Final = ".__dict__"


class Holders:
    """Finds what holds an object. Frames don't count, nor does what was made later than this, nor ``ignored``."""

    def __init__(self, *ignored: Any) -> None:
        self._locals = dict(_locals_of_other_threads())
        self._before = {id(thing) for thing in gc.get_objects()} - {id(thing) for thing in (ignored, *ignored)}

    def of(self, thing: Any, owner: Any = None) -> str | None:
        """What holds ``thing``, as an expression like ``acme.CACHE['r1'].run``; None if nothing can be found.

        It begins with ``owner``, or else with the nearest global, class or running function, or else with the last
        object that was looked at.
        """
        seen: list[Any] = []

        def is_enough(holder: Any) -> bool:
            seen.append(holder)
            return len(seen) >= _MOST or self._beginning(holder, owner) is not None

        chain = self._chain(thing, is_enough)
        if len(chain) == 1 and len(seen) > 1:
            farthest = seen[-1]
            chain = self._chain(thing, lambda holder: holder is farthest)
        beginning, way = self._beginning(chain[0], owner), _way(chain)
        if beginning is not None:
            return beginning + (_joined(_DICT, way) if is_globals(chain[0]) else way)
        return f"a {_kind(chain[0])}: {way}" if len(chain) > 1 else None

    def _chain(self, thing: Any, is_enough: Any) -> list[Any]:
        excluded = {id(thing) for thing in gc.get_objects() if id(thing) not in self._before or _is_running(thing)}
        chain: list[Any] = objgraph.find_backref_chain(thing, is_enough, max_depth=_DEEP, extra_ignore=excluded)
        return chain

    def _beginning(self, holder: Any, owner: Any) -> str | None:
        """How the expression begins if ``holder`` is the owner, or something that nothing needs to hold."""
        if owner is not None:
            return type(owner).__qualname__ if holder is owner else None
        if id(holder) in self._locals:
            return self._locals[id(holder)]
        if is_globals(holder):
            return str(holder["__name__"])
        return f"{holder.__module__}.{holder.__qualname__}" if _is(holder, type) else None


def _locals_of_other_threads() -> Iterator[tuple[int, str]]:
    """The ids of local variables, with where they are."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        for running in frames_from(frame) if ident != threading.get_ident() else ():
            where = f"{running.f_code.co_qualname}() in thread {names.get(ident)!r}"
            yield from ((id(value), f"{name} of {where}") for name, value in running.f_locals.items())


def _way(chain: list[Any]) -> str:
    """How the first object of a chain leads to the last."""
    way = ""
    for holder, held in reversed(list(pairwise(chain))):
        way = _joined(_step(holder, held), way)
    return way


def _is(thing: Any, *kinds: type) -> bool:
    """As isinstance, without calling anything of ``thing``."""
    return issubclass(type(thing), kinds)


def _is_running(holder: Any) -> bool:
    """Whether it is a frame, or a generator or coroutine that runs, whose frame holds what it holds."""
    if type(holder) is types.FrameType:
        return True
    if _is(holder, types.GeneratorType):
        return bool(holder.gi_running)
    return _is(holder, types.CoroutineType) and bool(holder.cr_running)


def _kind(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")


def _joined(step: str, way: str) -> str:
    """One step before others: ``.__dict__`` and ``['runs'][0]`` is ``.runs[0]``."""
    return re.sub(r"^\['(\w+)'\]", r".\1", way) if step == _DICT else step + way


def _step(holder: Any, held: Any) -> str:
    """How ``holder`` refers to ``held``, as code."""
    if _is(holder, dict):
        return next((f"[{_key(key)}]" for key, value in list(holder.items()) if value is held), "(key)")
    if _is(holder, list, tuple):
        return next((f"[{index}]" for index, value in enumerate(holder) if value is held), "[...]")
    if _is(holder, types.CellType):
        return ".cell_contents"
    if _is(holder, types.GeneratorType, types.CoroutineType) and (frame := _frame_of(holder)) is not None:
        return f".{holder.__qualname__}" + _joined(_DICT, _step(dict(frame.f_locals), held))
    if _is(holder, types.BuiltinMethodType):
        return ".__self__"
    if _is(holder, type) and type(held) is dict:
        return _DICT
    return next((f".{name}" for name, value in _attributes(holder) if value is held), " > ")


def _frame_of(suspended: Any) -> types.FrameType | None:
    frame: types.FrameType | None = suspended.gi_frame if _is(suspended, types.GeneratorType) else suspended.cr_frame
    return frame


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, str | int | bytes | None) else f"<{_kind(key)}>"


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object stores, by name; properties are not called."""
    try:
        kept = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        kept = {}
    yield "__dict__", kept
    yield from list(kept.items())
    for cls in type(thing).__mro__:
        for name, member in list(vars(cls).items()):
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield name, member.__get__(thing)
                except AttributeError:
                    continue
