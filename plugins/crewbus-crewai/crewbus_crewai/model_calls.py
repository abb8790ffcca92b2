"""Model calls: each is a call of the run that it is made in, and in a recorded run a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from crewai.llms.base_llm import BaseLLM

import crewbus
from crewbus import Bus, Call, Chunk, Envelope
from crewbus_crewai.callbacks import calling_back
from crewbus_crewai.context import held
from crewbus_crewai.integration import contained, integration
from crewbus_crewai.request import asked, model_of
from crewbus_crewai.results import Result
from crewbus_crewai.steps import as_step, as_step_async, digest

_current: Final[ContextVar[ModelCall | None]] = ContextVar("crewbus_crewai_call", default=None)


class ModelCall:
    """One call of a model, as it is under way."""

    def __init__(self, llm: BaseLLM) -> None:
        self.llm = llm
        self.run = crewbus.current_run()
        """The run that it is made in."""
        self.usage: dict[str, int] | None = None
        """What crewAI says that it took: counts by name."""
        self.told_within = False
        """Whether a call made inside it tells of what is streamed, as crewbus-litellm does."""
        self._call: Call | None = None

    @staticmethod
    def current() -> ModelCall | None:
        """The one that is under way here."""
        return _current.get()

    @contextmanager
    def under_way(self, bus: Bus) -> Iterator[None]:
        """Be told to ``bus``, and in scope."""
        with ExitStack() as stack:
            with contained("telling of a model call"):
                watching = [self._watch] if self.llm.is_litellm else []
                self._call = stack.enter_context(
                    bus.call(self.llm.model or "model", callbacks=watching, inherit=True, source=self.llm)
                )
            yield

    def _watch(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, Chunk) and self._call is not None and envelope.parent != self._call.start_id:
            self.told_within = True

    def used(self, usage: Mapping[str, Any] | None) -> None:
        """Learn what it took."""
        self.usage = {name: count for name, count in (usage or {}).items() if isinstance(count, int)}

    def finish(self, result: Any) -> None:
        """End it: it gave ``result``."""
        if self._call is not None:
            with contained("telling of a call's end"):
                self._call.finish(Result.of(result).shown, self.usage)


def called(stock: Any, llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    """Make a model call, unless it is part of one of the same model's."""
    if _is_part(llm):
        return stock(llm, *args, **kwargs)
    with calling_back(llm, args, kwargs):
        bus = integration.bus_in_scope()
        if bus is None:
            return stock(llm, *args, **kwargs)
        ask = partial(_ask, bus, stock, llm, *args, **kwargs)
        key, model = partial(digest, *asked(args, kwargs)), model_of(llm, args, kwargs)
        return as_step(bus, f"model {llm.model}", key, ask, model)


async def called_async(stock: Any, llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    """As `called`."""
    if _is_part(llm):
        return await stock(llm, *args, **kwargs)
    with calling_back(llm, args, kwargs):
        bus = integration.bus_in_scope()
        if bus is None:
            return await stock(llm, *args, **kwargs)
        ask = partial(_ask_async, bus, stock, llm, *args, **kwargs)
        key, model = partial(digest, *asked(args, kwargs)), model_of(llm, args, kwargs)
        return await as_step_async(bus, f"model {llm.model}", key, ask, model)


def _is_part(llm: BaseLLM) -> bool:
    """Whether a call of ``llm`` is part of one under way, as when crewAI asks again without what was refused."""
    around = _current.get()
    return around is not None and around.llm is llm and around.run is crewbus.current_run()


def _ask(bus: Bus, stock: Any, llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    call = ModelCall(llm)
    with held(_current, call), call.under_way(bus):
        result = stock(llm, *args, **kwargs)
        call.finish(result)
    return result


async def _ask_async(bus: Bus, stock: Any, llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    call = ModelCall(llm)
    with held(_current, call), call.under_way(bus):
        result = await stock(llm, *args, **kwargs)
        call.finish(result)
    return result


def wrapping(change: Callable[[type, str], None]) -> Callable[..., None]:
    """How the methods of classes are led here that are defined later, such as those of providers loaded when needed."""

    def wrapped(stock: Any, cls: type[BaseLLM], name: str) -> None:
        stock(cls, name)
        if name in vars(cls):
            change(cls, name)

    return wrapped
