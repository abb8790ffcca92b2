"""Queueing: a run is recorded with its arguments, and begins once a worker claims it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crewbus import CorruptRecordError, InputError, RunIdInUseError
from crewbus_workers.carrying import pack, unpack
from crewbus_workers.checks import is_seconds, is_text
from crewbus_workers.events import KEY_TAG, QUEUE_TAG, WORKFLOW_TAG, Enqueued, Value
from crewbus_workers.workflows import Workflow, find_workflow, label_of, newest_version

if TYPE_CHECKING:
    from crewbus import Bus

__all__ = ["QueueOptions", "enqueue", "queue_run", "read_call"]

DEFAULT_QUEUE: Final = "default"


def enqueue(
    bus: Bus,
    workflow: Workflow[..., Any] | str,
    /,
    *args: Any,
    id: str | None = None,  # noqa: A002 - as `Bus.run` calls it
    queue: str = DEFAULT_QUEUE,
    delay: float = 0.0,
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
    version: int | None = None,
    attach: bool = False,
    **kwargs: Any,
) -> str:
    """Queue ``workflow(*args, **kwargs)``, and return the id of its run, which is on disk then.

    ``workflow``: a `Workflow`, or the name of one, which need not be registered in this process. ``version``: by
    default the newest that is registered here, or else the newest that the worker has registered. ``delay``: seconds
    before it may begin. ``key``: what `worker` limits apply to, such as a tenant. The arguments have to survive the
    round trip of a step's result; pass one whose name is an option here by position.

    Raises `RunIdInUseError` if a run with this ``id`` is recorded; with ``attach`` nothing is queued then, and the id
    is returned, if that run was queued for the same workflow, arguments and key; the error says what differs. So a
    request that is sent twice starts one run, and another one does not pass for it. Raises
    `InputError` for arguments that the workflow does not take, and `UnserializableError`, with the argument's name,
    for one that would not come back as it is.
    """
    options = QueueOptions(id, queue, delay, key, tags or {}, version, attach)
    return queue_run(bus, workflow, args, kwargs, options)


class QueueOptions(NamedTuple):
    """The options of `enqueue`, as given."""

    id: str | None = None
    queue: str = DEFAULT_QUEUE
    delay: float = 0.0
    key: str | None = None
    tags: Mapping[str, str] = MappingProxyType({})
    version: int | None = None
    attach: bool = False

    def check(self, label: str) -> None:
        """Raise `InputError` for what can't be meant."""
        if not is_seconds(self.delay):
            raise InputError(f"workflow {label}: delay= is a number of seconds; got {self.delay!r}")
        for option, text in (("queue", self.queue), ("key", self.key)):
            if not is_text(text) and (option, text) != ("key", None):
                raise InputError(f"workflow {label}: {option}= is a text; got {text!r}")

    def all_tags(self, label: str) -> dict[str, str]:
        """The tags of the run."""
        own = {WORKFLOW_TAG: label, QUEUE_TAG: self.queue}
        return {**self.tags, **own, **({} if self.key is None else {KEY_TAG: self.key})}


def queue_run(
    bus: Bus,
    workflow: Workflow[..., Any] | str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: QueueOptions,
) -> str:
    """As `enqueue`, with arguments of any names, also those that its options have."""
    name, label, known = _resolve(workflow, options.version)
    options.check(label)
    event = _written(bus, label, known, args, kwargs)
    until = time.time() + options.delay if options.delay else None
    run = bus.run(name, id=options.id, tags=options.all_tags(label))
    try:
        bus.recording.plant(run, [event], until)
    except RunIdInUseError:
        if options.id is None or not options.attach:
            raise
        other = _difference(bus, options.id, name, options.key, event.digest)
        if other is not None:
            text = f"run {options.id} is recorded already, and {other}: choose another id"
            raise RunIdInUseError(text) from None
    return run.id


def _difference(bus: Bus, run_id: str, name: str, key: str | None, digest: str) -> str | None:
    """How a recorded run differs from one of this workflow, key and arguments; None: it does not."""
    info = bus.records.info(run_id)
    if WORKFLOW_TAG not in info.tags:
        return "was not queued"
    if info.name != name:
        return f"was queued for workflow {info.name!r}, not {name!r}"
    if info.tags.get(KEY_TAG) != key:
        return f"was queued with key={info.tags.get(KEY_TAG)!r}, not {key!r}"
    queued = _queued(bus, run_id)
    return "was queued with other arguments" if queued.digest not in ("", digest) else None


def _resolve(workflow: Workflow[..., Any] | str, version: int | None) -> tuple[str, str, Workflow[..., Any] | None]:
    """The name and label of a workflow, and the workflow itself if it is registered here."""
    if isinstance(workflow, Workflow):
        if version not in (None, workflow.version):
            raise InputError(f"{workflow!r} has version {workflow.version}; got version={version!r}")
        return workflow.name, workflow.label, workflow
    if not is_text(workflow):
        raise InputError(f"enqueue() takes a workflow or its name; got {workflow!r}")
    known = newest_version(workflow) if version is None else find_workflow(label_of(workflow, version))
    if known is not None:
        return workflow, known.label, known
    return workflow, workflow if version is None else label_of(workflow, version), None


def _written(
    bus: Bus, label: str, known: Workflow[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Enqueued:
    positional, named = (
        known.annotations(args, kwargs) if known is not None else ([Any] * len(args), dict.fromkeys(kwargs, Any))
    )

    def write(value: Any, annotation: Any, name: str) -> Value:
        return Value(*bus.recording.write(value, annotation, f"argument {name} of {label}"))

    return Enqueued(
        tuple(write(*pair, str(place)) for place, pair in enumerate(zip(args, positional, strict=True))),
        {name: write(value, named[name], repr(name)) for name, value in kwargs.items()},
        bus.recording.digest(args, kwargs),
        pack(bus, label, known.carry if known is not None else ()),
    )


class QueuedCall(NamedTuple):
    """What a run was queued with."""

    args: list[Any]
    kwargs: dict[str, Any]
    carried: list[tuple[ContextVar[Any], Any]]
    """The ContextVars to set before, and their values."""


def read_call(bus: Bus, run_id: str, workflow: Workflow[..., Any]) -> QueuedCall:
    """What a run was queued with. Raises `CorruptRecordError`, `DecodeError` and `InputError`."""
    event = _queued(bus, run_id)
    positional, named = workflow.annotations(event.args, event.kwargs)
    return QueuedCall(
        [_read(bus, value, annotation) for value, annotation in zip(event.args, positional, strict=True)],
        {name: _read(bus, value, named[name]) for name, value in event.kwargs.items()},
        unpack(bus, workflow.label, workflow.carry, run_id, event.carried),
    )


def _queued(bus: Bus, run_id: str) -> Enqueued:
    event = bus.recording.decode(bus.store.event(run_id, 1)).event
    if not isinstance(event, Enqueued):
        raise CorruptRecordError(f"run {run_id} was not queued: its second event is {type(event).__name__}")
    return event


def _read(bus: Bus, value: Value, annotation: Any) -> Any:
    return bus.recording.read((value.data, value.type, value.version), annotation)
