"""The tags with which ``crewbus run`` records how a run was started: for `resume`, and to repeat what failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crewbus import RunInfo
from crewbus.cli.input import Arguments, Location
from crewbus.exceptions import InputError

TARGET_TAG: Final = "crewbus.target"
ARGUMENTS_TAG: Final = "crewbus.arguments"
DIRECTORY_TAG: Final = "crewbus.directory"
"""TARGET as given, the arguments as JSON, the working directory."""
BATCH_TAG: Final = "crewbus.batch"
"""An id that all runs of one command share."""
_INPUT_TAG: Final = "input"


def launch_tags(target: str, batch: str) -> Mapping[str, str]:
    """The tags that all runs of a command share."""
    return {TARGET_TAG: target, DIRECTORY_TAG: str(Path.cwd()), BATCH_TAG: batch}


def tags_of(arguments: Arguments, shared: Mapping[str, str] | None) -> Mapping[str, str]:
    """The tags of a run: its line of input; if it is recorded, also the shared ones and its arguments."""
    tags = {_INPUT_TAG: str(arguments.location)} if arguments.location else {}
    if shared is not None:
        tags |= {**shared, ARGUMENTS_TAG: json.dumps({"args": arguments.args, "kwargs": arguments.kwargs})}
    return tags


def tag_of(info: RunInfo, name: str) -> str:
    """A tag of a recorded run; raises `InputError` if another program started it."""
    try:
        return info.tags[name]
    except KeyError:
        raise InputError(
            f"run {info.id} was not started by 'crewbus run': resume it from its own program, "
            f"with bus.resume({info.id!r})"
        ) from None


def arguments_of(info: RunInfo) -> Arguments:
    """The arguments of a recorded run; raises `InputError`."""
    try:
        recorded = json.loads(tag_of(info, ARGUMENTS_TAG))
        file, colon, line = info.tags.get(_INPUT_TAG, "").rpartition(":")
        location = Location(file, int(line)) if colon and line.isdecimal() else None
        return Arguments(tuple(recorded["args"]), dict(recorded["kwargs"]), location)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"run {info.id}: its tag {ARGUMENTS_TAG} does not hold arguments") from None
