"""crewbus: the event bus under agent applications, as a plugin framework on pluggy."""

from __future__ import annotations

import importlib
from typing import Any, Final

# Where each public name lives. A package is loaded when a name of its is first used, so that `import crewbus` alone
# costs next to nothing: pytest and installers import it. `__init__.pyi` says the same to type checkers.
_PACKAGES: Final = {
    "bus": "Bus Recovery achunk aemit call chunk current_bus default_bus drain emit run",
    "durability": "Step step",
    "streams": "OwnedStream Stream StreamOptions",
    "work": "Thread ThreadPoolExecutor bind reentrant_lock",
    "plugins": "Commands Failure PluginInfo PluginManager hookimpl hookspec",
    "scopes": "Attempt Call Callbacks Run Scope Sink current_call current_run",
    "records": "Checkpoint Divergence Record Records RunInfo",
    "stores": "LogInfo MemoryStore Store StoredEvent",
    "events": (
        "AttemptEnded AttemptStarted CallCancelled CallEnded CallFailed CallFinished CallStarted CheckpointSaved Chunk "
        "Dropped EntitySaved Envelope EventType Retracted RunCancelled RunEnded RunFailed RunFinished "
        "RunForked RunInterrupted RunPatched RunResumed RunStarted RunSuspended StepEnded StepFailed StepFinished "
        "StepStarted Truncated UnknownEvent event event_type_of event_types register_entity register_event "
        "register_exception"
    ),
    "exceptions": (
        "BusClosedError CallError CallbackError Cancelled ConsumptionError CorruptRecordError CrewbusError "
        "CrewbusWarning DecodeError EventTypeError FencedError FlushError FlushTimeoutError GraceWarning "
        "InputError OversizedEventError PluginError PluginWarning RecordingError RedactionError "
        "RejectedError ReplayMismatch ResultTimeoutError RunCancelledError RunEndedError RunError RunFailedError "
        "RunHeldError RunIdInUseError RunNotFoundError RunSuspendedError SlowConsumer StepError StepFailedError "
        "StepWarning StoreFullError StoreVersionError Suspended TargetError UnregisteredEventError UnscopedError "
        "UnscopedWarning UnserializableError"
    ),
}
_HOME: Final = {name: package for package, names in _PACKAGES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605 - type checkers read the stub


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
