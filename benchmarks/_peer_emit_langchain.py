# mypy: allow-subclassing-any
"""langchain-core: callback handlers that get a runnable's custom events, and the tokens of a model's run."""

from __future__ import annotations

import os

from benchmarks._quiet import QUIET

os.environ.update(QUIET)

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager, dispatch_custom_event
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig, RunnableLambda

from benchmarks._harness import Timed, per_call


class Ignoring(BaseCallbackHandler):
    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        pass

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        pass


def _emit(n: int) -> None:
    for _ in range(n):
        dispatch_custom_event("task_finished", {"task": "research", "output": "done"})


def events(handlers: int, n: int) -> Timed:
    """The nanoseconds per custom event, dispatched from a runnable that is invoked with the handlers."""
    config = RunnableConfig(callbacks=[Ignoring() for _ in range(handlers)])

    def timed(_: object) -> float:
        return per_call(_emit, n)()

    runnable = RunnableLambda(timed)
    return lambda: float(runnable.invoke(None, config))


def chunks(handlers: int, n: int) -> Timed:
    """The nanoseconds per token, given to the run manager of a model's call, as a model does."""
    manager = CallbackManager.configure(inheritable_callbacks=[Ignoring() for _ in range(handlers)])

    def timed() -> float:
        (run,) = manager.on_llm_start({}, ["Hello?"])

        def emit(n: int) -> None:
            new_token = run.on_llm_new_token
            for _ in range(n):
                new_token("Hello")

        took = per_call(emit, n)()
        run.on_llm_end(LLMResult(generations=[]))
        return took

    return timed
