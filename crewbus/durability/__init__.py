"""Recording, steps, checkpoints, resuming and forking."""

from crewbus.durability.checkpoints import Checkpoints
from crewbus.durability.fork import fork_run
from crewbus.durability.recorder import MAX_EVENT_BYTES, Oversized, Recorder, RecordingOptions
from crewbus.durability.resume import Resumption
from crewbus.durability.step_runner import StepRunner
from crewbus.durability.step_scope import Step, step

__all__ = [
    "MAX_EVENT_BYTES",
    "Checkpoints",
    "Oversized",
    "Recorder",
    "RecordingOptions",
    "Resumption",
    "Step",
    "StepRunner",
    "fork_run",
    "step",
]
