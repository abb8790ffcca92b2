"""Patches of LangGraph: the context of its nodes, and what they write to its stream.

- Nodes run in a context that LangGraph's own ``_set_config_context`` prepares, as langchain-core's does for others.
- A stream writer is given to nodes, by argument or by ``get_stream_writer``, as part of a runtime that
  ``Runtime.merge`` makes when the graph starts. Without the stream mode "custom" it writes to nobody, and no handler
  is told.
- `retries.py` and `durable.py` wrap what runs a task; `durable.py` also what loads the checkpoint that a graph begins
  with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Final

from langgraph._internal import _runnable
from langgraph.runtime import Runtime

from crewbus_langchain import durable, retries
from crewbus_langchain.events import CustomOutput
from crewbus_langchain.integration import contained, langgraph
from crewbus_langchain.open_scopes import current_open_scope
from crewbus_langchain.plain import as_plain
from crewbus_langchain.wrapping import entering, wrap

SOURCE: Final = "langgraph"
"""The source of the emitted events."""

_writing: Final[ContextVar[bool]] = ContextVar("crewbus_langgraph_writing", default=False)
"""Whether a writer is called by one around it, which reports."""


def apply_patches(undo: ExitStack) -> None:
    """Patch LangGraph; raises if the installed one is another one than expected."""
    wrap(undo, _runnable, "_set_config_context", entering)
    wrap(undo, Runtime, "merge", _merging)
    retries.apply_patches(undo)
    durable.apply_patches(undo)  # around: the attempts are in its step


def _merging(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Report what is written to the stream of a graph that starts."""
    merged = wrapped(*args, **kwargs)
    return merged.override(stream_writer=_Writer(merged.stream_writer))


class _Writer:
    """A stream writer that also emits what is written."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._write = write

    def __call__(self, data: Any) -> None:
        if _writing.get():
            self._write(data)
            return
        token = _writing.set(True)
        try:
            self._write(data)
        finally:
            _writing.reset(token)
        opened = current_open_scope()
        bus = opened.bus if opened is not None else langgraph.bus_in_scope()
        if bus is not None:
            with contained("reporting what was written to a stream"):
                bus.emit(CustomOutput(as_plain(data)), SOURCE)
