"""Tracked entities: what checkpoints keep the state of, and what was kept last."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import attrs

from crewbus._serialization import Codec, Written
from crewbus.exceptions import UnserializableError

_TRIES: Final = 100
"""How often an entity is written anew that others change meanwhile."""
_ALIKE: Final = 5
"""After how many errors in a row that say the same it is not for being changed."""


@attrs.define(eq=False)
class Tracked:
    """An entity, and what was kept of it last."""

    entity: Any
    saved: tuple[bytes, int] = (b"", -1)
    """A digest of the state that was kept last, and the number of the `EntitySaved` that holds it."""

    def write(self, codec: Codec, name: str) -> tuple[bytes, Written]:
        """Its state, and a digest of it; raises `UnserializableError`, naming it."""
        errors: list[str] = []
        while len(errors) < _TRIES and (len(errors) < _ALIKE or len(set(errors[-_ALIKE:])) > 1):
            try:
                written = codec.write_entity(self.entity)
            except UnserializableError as error:  # it may have been changed while it was looked at
                errors.append(str(error))
            else:
                return hashlib.blake2b(json.dumps(written).encode(), digest_size=16).digest(), written
        raise UnserializableError(f"entity {name!r}: {errors[-1]}")
