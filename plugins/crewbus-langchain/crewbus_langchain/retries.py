"""Retries: where a node or task has a retry policy, each try of it is an attempt at its graph's run.

So what a try streamed that failed is retracted when it fails, with the runs and calls that were in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from langgraph.errors import GraphBubbleUp
from langgraph.pregel import _runner

from crewbus_langchain.open_scopes import OpenScope, current_open_scope, open_scopes
from crewbus_langchain.wrapping import wrap


def apply_patches(undo: ExitStack) -> None:
    """Patch LangGraph; raises if the installed one is another one than expected."""
    wrap(undo, _runner, "run_with_retry", _trying)
    wrap(undo, _runner, "arun_with_retry", _trying)


def _trying(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a node or task whose tries are attempts, if it may be tried again."""
    task, *others = args
    around = open_scopes.of(task.config)
    may_retry = task.retry_policy or (others[0] if others else kwargs.get("retry_policy"))
    if around is not None and may_retry:
        task = replace(task, proc=_Tried(task.proc, around))
    return wrapped(task, *others, **kwargs)


class _Tried:
    """What a task calls: each call is the next attempt."""

    def __init__(self, called: Any, around: OpenScope[Any]) -> None:
        self._called = called
        self._around = around
        self._count = 0

    def invoke(self, given: Any, config: Any) -> Any:
        with self._attempt():
            return self._called.invoke(given, config)

    async def ainvoke(self, given: Any, config: Any) -> Any:
        with self._attempt():
            return await self._called.ainvoke(given, config)

    async def astream(self, given: Any, config: Any) -> AsyncIterator[Any]:
        with self._attempt():
            async for part in self._called.astream(given, config):
                yield part

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """An attempt at the graph's run, or at the step that the node is; one that hands over has not failed."""
        self._count += 1
        handed_over: GraphBubbleUp | None = None
        with ExitStack() as left:
            if current_open_scope() is not self._around:
                left.enter_context(self._around.current())
            left.enter_context(self._around.scope.attempt(self._count))
            try:
                yield
            except GraphBubbleUp as error:
                handed_over = error
        if handed_over is not None:
            raise handed_over
