"""Usage: a model that several agents of a crew share is counted once."""

from __future__ import annotations

from typing import Any

from crewai.llms.base_llm import BaseLLM


def of_crew(wrapped: Any, crew: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The usage of a crew, without what crewAI adds again for each agent that shares a model (crewAI#7259)."""
    total = wrapped(*args, **kwargs)
    known: set[int] = set()
    for agent in (*crew.agents, *((crew.manager_agent,) if crew.manager_agent else ())):
        if not isinstance(agent.llm, BaseLLM):
            continue
        if id(agent.llm) in known:
            _subtract(total, agent.llm.get_token_usage_summary())
        known.add(id(agent.llm))
    return total


def _subtract(total: Any, repeated: Any) -> None:
    for name in type(total).model_fields:
        count = getattr(total, name)
        if isinstance(count, int):
            setattr(total, name, max(0, count - getattr(repeated, name)))
