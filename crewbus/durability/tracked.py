"""Tracked entities: what checkpoints keep the state of, and what was kept last."""

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
"""How often an entity is written anew that others change meanwhile."""
_ALIKE: Final = 5
"""After how many errors in a row that say the same it is not for being changed."""
_PAUSE: Final = 0.0001
"""Seconds that each further try waits longer, so that the others get on."""


@attrs.define(eq=False)
class Tracked:
    """An entity, and what was kept of it last."""

    entity: Any
    saved: tuple[bytes, int] = (b"", -1)
    """A digest of the state that was kept last, and the number of the `EntitySaved` that holds it."""

    def write(self, codec: Codec, name: str) -> tuple[bytes, Written]:
        """Its state, and a digest of it; raises `UnserializableError`, naming it."""
        errors: list[str] = []
        for tried in range(_TRIES):
            try:
                written = codec.write_entity(still(self.entity, {}))
            except UnserializableError as error:
                if not isinstance(error.__cause__, RuntimeError):  # it was changed while it was iterated over
                    errors.append(str(error))
            else:
                return hashlib.blake2b(json.dumps(written).encode(), digest_size=16).digest(), written
            if len(errors) >= _ALIKE and len(set(errors[-_ALIKE:])) == 1:
                break
            time.sleep(tried * _PAUSE)
        errors = errors or ["others change it all the time"]
        raise UnserializableError(f"entity {name!r}: {errors[-1]}")


def still(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with each container in it copied at one moment: what others change from then on does not show.

    Without it an entity that is changed all the time would never be found as it was written. ``seen`` has the copies
    by the ids of what they were made of, so that what contains itself is copied once.
    """
    if id(value) in seen:
        return seen[id(value)]
    copied: Any = value
    if type(value) is dict:
        copied = seen[id(value)] = value.copy()
        for key, inner in list(copied.items()):
            copied[key] = still(inner, seen)
    elif type(value) is list:
        copied = seen[id(value)] = value.copy()
        copied[:] = [still(inner, seen) for inner in copied]
    elif type(value) is tuple:
        copied = tuple(still(inner, seen) for inner in value)
    elif type(value) is set:
        copied = value.copy()
    elif serialization.is_declared(type(value)) and (copied := _copy_of(value)) is not value:
        seen[id(value)] = copied
        for field in [field for field, _ in serialization.fields_of(type(value)) if hasattr(value, field)]:
            object.__setattr__(copied, field, still(getattr(value, field), seen))
    return copied


def _copy_of(value: Any) -> Any:
    """A shallow copy; ``value`` itself where its class does not let it be copied."""
    try:
        return copy.copy(value)
    except Exception:
        return value
