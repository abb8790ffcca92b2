"""What lives in this process: the instances of some types, what can be reached from where, and who holds what."""

from __future__ import annotations

import gc
import re
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any, Final

_DEEP: Final = 20
"""After how many holders of holders the search for who holds something is given up."""
_WIDE: Final = 100
"""How many of them are looked at in each step of it."""
_DICT: Final = ".__dict__"


def live(*kinds: type) -> dict[type, list[Any]]:
    """The objects of each kind that live, those of its subclasses among them."""
    kind_of = {cls: kind for kind in kinds for cls in _family(kind)}
    found: dict[type, list[Any]] = {kind: [] for kind in kinds}
    for thing in gc.get_objects():
        kind = kind_of.get(type(thing))  # not by isinstance, which asks a proxy what it stands for
        if kind is not None:
            found[kind].append(thing)
    return found


def _family(cls: type) -> Iterator[type]:
    yield cls
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        yield from _family(child)


def reachable(start: Iterable[Any], stop: tuple[type, ...] = ()) -> set[int]:
    """The ids of ``start``, and of what can be reached from there.

    What is everybody's is not entered: modules, classes, the globals of functions. Nor are instances of ``stop``.
    """
    seen, queue = set[int](), list[Any]()
    for thing in start:
        seen.add(id(thing))
        queue += _referents(thing)
    while queue:
        thing = queue.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if not (issubclass(type(thing), (type, types.ModuleType, *stop)) or _is_globals(thing)):
            queue += _referents(thing)
    return seen


def _referents(thing: Any) -> list[Any]:
    if type(thing) is types.FunctionType:
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
    return gc.get_referents(thing)


def _is_globals(thing: Any) -> bool:
    """Whether ``thing`` holds the globals of a module."""
    return type(thing) is dict and "__name__" in thing and "__spec__" in thing


class Holders:
    """Tells who holds a thing; ``ignored`` do not count, nor do the frames that run in this thread."""

    def __init__(self, *ignored: Any) -> None:
        self._locals: dict[int, str] = {}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            for running in frames_from(frame) if ident != threading.get_ident() else ():
                where = f"{running.f_code.co_qualname}() in thread {names.get(ident)!r}"
                self._locals |= {id(value): f"{name} of {where}" for name, value in running.f_locals.items()}
        # What is made later is ours, and what runs is seen from inside.
        self._there = {id(thing) for thing in gc.get_objects() if type(thing) is not types.FrameType}
        self._there -= {id(thing) for thing in (ignored, *ignored)}

    def of(self, thing: Any, owner: Any = None) -> str | None:
        """Who holds ``thing``, as an expression like ``acme.CACHE['r1'].run``; None where nobody can be seen.

        It begins with ``owner``, or with the nearest global, class or running function, or else with the farthest
        object that was found.
        """
        ways, level, farthest = {id(thing): ""}, [thing], thing  # how each object that was seen leads to the thing
        for _ in range(_DEEP):
            for seen in level if owner is None else ():
                if id(seen) in self._locals:
                    return self._locals[id(seen)] + ways[id(seen)]
            above: list[Any] = []
            for holder in gc.get_referrers(*level):
                held = _held_by(holder, level) if self._counts(holder, ways) else None
                if held is None:
                    continue
                ways[id(holder)] = way = _joined(_step(holder, held), ways[id(held)])
                told = _beginning(holder, owner)
                if told is not None:
                    return told + (_joined(_DICT, way) if _is_globals(holder) else way)
                above.append(holder)
            if not above:
                break
            level, farthest = above[:_WIDE], above[0]
        return f"a {_kind(farthest)}: {ways[id(farthest)]}" if farthest is not thing else None

    def _counts(self, holder: Any, ways: dict[int, str]) -> bool:
        return id(holder) in self._there and id(holder) not in ways and not _is_running(holder)


def _beginning(holder: Any, owner: Any) -> str | None:
    """How the expression begins, if it begins with ``holder``: since that is the owner, or nobody need hold it."""
    if owner is not None:
        return type(owner).__qualname__ if holder is owner else None
    if _is_globals(holder):
        return str(holder["__name__"])
    return f"{holder.__module__}.{holder.__qualname__}" if _is(holder, type) else None


def _is(thing: Any, *kinds: type) -> bool:
    """As isinstance, and asks ``thing`` nothing."""
    return issubclass(type(thing), kinds)


def _is_running(holder: Any) -> bool:
    """Whether it is a generator or coroutine that runs: then its frame holds what it holds."""
    if _is(holder, types.GeneratorType):
        return bool(holder.gi_running)
    return _is(holder, types.CoroutineType) and bool(holder.cr_running)


def _held_by(holder: Any, level: list[Any]) -> Any:
    held = {id(thing) for thing in gc.get_referents(holder)}
    return next((thing for thing in level if id(thing) in held), None)


def frames_from(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    """A frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _kind(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")


def _joined(step: str, way: str) -> str:
    """One step before others: ``.__dict__`` and ``['runs'][0]`` is ``.runs[0]``."""
    return re.sub(r"^\['(\w+)'\]", r".\1", way) if step == _DICT else step + way


def _step(holder: Any, held: Any) -> str:
    """How ``holder`` refers to ``held``, as it would be written."""
    if _is(holder, dict):
        return next((f"[{_key(key)}]" for key, value in list(holder.items()) if value is held), "(key)")
    if _is(holder, list, tuple):
        return next((f"[{index}]" for index, value in enumerate(holder) if value is held), "[...]")
    if _is(holder, types.CellType):
        return ".cell_contents"
    if _is(holder, types.FrameType):
        return _step(dict(holder.f_locals), held)
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
    """What an object keeps, by name; no property is asked."""
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
