"""Requeueing: what no worker takes any more is given to them again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from crewbus import InputError, RunSuspendedError, Suspended
from crewbus_workers.events import WORKFLOW_TAG

if TYPE_CHECKING:
    from crewbus import Bus

__all__ = ["requeue"]


def requeue(bus: Bus, run_id: str) -> None:
    """Have workers continue a queued run that is stuck, or that has failed or was cancelled, from its last step on.

    Raises `InputError` for a run that was not queued, and what `Bus.resume` raises: of one that has finished or is
    running.
    """
    if WORKFLOW_TAG not in bus.records.info(run_id).tags:
        raise InputError(f"run {run_id} was not queued: no worker can continue it")
    with suppress(RunSuspendedError), bus.resume(run_id) as run, suppress(Suspended):
        run.suspend("requeued")
        run.check()
