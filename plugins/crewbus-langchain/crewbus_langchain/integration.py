"""The integration objects that the other modules report through: of langchain-core, and of LangGraph if it is there."""

from typing import Final

from crewbus.integration import Integration

# langchain-core imports this module as it first asks which handlers a run has, and no sooner.
integration: Final = Integration(
    "langchain-core", module="langchain_core.tracers.context", requires="langchain-core>=1.8,<2", by="crewbus-langchain"
)
contained: Final = integration.contained

langgraph: Final = Integration(
    "LangGraph", module="langgraph.pregel.main", requires="langgraph>=1.2,<2", by="crewbus-langchain"
)
