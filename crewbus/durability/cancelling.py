"""Cancelling a recorded run that nobody holds: its log is taken, ended, and sealed."""

from __future__ import annotations

import time

from crewbus.durability.recorder import Recorder
from crewbus.events import Envelope, RunCancelled, RunResumed


def end_left_off(recording: Recorder, root_id: str, reason: str) -> bool:
    """End a run that has no holder as cancelled; returns whether it had not ended meanwhile.

    Nothing of it is executed. Raises `RunNotFoundError`, and `RunHeldError` if a process holds it.
    """
    store = recording.store
    epoch = store.acquire(root_id)
    is_over = False
    try:
        found = store.summary(root_id)
        is_over = found.has_ended
        if is_over:
            return False
        # Consumers may have seen more of an interrupted run than its record has: a resume tells them.
        events = [RunResumed(found.info.last, epoch)] if epoch > 1 else []
        for seq, event in enumerate([*events, recording.redacted(None, RunCancelled(reason))], found.info.last + 1):
            envelope = Envelope(event, root_id, seq, f"{root_id}:0", time.time(), None, 1)
            store.append(root_id, epoch, recording.encode(envelope))
        is_over = True
        return True
    finally:
        (store.finish if is_over else store.release)(root_id, epoch)
        store.flush()
