"""Which tests of which library: those of what a plugin reports or patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Suite:
    """Tests of a library."""

    distribution: str
    """What the index calls the library."""
    around: str
    """The plugin for pytest, beside this file, that gives the tests what they need, and our plugins if asked for."""
    files: tuple[str, ...]
    """In the folder ``tests`` of the sdist."""
    options: tuple[str, ...] = ()
    """For pytest."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """Why a test may differ, by its name as it is printed."""


CREWAI: Final = (
    "crew/test_async_crew.py",
    "events/test_depends.py",
    "events/test_event_context.py",
    "events/test_event_ordering.py",
    "events/test_event_replay.py",
    "events/test_llm_finish_reason_response_id.py",
    "events/test_llm_usage_event.py",
    "events/test_skill_usage_events.py",
    "events/types/test_system_events.py",
    "hooks/test_crew_scoped_hooks.py",
    "memory/test_unified_memory.py",
    "task/test_async_task.py",
    "test_async_human_feedback.py",
    "test_callback.py",
    "test_checkpoint.py",
    "test_context.py",
    "test_crew.py",
    "test_crew_thread_safety.py",
    "test_custom_llm.py",
    "test_event_record.py",
    "test_flow.py",
    "test_flow_ask.py",
    "test_flow_human_input_integration.py",
    "test_flow_persistence.py",
    "test_flow_persistence_factory.py",
    "test_flow_replies.py",
    "test_flow_resumability_regression.py",
    "test_flow_usage_metrics.py",
    "test_human_feedback_decorator.py",
    "test_human_feedback_integration.py",
    "test_stream_frames.py",
    "test_streaming.py",
    "test_streaming_integration.py",
    "test_task.py",
    "test_task_guardrails.py",
    "utilities/events/test_async_event_bus.py",
    "utilities/events/test_crewai_event_bus.py",
    "utilities/events/test_rw_lock.py",
    "utilities/events/test_shutdown.py",
    "utilities/events/test_thread_safety.py",
    "utilities/test_events.py",
)
"""Crews, flows, tasks, events, streams and checkpoints."""

LANGCHAIN: Final = (
    "unit_tests/callbacks",
    "unit_tests/language_models",
    "unit_tests/runnables",
    "unit_tests/tracers",
    "unit_tests/test_retrievers.py",
    "unit_tests/test_tools.py",
)
"""Callbacks, models, runnables, streams, tools and tracers."""

LANGCHAIN_EXPLAINED: Final = {
    "tests.unit_tests.runnables.test_config.test_merge_config_callbacks": (
        "It counts the handlers of a run, of which one is ours, as any other that a configure hook adds would be."
    ),
    "tests.unit_tests.language_models.chat_models.test_benchmark.test_benchmark_model": (
        "It allows 1 ms for a call on whichever machine, and ours prints each of its events."
    ),
}

LANGGRAPH: Final = (
    "test_config_async.py",
    "test_graph_callbacks.py",
    "test_interleave_arrival_order.py",
    "test_interruption.py",
    "test_parent_command.py",
    "test_parent_command_async.py",
    "test_pregel.py",
    "test_pregel_async.py",
    "test_pregel_stream_events_v3.py",
    "test_retry.py",
    "test_runnable.py",
    "test_runner_futures.py",
    "test_runtime.py",
    "test_stream_before_builtins.py",
    "test_stream_data_transformers.py",
    "test_stream_events_v3.py",
    "test_stream_events_v3_e2e.py",
    "test_stream_lifecycle_transformer.py",
    "test_stream_messages_transformer.py",
    "test_stream_namespaces.py",
    "test_stream_subgraph_transformer.py",
    "test_subgraph_persistence.py",
    "test_subgraph_persistence_async.py",
    "test_time_travel.py",
    "test_tool_stream_handler.py",
    "test_trace_policy.py",
    "test_tracing_interops.py",
)
"""Graphs, streams, callbacks, retries and checkpoints."""

SUITES: Final = {
    "crewai": Suite("crewai", "around_crewai", CREWAI, ("--block-network", "--import-mode=importlib")),
    "langchain": Suite("langchain-core", "around_langchain", LANGCHAIN, explained=LANGCHAIN_EXPLAINED),
    "langgraph": Suite("langgraph", "around_langchain", LANGGRAPH),
}
