# The public names of crewbus, for type checkers; __init__.py loads them at first use.
from crewbus.bus import (
    Bus as Bus,
)
from crewbus.bus import (
    Recovery as Recovery,
)
from crewbus.bus import (
    achunk as achunk,
)
from crewbus.bus import (
    aemit as aemit,
)
from crewbus.bus import (
    call as call,
)
from crewbus.bus import (
    chunk as chunk,
)
from crewbus.bus import (
    current_bus as current_bus,
)
from crewbus.bus import (
    default_bus as default_bus,
)
from crewbus.bus import (
    drain as drain,
)
from crewbus.bus import (
    emit as emit,
)
from crewbus.bus import (
    run as run,
)
from crewbus.durability import (
    Step as Step,
)
from crewbus.durability import (
    step as step,
)
from crewbus.events import (
    AttemptEnded as AttemptEnded,
)
from crewbus.events import (
    AttemptStarted as AttemptStarted,
)
from crewbus.events import (
    CallCancelled as CallCancelled,
)
from crewbus.events import (
    CallEnded as CallEnded,
)
from crewbus.events import (
    CallFailed as CallFailed,
)
from crewbus.events import (
    CallFinished as CallFinished,
)
from crewbus.events import (
    CallStarted as CallStarted,
)
from crewbus.events import (
    CheckpointSaved as CheckpointSaved,
)
from crewbus.events import (
    Chunk as Chunk,
)
from crewbus.events import (
    Dropped as Dropped,
)
from crewbus.events import (
    EntitySaved as EntitySaved,
)
from crewbus.events import (
    Envelope as Envelope,
)
from crewbus.events import (
    EventType as EventType,
)
from crewbus.events import (
    Retracted as Retracted,
)
from crewbus.events import (
    RunCancelled as RunCancelled,
)
from crewbus.events import (
    RunEnded as RunEnded,
)
from crewbus.events import (
    RunFailed as RunFailed,
)
from crewbus.events import (
    RunFinished as RunFinished,
)
from crewbus.events import (
    RunForked as RunForked,
)
from crewbus.events import (
    RunInterrupted as RunInterrupted,
)
from crewbus.events import (
    RunPatched as RunPatched,
)
from crewbus.events import (
    RunResumed as RunResumed,
)
from crewbus.events import (
    RunStarted as RunStarted,
)
from crewbus.events import (
    RunSuspended as RunSuspended,
)
from crewbus.events import (
    StepEnded as StepEnded,
)
from crewbus.events import (
    StepFailed as StepFailed,
)
from crewbus.events import (
    StepFinished as StepFinished,
)
from crewbus.events import (
    StepStarted as StepStarted,
)
from crewbus.events import (
    Truncated as Truncated,
)
from crewbus.events import (
    UnknownEvent as UnknownEvent,
)
from crewbus.events import (
    event as event,
)
from crewbus.events import (
    event_type_of as event_type_of,
)
from crewbus.events import (
    event_types as event_types,
)
from crewbus.events import (
    register_entity as register_entity,
)
from crewbus.events import (
    register_event as register_event,
)
from crewbus.events import (
    register_exception as register_exception,
)
from crewbus.exceptions import (
    BusClosedError as BusClosedError,
)
from crewbus.exceptions import (
    CallbackError as CallbackError,
)
from crewbus.exceptions import (
    CallError as CallError,
)
from crewbus.exceptions import (
    Cancelled as Cancelled,
)
from crewbus.exceptions import (
    ConsumptionError as ConsumptionError,
)
from crewbus.exceptions import (
    CorruptRecordError as CorruptRecordError,
)
from crewbus.exceptions import (
    CrewbusError as CrewbusError,
)
from crewbus.exceptions import (
    CrewbusWarning as CrewbusWarning,
)
from crewbus.exceptions import (
    DecodeError as DecodeError,
)
from crewbus.exceptions import (
    EventTypeError as EventTypeError,
)
from crewbus.exceptions import (
    FencedError as FencedError,
)
from crewbus.exceptions import (
    FlushError as FlushError,
)
from crewbus.exceptions import (
    FlushTimeoutError as FlushTimeoutError,
)
from crewbus.exceptions import (
    GraceWarning as GraceWarning,
)
from crewbus.exceptions import (
    InputError as InputError,
)
from crewbus.exceptions import (
    OversizedEventError as OversizedEventError,
)
from crewbus.exceptions import (
    PluginError as PluginError,
)
from crewbus.exceptions import (
    PluginWarning as PluginWarning,
)
from crewbus.exceptions import (
    RecordingError as RecordingError,
)
from crewbus.exceptions import (
    RedactionError as RedactionError,
)
from crewbus.exceptions import (
    RejectedError as RejectedError,
)
from crewbus.exceptions import (
    ReplayMismatch as ReplayMismatch,
)
from crewbus.exceptions import (
    ResultTimeoutError as ResultTimeoutError,
)
from crewbus.exceptions import (
    RunCancelledError as RunCancelledError,
)
from crewbus.exceptions import (
    RunEndedError as RunEndedError,
)
from crewbus.exceptions import (
    RunError as RunError,
)
from crewbus.exceptions import (
    RunFailedError as RunFailedError,
)
from crewbus.exceptions import (
    RunHeldError as RunHeldError,
)
from crewbus.exceptions import (
    RunIdInUseError as RunIdInUseError,
)
from crewbus.exceptions import (
    RunNotFoundError as RunNotFoundError,
)
from crewbus.exceptions import (
    RunSuspendedError as RunSuspendedError,
)
from crewbus.exceptions import (
    SlowConsumer as SlowConsumer,
)
from crewbus.exceptions import (
    StepError as StepError,
)
from crewbus.exceptions import (
    StepFailedError as StepFailedError,
)
from crewbus.exceptions import (
    StepWarning as StepWarning,
)
from crewbus.exceptions import (
    StoreFullError as StoreFullError,
)
from crewbus.exceptions import (
    StoreVersionError as StoreVersionError,
)
from crewbus.exceptions import (
    Suspended as Suspended,
)
from crewbus.exceptions import (
    TargetError as TargetError,
)
from crewbus.exceptions import (
    UnregisteredEventError as UnregisteredEventError,
)
from crewbus.exceptions import (
    UnscopedError as UnscopedError,
)
from crewbus.exceptions import (
    UnscopedWarning as UnscopedWarning,
)
from crewbus.exceptions import (
    UnserializableError as UnserializableError,
)
from crewbus.plugins import (
    Commands as Commands,
)
from crewbus.plugins import (
    Failure as Failure,
)
from crewbus.plugins import (
    PluginInfo as PluginInfo,
)
from crewbus.plugins import (
    PluginManager as PluginManager,
)
from crewbus.plugins import (
    hookimpl as hookimpl,
)
from crewbus.plugins import (
    hookspec as hookspec,
)
from crewbus.records import (
    Checkpoint as Checkpoint,
)
from crewbus.records import (
    Divergence as Divergence,
)
from crewbus.records import (
    Record as Record,
)
from crewbus.records import (
    Records as Records,
)
from crewbus.records import (
    RunInfo as RunInfo,
)
from crewbus.scopes import (
    Attempt as Attempt,
)
from crewbus.scopes import (
    Call as Call,
)
from crewbus.scopes import (
    Callbacks as Callbacks,
)
from crewbus.scopes import (
    Run as Run,
)
from crewbus.scopes import (
    Scope as Scope,
)
from crewbus.scopes import (
    Sink as Sink,
)
from crewbus.scopes import (
    current_call as current_call,
)
from crewbus.scopes import (
    current_run as current_run,
)
from crewbus.stores import (
    LogInfo as LogInfo,
)
from crewbus.stores import (
    MemoryStore as MemoryStore,
)
from crewbus.stores import (
    Store as Store,
)
from crewbus.stores import (
    StoredEvent as StoredEvent,
)
from crewbus.streams import (
    OwnedStream as OwnedStream,
)
from crewbus.streams import (
    Stream as Stream,
)
from crewbus.streams import (
    StreamOptions as StreamOptions,
)
from crewbus.work import (
    Thread as Thread,
)
from crewbus.work import (
    ThreadPoolExecutor as ThreadPoolExecutor,
)
from crewbus.work import (
    bind as bind,
)
from crewbus.work import (
    reentrant_lock as reentrant_lock,
)

__version__: str
