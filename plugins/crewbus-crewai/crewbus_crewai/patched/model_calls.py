"""Model calls: each is a call in the run in scope, and in a recorded run a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM

import crewbus
from crewbus import Bus, Call, Chunk, Envelope
from crewbus_crewai.context import held
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.patch_set import Wrapper
from crewbus_crewai.patched.callbacks import calling_back
from crewbus_crewai.patched.request import asked, model_of
from crewbus_crewai.patched.results import Result
from crewbus_crewai.patched.steps import as_step, as_step_async, digest

_current: Final[ContextVar[ModelCall | None]] = ContextVar("crewbus_crewai_call", default=None)


_COMMON: Final = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cached_input_tokens": "cached_prompt_tokens",
}
"""crewbus's names of counts, and crewAI's where they differ."""


class ModelCall:
    """A model call in progress."""

    def __init__(self, llm: BaseLLM) -> None:
        self.llm = llm
        self.run = crewbus.current_run()
        """The run in scope when the call was made."""
        self.usage: dict[str, int] | None = None
        """The token counts that crewAI reports, by its names and by crewbus's."""
        self.streamed_inside = False
        """Whether a nested call reports the streamed chunks, as crewbus-litellm does."""
        self._call: Call | None = None

    @staticmethod
    def current() -> ModelCall | None:
        """The model call in this context."""
        return _current.get()

    @contextmanager
    def in_scope(self, bus: Bus) -> Iterator[None]:
        """Report the call to ``bus``, and put it in scope."""
        with ExitStack() as stack:
            with contained("reporting a model call"):
                callbacks = [self._watch] if self.llm.is_litellm else []
                self._call = stack.enter_context(
                    bus.call(
                        self.llm.model or "model", kind="model", callbacks=callbacks, inherit=True, source=self.llm
                    )
                )
            yield

    def _watch(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, Chunk) and self._call is not None and envelope.parent != self._call.start_id:
            self.streamed_inside = True

    def set_usage(self, usage: Mapping[str, Any] | None) -> None:
        """Set the token counts."""
        counts = {name: count for name, count in (usage or {}).items() if isinstance(count, int)}
        self.usage = counts | {ours: counts[theirs] for ours, theirs in _COMMON.items() if theirs in counts}

    def finish(self, result: Any) -> None:
        """End the call with ``result``."""
        if self._call is not None:
            with contained("reporting the end of a call"):
                self._call.finish(Result.of(result).shown, self.usage)


def call(wrapped: Any, llm: BaseLLM, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Report a model call, unless the same model makes it as part of another call."""
    if _is_part(llm):
        return wrapped(*args, **kwargs)
    with calling_back(llm, args, kwargs):
        bus = integration.bus_in_scope()
        if bus is None:
            return wrapped(*args, **kwargs)
        ask = partial(_ask, bus, llm, partial(wrapped, *args, **kwargs))
        key, model = partial(digest, *asked(args, kwargs)), model_of(llm, args, kwargs)
        return as_step(bus, f"model {llm.model}", key, ask, model)


async def call_async(wrapped: Any, llm: BaseLLM, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `call`."""
    if _is_part(llm):
        return await wrapped(*args, **kwargs)
    with calling_back(llm, args, kwargs):
        bus = integration.bus_in_scope()
        if bus is None:
            return await wrapped(*args, **kwargs)
        ask = partial(_ask_async, bus, llm, partial(wrapped, *args, **kwargs))
        key, model = partial(digest, *asked(args, kwargs)), model_of(llm, args, kwargs)
        return await as_step_async(bus, f"model {llm.model}", key, ask, model)


def _is_part(llm: BaseLLM) -> bool:
    """Whether ``llm`` makes the call as part of another, as when crewAI asks again without rejected parameters."""
    outer = _current.get()
    return outer is not None and outer.llm is llm and outer.run is crewbus.current_run()


def _ask(bus: Bus, llm: BaseLLM, ask: Callable[[], Any]) -> Any:
    call = ModelCall(llm)
    with held(_current, call), call.in_scope(bus):
        result = ask()
        call.finish(result)
    return result


async def _ask_async(bus: Bus, llm: BaseLLM, ask: Callable[[], Any]) -> Any:
    call = ModelCall(llm)
    with held(_current, call), call.in_scope(bus):
        result = await ask()
        call.finish(result)
    return result


def wrapping_new_classes(wrap: Callable[[type, str], None]) -> Wrapper:
    """A wrapper for the method that crewAI calls for each call method of a new class of models."""

    def wrapper(wrapped: Any, cls: type[BaseLLM], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        name = args[0] if args else kwargs["method_name"]
        if name in vars(cls):
            wrap(cls, name)

    return wrapper
