"""Small helpers: callables, deadlines, event loops, errors, warnings."""

from typing import TYPE_CHECKING

from crewbus._util.arguments import checked_run_id, is_count
from crewbus._util.callables import (
    awaitable_in,
    identity_of,
    is_async,
    is_kind,
    is_same,
    is_text,
    module_name,
    name_of,
    refuse_generator,
)
from crewbus._util.daemon import start_daemon
from crewbus._util.deadlines import checked_seconds, deadline, remaining
from crewbus._util.errors import call_all, raise_first, reported_once
from crewbus._util.lazy import lazy_names, loads
from crewbus._util.locks import reentrant_lock
from crewbus._util.log import log_error
from crewbus._util.loops import awaitable, call_on, in_thread, in_worker, running_loop, settle
from crewbus._util.process import generation
from crewbus._util.scope_ids import is_within, levels, number_in, outermost, scope_id
from crewbus._util.suggest import did_you_mean
from crewbus._util.text import ELLIPSIS, escape_control, one_line
from crewbus._util.urls import without_secrets
from crewbus._util.wakeup import Latch, Wakeup
from crewbus._util.warn import external_stacklevel

if TYPE_CHECKING:
    from crewbus._util.amounts import format_count, format_duration, format_time

__all__ = [
    "ELLIPSIS",
    "Latch",
    "Wakeup",
    "awaitable",
    "awaitable_in",
    "call_all",
    "call_on",
    "checked_run_id",
    "checked_seconds",
    "deadline",
    "did_you_mean",
    "escape_control",
    "external_stacklevel",
    "format_count",
    "format_duration",
    "format_time",
    "generation",
    "identity_of",
    "in_thread",
    "in_worker",
    "is_async",
    "is_count",
    "is_kind",
    "is_same",
    "is_text",
    "is_within",
    "lazy_names",
    "levels",
    "loads",
    "log_error",
    "module_name",
    "name_of",
    "number_in",
    "one_line",
    "outermost",
    "raise_first",
    "reentrant_lock",
    "refuse_generator",
    "remaining",
    "reported_once",
    "running_loop",
    "scope_id",
    "settle",
    "start_daemon",
    "without_secrets",
]

# Loaded at first use: a bus shows no times, and `datetime` takes time to load.
__getattr__ = lazy_names(__name__, {"amounts": "format_count format_duration format_time"})
