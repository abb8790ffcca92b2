"""Recording, steps, checkpoints, resuming and forking."""

from typing import TYPE_CHECKING

from crewbus._util import lazy_names
from crewbus.durability.gate import Gate, Recording
from crewbus.durability.limits import MAX_EVENT_BYTES, Oversized

if TYPE_CHECKING:
    from crewbus.durability.cancelling import end_left_off
    from crewbus.durability.checkpoints import Checkpoints
    from crewbus.durability.fork import fork_run
    from crewbus.durability.idempotency import DIGEST_TAG, digest_of, require_same
    from crewbus.durability.recorder import Recorder, RecordingOptions
    from crewbus.durability.requests import CHANNEL, act_on, request
    from crewbus.durability.results import Results
    from crewbus.durability.resume import Resumption
    from crewbus.durability.step_function import return_annotation
    from crewbus.durability.step_runner import StepRunner
    from crewbus.durability.step_scope import Step, step

__all__ = [
    "CHANNEL",
    "DIGEST_TAG",
    "MAX_EVENT_BYTES",
    "Checkpoints",
    "Gate",
    "Oversized",
    "Recorder",
    "Recording",
    "RecordingOptions",
    "Results",
    "Resumption",
    "Step",
    "StepRunner",
    "act_on",
    "digest_of",
    "end_left_off",
    "fork_run",
    "request",
    "require_same",
    "return_annotation",
    "step",
]

# Loaded at first use: most buses record nothing.
__getattr__ = lazy_names(
    __name__,
    {
        "cancelling": "end_left_off",
        "checkpoints": "Checkpoints",
        "fork": "fork_run",
        "idempotency": "DIGEST_TAG digest_of require_same",
        "recorder": "Recorder RecordingOptions",
        "requests": "CHANNEL act_on request",
        "results": "Results",
        "resume": "Resumption",
        "step_function": "return_annotation",
        "step_runner": "StepRunner",
        "step_scope": "Step step",
    },
)
