"""Callbacks for litellm: those given to a model, or to a call of it, hear of that call alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM

from crewbus_crewai.context import held
from crewbus_crewai.integration import contained
from crewbus_crewai.patch_set import Patches

LISTS: Final = (
    "dynamic_input_callbacks",
    "dynamic_success_callbacks",
    "dynamic_async_success_callbacks",
    "dynamic_failure_callbacks",
    "dynamic_async_failure_callbacks",
)
"""Where litellm keeps the callbacks of one request."""

_here: Final[ContextVar[tuple[Any, ...]]] = ContextVar("crewbus_crewai_callbacks", default=())
"""The callbacks of the model call that is under way here."""


@contextmanager
def calling_back(llm: BaseLLM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Have the callbacks of ``llm``, and those that this call is given, hear of what litellm is asked for it."""
    given = args[2] if len(args) > 2 else kwargs.get("callbacks")
    callbacks = (*(getattr(llm, "callbacks", None) or ()), *(given or ())) if llm.is_litellm else ()
    with held(_here, callbacks):
        yield


class Request:
    """The seam in litellm where a request is set up: it is led here as soon as crewAI has loaded litellm."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._lock = threading.Lock()
        self._led = False

    def set_callbacks(self, stock: Any, callbacks: list[Any]) -> None:  # noqa: ARG002
        """In place of setting litellm's global callbacks: see to it that those of each call are called."""
        with self._lock:
            if not self._led and "litellm.utils" in sys.modules:
                with contained("preparing litellm for callbacks"):
                    self._patches.lead(sys.modules["litellm.utils"], "function_setup", set_up)
                self._led = True


def set_up(stock: Any, *args: Any, **kwargs: Any) -> Any:
    """Give what litellm makes for a request the callbacks of the call that it is made for."""
    made = stock(*args, **kwargs)
    with contained("giving a request its callbacks"):
        callbacks = [one for one in _here.get() if _is_heard(one)]
        for name in LISTS if callbacks else ():
            setattr(made[0], name, _without_repeats([*(getattr(made[0], name, None) or ()), *callbacks]))
    return made


def _without_repeats(callbacks: list[Any]) -> list[Any]:
    return list({id(one): one for one in callbacks}.values())


def _is_heard(callback: Any) -> bool:
    """Whether litellm calls it; crewAI's own handlers of tokens it does not, and crewAI calls those itself."""
    from litellm.integrations.custom_logger import CustomLogger

    return isinstance(callback, CustomLogger | str) or callable(callback)
