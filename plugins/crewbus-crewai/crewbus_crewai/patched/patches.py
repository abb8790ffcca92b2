"""Patches: everything that is patched in crewAI, with the reasons.

Written for crewAI 1.15.30, and valid since 1.15.23. crewAI's extension points are used where they exist: stream sinks
(``crewai.events.stream_context``) and checkpoint providers. 251 places in crewAI refer to its event bus by name, so the
methods of its class are wrapped.
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
from crewai.knowledge.knowledge import Knowledge
from crewai.lite_agent import LiteAgent
from crewai.llms.base_llm import BaseLLM
from crewai.memory.unified_memory import Memory
from crewai.state import checkpoint_listener, runtime
from crewai.state.event_record import EventRecord
from crewai.state.provider import sqlite_provider
from crewai.state.runtime import RuntimeState
from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool

from crewbus_crewai.patch_set import PatchSet, Wrapper
from crewbus_crewai.patched import (
    callbacks,
    checkpoints,
    events,
    executors,
    flushing,
    kickoff_callbacks,
    kickoffs,
    model_calls,
    recall,
    runtime_state,
    streams,
    tasks,
    tools,
    usage,
)

SQLITE_WITH_JSONB = (3, 45)


def apply_patches(undo: ExitStack) -> None:
    """Patch crewAI, which is imported; raises if it lacks what is patched."""
    patches = PatchSet()
    undo.callback(patches.restore)
    events.register()
    for owner, name, wrapper in _wrappers():
        patches.wrap(owner, name, wrapper)
    # A flush would not wait for sync handlers of an event that has async ones too.
    patches.wrap(CrewAIEventsBus, "_ensure_executor_initialized", flushing.tracking(patches))
    _wrap_models(patches)
    _support_old_sqlite(patches)


def _wrappers() -> Iterator[tuple[Any, str, Wrapper]]:
    # A kickoff is a run. The other kickoff methods of Flow and Crew call these.
    yield Crew, "kickoff", kickoffs.kickoff
    # There, the coroutines of async callbacks would be taken for their results.
    yield Crew, "akickoff", kickoff_callbacks.kickoff
    yield Crew, "_arun_sequential_process", kickoff_callbacks.work
    yield Crew, "_arun_hierarchical_process", kickoff_callbacks.work
    yield Flow, "kickoff_async", kickoffs.kickoff_async
    yield Flow, "resume_async", kickoffs.kickoff_async
    yield Agent, "kickoff", kickoffs.agent_kickoff
    yield Agent, "kickoff_async", kickoffs.agent_kickoff_async
    yield LiteAgent, "kickoff", kickoffs.kickoff

    # Every event passes here in the emitter's context, before any handler receives it.
    yield CrewAIEventsBus, "_prepare_event", events.prepare

    # crewAI passes only an Exception to the future of a task in a thread; after `crewbus.Cancelled` it would hang.
    yield Task, "_execute_task_async", tasks.execute_in_thread
    # An agent tries again inside the attempt that failed, whose streamed chunks must be retracted.
    yield Agent, "execute_task", tasks.execute
    yield Agent, "aexecute_task", tasks.execute_async
    yield Agent, "_check_execution_error", tasks.check_error
    # An agent has one executor, which concurrent tasks would share.
    yield Agent, "create_agent_executor", executors.create
    yield Agent, "_execute_without_timeout", executors.execute
    yield Agent, "_aexecute_without_timeout", executors.execute

    # A model that agents share would be counted once for each.
    yield Crew, "calculate_usage_metrics", usage.of_crew

    # A tool use is a step. A sync tool of an async agent would lose its context in an executor.
    for cls in (BaseTool, Tool):
        yield cls, "run", tools.run
        yield cls, "arun", tools.run_async
    yield CrewStructuredTool, "invoke", tools.invoke
    yield CrewStructuredTool, "ainvoke", tools.invoke_async

    # What is recalled is part of the prompts, and changes while the kickoff adds to it.
    yield Memory, "recall", recall.recall
    # What was saved would be saved again, and a model asked whether that is the same.
    yield Memory, "_encode_batch", recall.save
    yield Knowledge, "query", recall.query
    yield Knowledge, "aquery", recall.query_async

    yield from _stream_wrappers()
    yield from _state_wrappers()


def _stream_wrappers() -> Iterator[tuple[Any, str, Wrapper]]:
    # crewAI calls the handlers of all streams for each chunk, even those of streams that are not iterated.
    streaming = importlib.import_module("crewai.utilities.streaming")
    crew = importlib.import_module("crewai.crew")
    for module in (streaming, importlib.import_module("crewai.crews.utils")):
        yield module, "create_streaming_state", streams.create_state
    for module in (streaming, crew):
        yield module, "create_chunk_generator", streams.iterate
        yield module, "create_async_chunk_generator", streams.iterate_async
    # crewAI leaves out the index, name and id of the task.
    yield streaming, "_create_stream_chunk", streams.create_chunk


def _state_wrappers() -> Iterator[tuple[Any, str, Wrapper]]:
    # An entity created outside any kickoff leaves a state that all later kickoffs there would share.
    yield CrewAIEventsBus, "register_entity", runtime_state.register_entity
    yield CrewAIEventsBus, "_enter_runtime_scope", runtime_state.enter_scope
    # crewAI keeps all events of all kickoffs, even if no checkpoint is configured.
    yield CrewAIEventsBus, "_record_event", runtime_state.record_event
    yield CrewAIEventsBus, "_register_source", runtime_state.register_source
    yield CrewAIEventsBus, "_register_handler", runtime_state.change_handlers
    yield CrewAIEventsBus, "off", runtime_state.change_handlers
    # crewAI dumps checkpoints in a pool while the entities change, and pydantic panics.
    yield EventRecord, "model_dump", runtime_state.dump_record
    yield RuntimeState, "model_dump", runtime_state.dump_again
    yield RuntimeState, "model_dump_json", runtime_state.dump_again
    for module in (runtime, checkpoint_listener):
        yield module, "_prepare_entities", runtime_state.dump_again
    # Checkpoints in the record of a run.
    yield checkpoint_listener, "_do_checkpoint", checkpoints.write_checkpoint
    yield importlib.import_module("crewai.state.provider.utils"), "detect_provider", checkpoints.detect_provider


def _wrap_models(patches: PatchSet) -> None:
    """Model calls are calls and steps; litellm callbacks belong to the call instead of the process."""

    def wrap(cls: type, name: str) -> None:
        patches.wrap(cls, name, model_calls.call_async if name == "acall" else model_calls.call)

    for cls in dict.fromkeys(_descendants(BaseLLM)):
        for name in ("call", "acall"):
            if name in vars(cls):
                wrap(cls, name)
    # crewAI loads providers lazily.
    patches.wrap(BaseLLM, "_wrap_call_method", model_calls.wrapping_new_classes(wrap))
    # The callbacks of one model would replace those of others in litellm's globals.
    patches.wrap(LLM, "set_callbacks", callbacks.CallbackSetup(patches).set_callbacks)


def _support_old_sqlite(patches: PatchSet) -> None:
    """crewAI's SQLite provider calls a function of SQLite 3.45; JSON as text works with every version."""
    if sqlite3.sqlite_version_info < SQLITE_WITH_JSONB:
        patches.set(sqlite_provider, "_INSERT", sqlite_provider._INSERT.replace("jsonb(?)", "json(?)"))


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield child
        yield from _descendants(child)
