"""Queues, workers, timers and messages for recorded crewbus runs."""

from crewbus_workers.errors import MessageTimeoutError
from crewbus_workers.limits import Limits
from crewbus_workers.messages import send
from crewbus_workers.overview import QueueInfo, queues
from crewbus_workers.queue import enqueue
from crewbus_workers.requeueing import requeue
from crewbus_workers.waiting import areceive, asleep, receive, sleep
from crewbus_workers.worker import Worker, worker
from crewbus_workers.workflows import Workflow, workflow

__all__ = [
    "Limits",
    "MessageTimeoutError",
    "QueueInfo",
    "Worker",
    "Workflow",
    "areceive",
    "asleep",
    "enqueue",
    "queues",
    "receive",
    "requeue",
    "send",
    "sleep",
    "worker",
    "workflow",
]
