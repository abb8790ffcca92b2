"""Interrupts: LangGraph ends a node with an exception where it waits for someone's answer; nothing has failed then."""

from __future__ import annotations

import sys
from typing import Any

from crewbus_langchain.events import Interrupted
from crewbus_langchain.open_scopes import OpenScope
from crewbus_langchain.plain import as_plain


def are(error: BaseException) -> bool:
    """Whether LangGraph raised ``error`` to leave a node, and not because that failed."""
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)


def report(opened: OpenScope[Any], error: BaseException) -> None:
    """Emit what a node asks for, if that is why it ends."""
    errors = sys.modules.get("langgraph.errors")
    if errors is None or not isinstance(error, errors.GraphInterrupt) or not error.args:
        return
    values = tuple(as_plain(getattr(one, "value", one)) for one in error.args[0])
    if values:
        opened.run(opened.scope.emit, Interrupted(values), "langgraph")
