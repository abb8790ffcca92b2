"""Idempotency keys: the id of a run starts it once, and is refused to who asks for something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from crewbus import serialization
from crewbus.events import RunStarted
from crewbus.exceptions import RunIdInUseError

if TYPE_CHECKING:
    from crewbus.records import Record
    from crewbus.scopes import Run

DIGEST_TAG: Final = "crewbus.arguments_digest"
"""The tag that holds the digest of the arguments of a run that others may attach to."""


def digest_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A digest of arguments, the same in every process. Those without a canonical form count by their place alone."""
    forms = [[place, _form(value)] for place, value in [*enumerate(args), *sorted(kwargs.items())]]
    return hashlib.sha256(json.dumps(forms).encode()).hexdigest()[:32]


def _form(value: Any) -> Any:
    with suppress(serialization.OpaqueError):
        return serialization.canonical(value)
    return ["opaque"]


def require_same(record: Record, asked: Run) -> None:
    """Raise `RunIdInUseError` if the recorded run of this id is not the one that was asked for: it has another name,
    or was started with other arguments, as far as its record says."""
    for landmark in record.landmarks():
        if landmark.kind is RunStarted and landmark.run_id == asked.id:
            started = landmark.event
            break
    else:
        return
    if started.name != asked.name:
        raise RunIdInUseError(
            f"run {asked.id} is recorded already, and is one of {started.name!r}, not of {asked.name!r}: "
            "choose another id"
        )
    digests = [tags.get(DIGEST_TAG) for tags in (started.tags, asked.tags)]
    if None not in digests and digests[0] != digests[1]:
        raise RunIdInUseError(
            f"run {asked.id} is recorded already, and was started with other arguments: choose another id"
        )
