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
    "Commands",
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
    "Records",
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
    from crewbus.bus.bus import Bus
    from crewbus.bus.default import call, chunk, current_bus, default_bus, drain, emit, run
    from crewbus.durability.step import Step, step
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
        EventType,
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
        register_entity,
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
    from crewbus.plugins.commands import Commands
    from crewbus.plugins.failure import Failure
    from crewbus.plugins.manager import PluginManager
    from crewbus.plugins.markers import hookimpl, hookspec
    from crewbus.plugins.status import PluginInfo
    from crewbus.records.checkpoint import Checkpoint
    from crewbus.records.diff import Divergence
    from crewbus.records.info import RunInfo
    from crewbus.records.library import Records
    from crewbus.records.record import Record
    from crewbus.scopes.call import Call
    from crewbus.scopes.callbacks import Callbacks
    from crewbus.scopes.current import current_call, current_run
    from crewbus.scopes.run import Run, Sink
    from crewbus.scopes.scope import Attempt
    from crewbus.stores import LogInfo, MemoryStore, Store, StoredEvent
    from crewbus.streams.options import StreamOptions
    from crewbus.streams.owned import OwnedStream
    from crewbus.streams.stream import Stream
    from crewbus.work.propagation import Thread, ThreadPoolExecutor, bind

    __version__: str

# Where each public name lives. Modules load when a name of theirs is first used, so that `import crewbus`
# costs next to nothing to whoever only passes by.
_HOMES = {
    "bus.bus": "Bus",
    "scopes.call": "Call",
    "scopes.callbacks": "Callbacks",
    "scopes.current": "current_call current_run",
    "bus.default": "call chunk current_bus default_bus drain emit run",
    "records.diff": "Divergence",
    "plugins.commands": "Commands",
    "plugins.failure": "Failure",
    "records.checkpoint": "Checkpoint",
    "records.info": "RunInfo",
    "records.library": "Records",
    "plugins.manager": "PluginManager",
    "plugins.markers": "hookimpl hookspec",
    "plugins.status": "PluginInfo",
    "work.propagation": "Thread ThreadPoolExecutor bind",
    "records.record": "Record",
    "scopes.run": "Run Sink",
    "scopes.scope": "Attempt",
    "durability.step": "Step step",
    "streams.options": "StreamOptions",
    "streams.owned": "OwnedStream",
    "streams.stream": "Stream",
    "stores": "LogInfo MemoryStore Store StoredEvent",
    "events": "AttemptStarted CallCancelled CallEnded CallFailed CallFinished CallStarted CheckpointSaved Chunk "
    "Dropped EntitySaved Envelope Retracted RunCancelled RunEnded RunFailed RunFinished RunForked "
    "RunInterrupted RunResumed RunStarted StepEnded StepFailed StepFinished StepStarted Truncated "
    "EventType UnknownEvent event event_type_of event_types register_entity register_event",
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
