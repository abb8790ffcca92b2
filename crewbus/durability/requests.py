"""Requests to cancel a run that another process holds: messages in the mailbox of its log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from crewbus.events import RunEnded, RunResumed, RunSuspended

if TYPE_CHECKING:
    from crewbus.records import Landmark
    from crewbus.scopes import Run
    from crewbus.stores import Posted

CHANNEL: Final = "crewbus.cancel"
"""The channel on which they are posted."""


def request(reason: str, epoch: int) -> bytes:
    """The message that asks the holder that took the log with this epoch, or one after it, to cancel the run."""
    return json.dumps({"reason": reason, "epoch": epoch}).encode()


def act_on(messages: Iterable[Posted], run: Run) -> None:
    """Cancel a live root run if one of these messages in its mailbox asks for that."""
    log = run.tree.log
    for posted in messages:
        if log is not None:
            log.looked_at = posted.number
        asked = _parsed(posted) if posted.channel == CHANNEL else None
        if asked is not None and (log is None or asked[1] >= log.asked_since):
            run.cancel(asked[0])


def _parsed(posted: Posted) -> tuple[str, int] | None:
    """The reason and the epoch of a request; None for one that is damaged."""
    try:
        message = json.loads(posted.data)
        return str(message["reason"]), int(message["epoch"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def asked_since(landmarks: Iterable[Landmark], root_id: str, epoch: int) -> int:
    """The epoch of the first holder after the run last ended: what earlier ones were asked for is over.

    ``epoch`` is that of the holder that resumes it.
    """
    since, has_ended = 0, False
    for landmark in landmarks:
        if landmark.kind is RunResumed:
            since, has_ended = (landmark.event.epoch if has_ended else since), False
        elif landmark.run_id == root_id and issubclass(landmark.kind, RunEnded):
            has_ended = landmark.kind is not RunSuspended
    return epoch if has_ended else since
