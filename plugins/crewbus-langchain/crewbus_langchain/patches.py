"""Patches of langchain-core: a handler for every run, and two things that a handler can't do.

- ``register_configure_hook`` is langchain's own way to have a handler in each run. Its variable has the handler as its
  default, so that runs have it in threads without a context too, and where code lost its config.
- Code that a run executes runs in a context that ``_set_config_context`` prepares: there the run's scope is made
  current. A handler can't: it is called in the context of whoever consumes a stream, where nothing may stay behind.
- An async model waits for the slow consumers of its chunks after ``AsyncCallbackManagerForLLMRun.on_llm_new_token``
  and ``on_stream_event``. A handler is either sync or async for both kinds of models, and would cost sync ones an event
  loop for each token.
- Beside a handler that runs inline, as ours, ``AsyncCallbackManager.on_llm_start`` forgets all others. So ours is
  called after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import AsyncCallbackManager, AsyncCallbackManagerForLLMRun
from langchain_core.runnables import config as runnable_config
from langchain_core.tracers import context as tracers_context

from crewbus_langchain.handler import handler
from crewbus_langchain.integration import contained
from crewbus_langchain.open_scopes import open_scopes
from crewbus_langchain.wrapping import bound_to, entering, wrap

_handler_var: Final[ContextVar[BaseCallbackHandler | None]] = ContextVar("crewbus_langchain", default=handler)


def apply_patches(undo: ExitStack) -> None:
    """Have the handler in every run; raises if the installed langchain-core is another one than expected."""
    hook = (_handler_var, True, None, None)
    if hook not in tracers_context._configure_hooks:
        tracers_context.register_configure_hook(_handler_var, inheritable=True)
        undo.callback(tracers_context._configure_hooks.remove, hook)
    wrap(undo, runnable_config, "_set_config_context", entering)
    wrap(undo, AsyncCallbackManager, "on_llm_start", _starting)
    for name in ("on_llm_new_token", "on_stream_event"):
        wrap(undo, AsyncCallbackManagerForLLMRun, name, _draining)


async def _starting(wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Start the runs of an async model that completes text, for the other handlers and for ours."""
    if handler not in manager.handlers:
        return await wrapped(*args, **kwargs)
    others = manager.copy()
    others.handlers = [one for one in manager.handlers if one is not handler]
    given = {**dict(zip(("serialized", "prompts", "run_id"), args, strict=False)), **kwargs}
    started = await bound_to(wrapped, others)(**given)
    known = {name: value for name, value in given.items() if name not in {"serialized", "prompts", "run_id"}}
    for prompt, run in zip(given["prompts"], started, strict=True):
        run.handlers = manager.handlers
        ids = {"run_id": run.run_id, "parent_run_id": run.parent_run_id}
        handler.on_llm_start(given["serialized"], [prompt], tags=run.tags, metadata=run.metadata, **ids, **known)
    return started


async def _draining(wrapped: Callable[..., Any], manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Wait, after an async model has streamed something, until consumers have room."""
    result = await wrapped(*args, **kwargs)
    opened = open_scopes.own(manager.run_id)
    if opened is not None:
        with contained("waiting for consumers"), opened.current():
            await opened.bus.drain()
    return result
