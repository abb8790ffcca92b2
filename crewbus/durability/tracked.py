"""Tracked entities: their state is saved with each checkpoint."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

import attrs

from crewbus import serialization
from crewbus.exceptions import UnserializableError

if TYPE_CHECKING:
    from crewbus.serialization import Codec, Written

_TRIES: Final = 100
"""How many times an entity is written that other threads change at the same time."""
_SAME_ERRORS: Final = 5
"""After this many equal errors in a row the cause is the entity, not a concurrent change."""
_PAUSE: Final = 0.0001
"""Seconds by which the pause grows from try to try, so that other threads proceed."""


@attrs.define(eq=False)
class Tracked:
    """An entity and its state as last saved."""

    entity: Any
    saved: tuple[bytes, int] = (b"", -1)
    """A digest of the state saved last, and the number of the `EntitySaved` that holds it."""

    def write(self, codec: Codec, name: str) -> tuple[bytes, Written]:
        """Its state and a digest of it. Raises `UnserializableError` with its name."""
        errors: list[str] = []
        for tried in range(_TRIES):
            try:
                written = codec.write_entity(snapshot(self.entity, {}))
            except UnserializableError as error:
                if not isinstance(error.__cause__, RuntimeError):  # not a change during iteration
                    errors.append(str(error))
            else:
                return hashlib.blake2b(json.dumps(written).encode(), digest_size=16).digest(), written
            if len(errors) >= _SAME_ERRORS and len(set(errors[-_SAME_ERRORS:])) == 1:
                break
            time.sleep(tried * _PAUSE)
        errors = errors or ["other threads change it continuously"]
        raise UnserializableError(f"entity {name!r}: {errors[-1]}")


def snapshot(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with each container in it copied at once: later changes of the containers do not show.

    Otherwise writing an entity that another thread keeps changing could never succeed. ``seen`` maps the id of each
    original to its copy, so that a value that contains itself is copied once.
    """
    if id(value) in seen:
        return seen[id(value)]
    copied: Any = value
    if type(value) is dict:
        copied = seen[id(value)] = value.copy()
        for key, inner in list(copied.items()):
            copied[key] = snapshot(inner, seen)
    elif type(value) is list:
        copied = seen[id(value)] = value.copy()
        copied[:] = [snapshot(inner, seen) for inner in copied]
    elif type(value) is tuple:
        copied = tuple(snapshot(inner, seen) for inner in value)
    elif type(value) is set:
        copied = value.copy()
    elif serialization.is_declared(type(value)) and (copied := _copy_of(value)) is not value:
        seen[id(value)] = copied
        for field in [field for field, _ in serialization.fields_of(type(value)) if hasattr(value, field)]:
            object.__setattr__(copied, field, snapshot(getattr(value, field), seen))
    return copied


def _copy_of(value: Any) -> Any:
    """A shallow copy, or ``value`` itself if its class can't be copied."""
    try:
        return copy.copy(value)
    except Exception:
        return value
