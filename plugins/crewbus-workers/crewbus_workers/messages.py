"""Messages to a recorded run: sent by any process, before or after the run waits for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus import DecodeError, InputError
from crewbus_workers.checks import is_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crewbus import Bus
    from crewbus.stores import Posted

__all__ = ["send"]

RESERVED: Final = "crewbus."
"""How the channels begin that crewbus itself uses."""


class Message(NamedTuple):
    """A message in the form in which a run records that it has consumed it: JSON, apart from ``number``."""

    number: int
    """Its number in the run's mailbox, from 0."""
    data: Any
    type: str | None
    version: int


def send(bus: Bus, run_id: str, channel: str, payload: Any = None, *, key: str | None = None) -> int:
    """Send a message to a recorded root run, in whatever process it is, or to come; returns the message's number.

    It is on disk on return. `receive` in the run returns ``payload``, which has to survive the round trip of a step's
    result. With a ``key``, sending the same again changes nothing, so that a request can be repeated. Raises
    `InputError`, `UnserializableError`, `RunNotFoundError`, and `RunEndedError` if the run has ended.
    """
    checked_channel(channel)
    if key is not None and not is_text(key):
        raise InputError(f"channel {channel!r}: key= is a text; got {key!r}")
    written = bus.recording.write(payload, Any, f"the message on channel {channel!r}")
    return bus.store.post(run_id, channel, json.dumps(written).encode(), key)


def checked_channel(channel: str) -> str:
    """``channel``. Raises `InputError` for what can't name one."""
    if not is_text(channel) or channel.startswith(RESERVED):
        raise InputError(f"a channel is named by a text that does not begin with {RESERVED!r}; got {channel!r}")
    return channel


def next_message(posted: Iterable[Posted], channel: str) -> Message | None:
    """The first message on ``channel``, or None. Raises `DecodeError`."""
    for one in posted:
        if one.channel == channel:
            return _parsed(one)
    return None


def _parsed(posted: Posted) -> Message:
    try:
        data, type_name, version = json.loads(posted.data)
    except (ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"message {posted.number} on channel {posted.channel!r}: {error}") from error
    return Message(posted.number, data, type_name, version)
