"""Seams: all that is changed of crewAI, each with the reason.

Read from crewAI 1.15.30, for 1.15.23 and later. Where crewAI offers a seam it is used: sinks of streams
(``crewai.events.stream_context``), providers of checkpoints. 251 places of crewAI hold its one bus by name, so methods
are changed on the class.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.events.event_bus import CrewAIEventsBus
from crewai.flow.runtime import Flow
from crewai.lite_agent import LiteAgent
from crewai.llms.base_llm import BaseLLM
from crewai.state import checkpoint_listener, runtime
from crewai.state.event_record import EventRecord
from crewai.state.provider import sqlite_provider
from crewai.state.runtime import RuntimeState
from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool

from crewbus_crewai import callbacks as _callbacks
from crewbus_crewai import checkpoints as _checkpoint
from crewbus_crewai import events as _events
from crewbus_crewai import kickoffs as _runs
from crewbus_crewai import model_calls as _calls
from crewbus_crewai import runtime_state as _state
from crewbus_crewai import streams as _streams
from crewbus_crewai import tasks as _tasks
from crewbus_crewai import tools as _tools
from crewbus_crewai.patch_set import Lead, Patches

SQLITE_WITH_JSONB = (3, 45)


def apply_patches(undo: ExitStack) -> None:
    """Change crewAI, which must have been imported, and be as it is known."""
    patches = Patches()
    undo.callback(patches.remove)
    _events.register()
    for owner, name, lead in _leads():
        patches.lead(owner, name, lead)
    _lead_models(patches)
    _serve_old_sqlite(patches)


def _leads() -> Iterator[tuple[Any, str, Lead]]:
    # A kickoff is a run. Of a Flow, and of a Crew kicked off asynchronously, the others call these.
    yield Crew, "kickoff", _runs.kicked_off
    yield Crew, "akickoff", _runs.kicked_off_async
    yield Flow, "kickoff_async", _runs.kicked_off_async
    yield Flow, "resume_async", _runs.kicked_off_async
    yield Agent, "kickoff", _runs.agent_kicked_off
    yield Agent, "kickoff_async", _runs.agent_kicked_off_async
    yield LiteAgent, "kickoff", _runs.kicked_off

    # Each event passes here, in the context of whoever emits it, stamped, and ahead of every handler.
    yield CrewAIEventsBus, "_prepare_event", _events.prepared

    # crewAI tells whoever waits for a task in a thread of an Exception only: with `crewbus.Cancelled` it would hang.
    yield Task, "_execute_task_async", _tasks.executed_in_thread
    # An agent tries again from inside the attempt that failed; what that had streamed is taken back.
    yield Agent, "execute_task", _tasks.executed
    yield Agent, "aexecute_task", _tasks.executed_async
    yield Agent, "_check_execution_error", _tasks.failing

    # The use of a tool is a step. A sync tool of an async agent loses its context in an executor.
    for cls in (BaseTool, Tool):
        yield cls, "run", _tools.used
        yield cls, "arun", _tools.used_async
    yield CrewStructuredTool, "invoke", _tools.invoked
    yield CrewStructuredTool, "ainvoke", _tools.invoked_async

    yield from _leads_of_streams()
    yield from _leads_of_state()


def _leads_of_streams() -> Iterator[tuple[Any, str, Lead]]:
    # crewAI calls the handlers of all open streams for each chunk, and those of streams that nobody iterates over too.
    streaming = importlib.import_module("crewai.utilities.streaming")
    crew = importlib.import_module("crewai.crew")
    for module in (streaming, importlib.import_module("crewai.crews.utils")):
        yield module, "create_streaming_state", _streams.unregistered
    for module in (streaming, crew):
        yield module, "create_chunk_generator", _streams.iterated
        yield module, "create_async_chunk_generator", _streams.iterated_async
    # It fills in neither place, name nor id of the task.
    yield streaming, "_create_stream_chunk", _streams.filled


def _leads_of_state() -> Iterator[tuple[Any, str, Lead]]:
    # What is made outside any kickoff leaves a state behind, which all kickoffs that begin there would share.
    yield CrewAIEventsBus, "register_entity", _state.registered
    yield CrewAIEventsBus, "_enter_runtime_scope", _state.entered
    # All events of all kickoffs are kept, whether or not there will be a checkpoint.
    yield CrewAIEventsBus, "_record_event", _state.recorded
    yield CrewAIEventsBus, "_register_handler", _state.handlers_changed
    yield CrewAIEventsBus, "off", _state.handlers_changed
    # Checkpoints are written in a pool while what they hold goes on changing, which pydantic panics at.
    yield EventRecord, "model_dump", _state.dumped_record
    yield RuntimeState, "model_dump", _state.unhurried
    yield RuntimeState, "model_dump_json", _state.unhurried
    for module in (runtime, checkpoint_listener):
        yield module, "_prepare_entities", _state.unhurried
    # Checkpoints that are kept in the record of a run.
    yield checkpoint_listener, "_do_checkpoint", _checkpoint.written
    yield importlib.import_module("crewai.state.provider.utils"), "detect_provider", _checkpoint.detected


def _lead_models(patches: Patches) -> None:
    """Model calls are calls, and steps; litellm's callbacks are those of the call, not of the process."""

    def lead(cls: type, name: str) -> None:
        patches.lead(cls, name, _calls.called_async if name == "acall" else _calls.called)

    for cls in dict.fromkeys(_descendants(BaseLLM)):
        for name in ("call", "acall"):
            if name in vars(cls):
                lead(cls, name)
    # Providers are loaded when they are needed.
    patches.lead(BaseLLM, "_wrap_call_method", _calls.wrapping(lead))
    # What is given to one model or call takes the place, in litellm's globals, of what was given to others.
    patches.lead(LLM, "set_callbacks", _callbacks.Request(patches).set_callbacks)


def _serve_old_sqlite(patches: Patches) -> None:
    """crewAI's provider for SQLite asks for a function of 3.45; as text the same is read by every SQLite."""
    if sqlite3.sqlite_version_info < SQLITE_WITH_JSONB:
        patches.set(sqlite_provider, "_INSERT", sqlite_provider._INSERT.replace("jsonb(?)", "json(?)"))


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield child
        yield from _descendants(child)
