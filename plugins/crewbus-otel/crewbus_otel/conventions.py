"""The names of the GenAI semantic conventions: the one table, for the release that is the default and for the newest.

https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai, and
https://github.com/open-telemetry/semantic-conventions-genai/tree/v0.1.0/docs/gen-ai for the newest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST: Final = "gen_ai_latest_experimental"
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Whether inputs and outputs become attributes."""
_CAPTURING: Final = {"true", "1", "span_only", "span_and_event"}

# Attributes that both releases name alike
OPERATION: Final = "gen_ai.operation.name"
AGENT_NAME: Final = "gen_ai.agent.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
TOOL_NAME: Final = "gen_ai.tool.name"
DATA_SOURCE: Final = "gen_ai.data_source.id"
PROVIDER: Final = "gen_ai.provider.name"
RESPONSE_MODEL: Final = "gen_ai.response.model"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
TOKEN_TYPE: Final = "gen_ai.token.type"
ERROR_TYPE: Final = "error.type"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
STREAMED: Final = "gen_ai.request.stream"

# crewbus's own
RUN_ID: Final = "crewbus.run.id"
NUMBER: Final = "crewbus.number"
"""The number of the event that began it in the record of its root run."""
EPOCH: Final = "crewbus.run.epoch"
CALL_NAME: Final = "crewbus.call.name"
STEP_NAME: Final = "crewbus.step.name"
TAG: Final = "crewbus.tag."
CHUNKS: Final = "crewbus.chunks"
OUTCOME: Final = "crewbus.outcome"
"""finished, failed, cancelled, suspended; or unfinished, if it had no end when its run ended or the bus was closed."""
REASON: Final = "crewbus.reason"
COST: Final = "crewbus.cost"
"""In US dollars."""

OPERATIONS: Final[Mapping[str, str]] = {
    "model": "chat",
    "tool": "execute_tool",
    "agent": "invoke_agent",
    "retrieval": "retrieval",
    "embedding": "embeddings",
}
"""By the kind of a call."""
SUBJECTS: Final[Mapping[str, str]] = {
    "model": REQUEST_MODEL,
    "tool": TOOL_NAME,
    "agent": AGENT_NAME,
    "retrieval": DATA_SOURCE,
    "embedding": REQUEST_MODEL,
}
"""By the kind of a call: the attribute whose value follows the operation in the span's name. By default the call's name
is its value."""
AGENT: Final = "invoke_agent"
WORKFLOW: Final = "invoke_workflow"

ATTRIBUTES: Final[Mapping[str, str]] = {
    "model": REQUEST_MODEL,
    "provider": PROVIDER,
    "conversation": "gen_ai.conversation.id",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "response_model": RESPONSE_MODEL,
    "response_id": "gen_ai.response.id",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "tool_call_id": "gen_ai.tool.call.id",
    "server": SERVER_ADDRESS,
    "port": SERVER_PORT,
}
"""The attributes of a call by their short names. A name with a dot stays as it is; others get ``crewbus.call.``."""

INPUTS: Final[Mapping[str, str]] = {
    "model": "gen_ai.input.messages",
    "agent": "gen_ai.input.messages",
    "tool": "gen_ai.tool.call.arguments",
    "retrieval": "gen_ai.retrieval.query.text",
}
"""By the kind of a call: the attribute with its input."""
OUTPUTS: Final[Mapping[str, str]] = {
    "model": "gen_ai.output.messages",
    "agent": "gen_ai.output.messages",
    "tool": "gen_ai.tool.call.result",
    "retrieval": "gen_ai.retrieval.documents",
}
"""By the kind of a call: the attribute with its output."""

DURATIONS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The bounds of the buckets of durations, in seconds."""
TOKENS: Final = tuple(4**power for power in range(14))
"""The bounds of the buckets of tokens."""

# Metrics of crewbus's own
ACTIVE_RUNS: Final = "crewbus.runs.active"
BACKLOG_EVENTS: Final = "crewbus.store.backlog.events"
BACKLOG_BYTES: Final = "crewbus.store.backlog.size"
BACKLOG_AGE: Final = "crewbus.store.backlog.age"
COMMIT_DURATION: Final = "crewbus.store.commit.duration"
DROPPED_FRAMES: Final = "crewbus.stream.dropped_frames"
LOST_LEASES: Final = "crewbus.store.lost_leases"
QUEUE_LENGTH: Final = "crewbus.queue.length"
QUEUE_AGE: Final = "crewbus.queue.age"


@attrs.frozen
class Conventions:
    """What the releases name differently."""

    schema_url: str | None
    """Where their schema is, or None: for the newest none is published."""
    workflow_name: str
    """The attribute with the name of the outermost of nested runs."""
    usage: Mapping[str, str]
    """The attributes of a call's usage, by crewbus's names."""
    durations: Mapping[str, str]
    """The metric of an operation's duration."""
    tokens: Mapping[str, str]
    """The metric of a call's tokens, by crewbus's names. One that occurs twice says which type they are."""


_USAGE: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
_TOKEN_USAGE: Final = "gen_ai.client.token.usage"

V1_41: Final = Conventions(
    schema_url="https://opentelemetry.io/schemas/1.41.0",
    workflow_name="gen_ai.workflow.name",
    usage=_USAGE,
    durations=dict.fromkeys((*OPERATIONS.values(), WORKFLOW), _OPERATION_DURATION),
    tokens={"input_tokens": _TOKEN_USAGE, "output_tokens": _TOKEN_USAGE},
)
NEWEST: Final = Conventions(
    schema_url=None,
    workflow_name=AGENT_NAME,
    usage=_USAGE,
    durations={
        "chat": "gen_ai.client.inference.duration",
        "embeddings": "gen_ai.client.embeddings.duration",
        "execute_tool": "gen_ai.execute_tool.duration",
        "retrieval": _OPERATION_DURATION,
        AGENT: "gen_ai.invoke_agent.duration",
        WORKFLOW: "gen_ai.invoke_agent.duration",
    },
    tokens={
        "input_tokens": "gen_ai.client.inference.usage.input_tokens",
        "output_tokens": "gen_ai.client.inference.usage.output_tokens",
        "cached_input_tokens": "gen_ai.client.inference.usage.cache_read.input_tokens",
        "reasoning_tokens": "gen_ai.client.inference.usage.reasoning.output_tokens",
    },
)


def chosen() -> Conventions:
    """The conventions that the environment asks for."""
    wanted = {one.strip() for one in os.environ.get(OPT_IN, "").split(",")}
    return NEWEST if LATEST in wanted else V1_41


def captures_content() -> bool:
    """Whether the environment asks for inputs and outputs in attributes."""
    return os.environ.get(CAPTURE, "").strip().lower() in _CAPTURING
