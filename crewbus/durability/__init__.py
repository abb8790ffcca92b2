"""Recording, steps, checkpoints, resuming and forking."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.durability.checkpoints import Checkpoints
from crewbus.durability.recorder import MAX_EVENT_BYTES, Oversized, Recorder, RecordingOptions
from crewbus.durability.step_runner import StepRunner
from crewbus.durability.step_scope import Step, step

if TYPE_CHECKING:
    from crewbus.durability.fork import fork_run
    from crewbus.durability.resume import Resumption

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

# Loaded at first use: most buses resume and fork nothing.
__getattr__ = lazy_names(
    __name__,
    {
        "fork": "fork_run",
        "resume": "Resumption",
    },
)
