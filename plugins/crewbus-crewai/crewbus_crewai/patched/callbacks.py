"""litellm callbacks: those given to a model, or to one call of it, receive the events of that call only."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM

from crewbus import reentrant_lock
from crewbus_crewai.context import held
from crewbus_crewai.integration import contained
from crewbus_crewai.patch_set import PatchSet

LISTS: Final = (
    "dynamic_input_callbacks",
    "dynamic_success_callbacks",
    "dynamic_async_success_callbacks",
    "dynamic_failure_callbacks",
    "dynamic_async_failure_callbacks",
)
"""The attributes in which litellm keeps the callbacks of one request."""

_callbacks: Final[ContextVar[tuple[Any, ...]]] = ContextVar("crewbus_crewai_callbacks", default=())
"""The callbacks of the model call in this context."""


@contextmanager
def calling_back(llm: BaseLLM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Give litellm's requests in the ``with`` the callbacks of ``llm`` and of this call."""
    given = args[2] if len(args) > 2 else kwargs.get("callbacks")
    callbacks = (*(getattr(llm, "callbacks", None) or ()), *(given or ())) if llm.is_litellm else ()
    with held(_callbacks, callbacks):
        yield


class CallbackSetup:
    """Replaces litellm's global callbacks: patches litellm's request setup once crewAI has loaded litellm."""

    def __init__(self, patches: PatchSet) -> None:
        self._patches = patches
        self._lock = reentrant_lock()
        self._patched = False

    def set_callbacks(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Instead of setting litellm's global callbacks, ensure that each request gets those of its call."""
        with self._lock:
            if not self._patched and "litellm.utils" in sys.modules:
                with contained("preparing litellm for callbacks"):
                    self._patches.wrap(sys.modules["litellm.utils"], "function_setup", set_up_request)
                self._patched = True


def set_up_request(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Add the callbacks of the call to the logging object that litellm creates for its request."""
    result = wrapped(*args, **kwargs)
    with contained("adding callbacks to a request"):
        logging, callbacks = result[0], [one for one in _callbacks.get() if _litellm_calls(one)]
        for name in LISTS if callbacks else ():
            setattr(logging, name, _without_repeats([*(getattr(logging, name, None) or ()), *callbacks]))
    return result


def _without_repeats(callbacks: list[Any]) -> list[Any]:
    return list({id(one): one for one in callbacks}.values())


def _litellm_calls(callback: Any) -> bool:
    """Whether litellm accepts the callback; crewAI calls its own token handlers itself."""
    from litellm.integrations.custom_logger import CustomLogger

    return isinstance(callback, CustomLogger | str) or callable(callback)
