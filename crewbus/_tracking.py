"""Tracked entities: what checkpoints keep the state of, and what was kept last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

import attrs

from crewbus._entities import entities
from crewbus._serialization import Codec, Written
from crewbus.exceptions import UnserializableError

_TRIES: Final = 100
"""How often an entity is written anew that others change meanwhile."""


@attrs.define(eq=False)
class Tracked:
    """An entity, and what was kept of it last."""

    entity: Any
    digest: bytes = b""
    saved_at: int = -1
    """The number of the `EntitySaved` that holds its state."""

    def write(self, codec: Codec, name: str) -> tuple[bytes, Written]:
        """Its state, and a digest of it; raises `UnserializableError`, naming it."""
        for _ in range(_TRIES):
            try:
                written = codec.write_entity(self.entity)
            except UnserializableError as error:
                if isinstance(error.__cause__, RuntimeError):  # changed while it was iterated over
                    continue
                raise UnserializableError(f"entity {name!r}: {error}") from error
            return hashlib.blake2b(json.dumps(written).encode(), digest_size=16).digest(), written
        raise UnserializableError(f"entity {name!r} is changed by others all the time: it can't be written")


def name_for(entity: Any, taken: Iterable[str]) -> str:
    """A name for an entity that was given none: that of its type, and a number where that is taken."""
    name = entities.of(type(entity)).name
    names, number = set(taken), 1
    while (candidate := name if number == 1 else f"{name}#{number}") in names:
        number += 1
    return candidate
