"""The events that have no counterpart among crewbus's own."""

from __future__ import annotations

from typing import Any

import attrs

import crewbus


@crewbus.event(name="langchain.CustomEvent")
@attrs.define
class CustomEvent:
    """What code dispatched with ``dispatch_custom_event`` or ``adispatch_custom_event``."""

    name: str
    data: Any = None
    """As JSON: what JSON can't represent is its ``repr``."""


@crewbus.event(name="langgraph.CustomOutput")
@attrs.define
class CustomOutput:
    """What code wrote to LangGraph's stream writer, whichever stream modes were asked for."""

    data: Any = None
    """As JSON: what JSON can't represent is its ``repr``."""


@crewbus.event(name="langgraph.Interrupted")
@attrs.define
class Interrupted:
    """A node called LangGraph's ``interrupt``: the graph ends here, and goes on once it is resumed."""

    values: tuple[Any, ...] = ()
    """What the node asks for, as JSON."""
