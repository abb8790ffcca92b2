"""Queues, workers, timers and messages for recorded crewbus runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crewbus_workers.errors import MessageTimeoutError
    from crewbus_workers.limits import Limits
    from crewbus_workers.messages import send
    from crewbus_workers.overview import QueueInfo, queues
    from crewbus_workers.queue import QueueOptions, enqueue, queue_run
    from crewbus_workers.requeueing import requeue
    from crewbus_workers.serving import Worker, worker
    from crewbus_workers.waiting import areceive, asleep, receive, sleep
    from crewbus_workers.workflows import Workflow, find_workflow, registered, workflow

__all__ = [
    "Limits",
    "MessageTimeoutError",
    "QueueInfo",
    "QueueOptions",
    "Worker",
    "Workflow",
    "areceive",
    "asleep",
    "enqueue",
    "find_workflow",
    "queue_run",
    "queues",
    "receive",
    "registered",
    "requeue",
    "send",
    "sleep",
    "worker",
    "workflow",
]

# Loaded at first use: every bus loads the plugin, and few of them queue or execute anything.
_MODULES: Final = {
    "errors": "MessageTimeoutError",
    "limits": "Limits",
    "messages": "send",
    "overview": "QueueInfo queues",
    "queue": "QueueOptions enqueue queue_run",
    "requeueing": "requeue",
    "serving": "Worker worker",
    "waiting": "areceive asleep receive sleep",
    "workflows": "Workflow find_workflow registered workflow",
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
