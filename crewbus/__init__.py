"""crewbus: the event bus under agent applications, as a plugin framework on pluggy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Attempt",
    "AttemptStarted",
    "Bus",
    "BusClosedError",
    "Call",
    "CallCancelled",
    "CallEnded",
    "CallError",
    "CallFailed",
    "CallFinished",
    "CallStarted",
    "CallbackError",
    "Callbacks",
    "Cancelled",
    "Checkpoint",
    "CheckpointSaved",
    "Chunk",
    "ConsumptionError",
    "CorruptRecordError",
    "CrewbusError",
    "CrewbusWarning",
    "DecodeError",
    "Divergence",
    "Dropped",
    "EntitySaved",
    "Envelope",
    "EventType",
    "EventTypeError",
    "Failure",
    "FencedError",
    "FlushError",
    "FlushTimeoutError",
    "GraceWarning",
    "InputError",
    "LogInfo",
    "MemoryStore",
    "OversizedEventError",
    "OwnedStream",
    "PluginError",
    "PluginInfo",
    "PluginManager",
    "PluginWarning",
    "Record",
    "RecordingError",
    "RedactionError",
    "ReplayMismatch",
    "ResultTimeoutError",
    "Retracted",
    "Run",
    "RunCancelled",
    "RunCancelledError",
    "RunEnded",
    "RunError",
    "RunFailed",
    "RunFinished",
    "RunForked",
    "RunHeldError",
    "RunIdInUseError",
    "RunInfo",
    "RunInterrupted",
    "RunNotFoundError",
    "RunResumed",
    "RunStarted",
    "Sink",
    "SlowConsumer",
    "Step",
    "StepEnded",
    "StepError",
    "StepFailed",
    "StepFinished",
    "StepStarted",
    "Store",
    "StoreFullError",
    "StoreVersionError",
    "StoredEvent",
    "Stream",
    "StreamOptions",
    "TargetError",
    "Thread",
    "ThreadPoolExecutor",
    "Truncated",
    "UnknownEvent",
    "UnregisteredEventError",
    "UnscopedError",
    "UnscopedWarning",
    "UnserializableError",
    "__version__",
    "bind",
    "call",
    "chunk",
    "current_bus",
    "current_call",
    "current_run",
    "default_bus",
    "drain",
    "emit",
    "event",
    "event_type_of",
    "event_types",
    "hookimpl",
    "hookspec",
    "register_entity",
    "register_event",
    "run",
    "step",
]

if TYPE_CHECKING:
    from crewbus._bus import Bus
    from crewbus._call import Call
    from crewbus._callbacks import Callbacks
    from crewbus._context import current_call, current_run
    from crewbus._default import call, chunk, current_bus, default_bus, drain, emit, run
    from crewbus._difference import Divergence
    from crewbus._entities import register_entity
    from crewbus._guard import Failure
    from crewbus._history import Checkpoint, RunInfo
    from crewbus._manager import PluginInfo, PluginManager
    from crewbus._markers import hookimpl, hookspec
    from crewbus._propagation import Thread, ThreadPoolExecutor, bind
    from crewbus._record import Record
    from crewbus._registry import EventType
    from crewbus._run import Run, Sink
    from crewbus._scope import Attempt
    from crewbus._step import Step, step
    from crewbus._stream import OwnedStream, Stream, StreamOptions
    from crewbus.abc import LogInfo, Store, StoredEvent
    from crewbus.builtin.memory_store import MemoryStore
    from crewbus.events import (
        AttemptStarted,
        CallCancelled,
        CallEnded,
        CallFailed,
        CallFinished,
        CallStarted,
        CheckpointSaved,
        Chunk,
        Dropped,
        EntitySaved,
        Envelope,
        Retracted,
        RunCancelled,
        RunEnded,
        RunFailed,
        RunFinished,
        RunForked,
        RunInterrupted,
        RunResumed,
        RunStarted,
        StepEnded,
        StepFailed,
        StepFinished,
        StepStarted,
        Truncated,
        UnknownEvent,
        event,
        event_type_of,
        event_types,
        register_event,
    )
    from crewbus.exceptions import (
        BusClosedError,
        CallbackError,
        CallError,
        Cancelled,
        ConsumptionError,
        CorruptRecordError,
        CrewbusError,
        CrewbusWarning,
        DecodeError,
        EventTypeError,
        FencedError,
        FlushError,
        FlushTimeoutError,
        GraceWarning,
        InputError,
        OversizedEventError,
        PluginError,
        PluginWarning,
        RecordingError,
        RedactionError,
        ReplayMismatch,
        ResultTimeoutError,
        RunCancelledError,
        RunError,
        RunHeldError,
        RunIdInUseError,
        RunNotFoundError,
        SlowConsumer,
        StepError,
        StoreFullError,
        StoreVersionError,
        TargetError,
        UnregisteredEventError,
        UnscopedError,
        UnscopedWarning,
        UnserializableError,
    )

    __version__: str

# Where each public name lives. Modules load when a name of theirs is first used, so that `import crewbus`
# costs next to nothing to whoever only passes by.
_HOMES = {
    "_bus": "Bus",
    "_call": "Call",
    "_callbacks": "Callbacks",
    "_context": "current_call current_run",
    "_default": "call chunk current_bus default_bus drain emit run",
    "_difference": "Divergence",
    "_entities": "register_entity",
    "_guard": "Failure",
    "_history": "Checkpoint RunInfo",
    "_manager": "PluginInfo PluginManager",
    "_markers": "hookimpl hookspec",
    "_propagation": "Thread ThreadPoolExecutor bind",
    "_record": "Record",
    "_registry": "EventType",
    "_run": "Run Sink",
    "_scope": "Attempt",
    "_step": "Step step",
    "_stream": "OwnedStream Stream StreamOptions",
    "abc": "LogInfo Store StoredEvent",
    "builtin.memory_store": "MemoryStore",
    "events": "AttemptStarted CallCancelled CallEnded CallFailed CallFinished CallStarted CheckpointSaved Chunk "
    "Dropped EntitySaved Envelope Retracted RunCancelled RunEnded RunFailed RunFinished RunForked "
    "RunInterrupted RunResumed RunStarted StepEnded StepFailed StepFinished StepStarted Truncated "
    "UnknownEvent event event_type_of event_types register_event",
    "exceptions": "BusClosedError CallError CallbackError Cancelled ConsumptionError CorruptRecordError CrewbusError "
    "CrewbusWarning DecodeError EventTypeError FencedError FlushError FlushTimeoutError GraceWarning "
    "InputError OversizedEventError PluginError PluginWarning RecordingError RedactionError "
    "ReplayMismatch ResultTimeoutError RunCancelledError RunError RunHeldError RunIdInUseError "
    "RunNotFoundError SlowConsumer StepError StoreFullError StoreVersionError TargetError "
    "UnregisteredEventError UnscopedError UnscopedWarning UnserializableError",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("crewbus")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"crewbus.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'crewbus' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
