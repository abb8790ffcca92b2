"""LangGraph's SqliteSaver, driven as a graph drives it: a checkpoint and its writes after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver


@contextmanager
def recording(path: Path) -> Iterator[Callable[[int], None]]:
    """A loop that puts so many events into a thread of its own: for each the state, which is small, and its writes."""
    with SqliteSaver.from_conn_string(str(path)) as saver:

        def loop(n: int) -> None:
            config: Any = {"configurable": {"thread_id": uuid4().hex, "checkpoint_ns": ""}}
            for step in range(n):
                state = {"task": "research", "output": "done"}
                versions: dict[str, str | int | float] = dict.fromkeys(state, step)
                checkpoint = empty_checkpoint()
                checkpoint["channel_values"], checkpoint["channel_versions"] = state, versions
                config = saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, versions)
                saver.put_writes(config, list(state.items()), f"task {step}")

        yield loop
