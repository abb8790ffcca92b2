"""Scopes: runs, calls, attempts, and what is current."""

from crewbus.scopes.around import Around
from crewbus.scopes.attempt import Attempt
from crewbus.scopes.call import Call
from crewbus.scopes.callbacks import Callback, Callbacks, Function, callbacks_in_context
from crewbus.scopes.current import (
    enclosing,
    execution_id,
    handling,
    innermost,
    nearest,
    scope_var,
    working,
)
from crewbus.scopes.lookup import current_call, current_run
from crewbus.scopes.options import (
    AS_THE_BUS,
    Durability,
    RecordingRequest,
    check_call_arguments,
    check_run_arguments,
    checked_durability,
    new_id,
    recording_request,
)
from crewbus.scopes.ports import Host, Lane, Phase, Preparation
from crewbus.scopes.run import ForkedFrom, ResumedFrom, Run
from crewbus.scopes.run_end import ending, state_after
from crewbus.scopes.scope import Scope, ScopeKind
from crewbus.scopes.sink import Sink
from crewbus.scopes.stopping import Stop, announced, interrupt, was_told_to_suspend, working_loops
from crewbus.scopes.thread_state import Deferring, forget_thread, threads
from crewbus.scopes.tree import Numbers, Tree
from crewbus.scopes.waiting import (
    Place,
    Room,
    Wait,
    await_room,
    can_wait,
    end_wait,
    end_waits,
    forget_waits,
    unfinished,
    wait_for_room,
)

__all__ = [
    "AS_THE_BUS",
    "Around",
    "Attempt",
    "Call",
    "Callback",
    "Callbacks",
    "Deferring",
    "Durability",
    "ForkedFrom",
    "Function",
    "Host",
    "Lane",
    "Numbers",
    "Phase",
    "Place",
    "Preparation",
    "RecordingRequest",
    "ResumedFrom",
    "Room",
    "Run",
    "Scope",
    "ScopeKind",
    "Sink",
    "Stop",
    "Tree",
    "Wait",
    "announced",
    "await_room",
    "callbacks_in_context",
    "can_wait",
    "check_call_arguments",
    "check_run_arguments",
    "checked_durability",
    "current_call",
    "current_run",
    "enclosing",
    "end_wait",
    "end_waits",
    "ending",
    "execution_id",
    "forget_thread",
    "forget_waits",
    "handling",
    "innermost",
    "interrupt",
    "nearest",
    "new_id",
    "recording_request",
    "scope_var",
    "state_after",
    "threads",
    "unfinished",
    "wait_for_room",
    "was_told_to_suspend",
    "working",
    "working_loops",
]
