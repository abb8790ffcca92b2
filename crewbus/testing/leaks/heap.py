"""The objects of this process: the instances of some types, and what can be reached from where."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterable, Iterator
from typing import Any


def live(*kinds: type) -> dict[type, list[Any]]:
    """The live objects of each kind, instances of subclasses included.

    objgraph.by_type finds one class by its name; here all are found in one pass over the heap.
    """
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

    Modules, classes and the globals of functions are shared by everything, so their contents are left out; so are those
    of instances of ``stop``.
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
        if not (issubclass(type(thing), (type, types.ModuleType, *stop)) or is_globals(thing)):
            queue += _referents(thing)
    return seen


def _referents(thing: Any) -> list[Any]:
    if type(thing) is types.FunctionType:
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
    return gc.get_referents(thing)


def is_globals(thing: Any) -> bool:
    """Whether ``thing`` holds the globals of a module."""
    return type(thing) is dict and "__name__" in thing and "__spec__" in thing


def frames_from(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    """A frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back
