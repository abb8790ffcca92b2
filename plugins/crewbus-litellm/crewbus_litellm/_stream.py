"""Streams: what litellm returns for ``stream=True``, followed while the user consumes it, wherever that is."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from crewbus import Cancelled
from crewbus_litellm._answer import Answer, answer_streamed, is_last, pieces_of
from crewbus_litellm._integration import contained
from crewbus_litellm._observation import Observation, at_work
from crewbus_litellm._undertaker import undertaker

_KEY = "_crewbus_watch"


def watch(stream: Any, observation: Observation) -> None:
    """Tell ``observation`` what comes out of ``stream``, a ``CustomStreamWrapper``, and how it ends.

    The stream stays the object that it is, and an instance of its class: it is given a subclass of it, which differs in
    nothing but that it tells. Patching the class instead would concern all streams there are.
    """
    vars(stream)[_KEY] = Watch(stream, observation)
    stream.__class__ = _watched_class(type(stream))


class Watch:
    """What is known of a stream that is under way. Holds no reference to it, so that it can be given up."""

    def __init__(self, stream: Any, observation: Observation) -> None:
        self._observation = observation
        self._parts: list[Any] = []
        self._complete = False
        self._advancing = False
        self.whole: Any = None
        """The response that litellm put together from the parts, once it has."""
        undertaker.expect()
        self._gone = weakref.finalize(stream, undertaker.bury, self.give_up)
        self._gone.atexit = False

    def step(self, stream: Any, advance: Callable[[Any], Any]) -> Any:
        """Return the stream's next part, and tell of it, or of the stream's end."""
        self._advancing = True
        try:
            with at_work(self._observation):  # the Router may begin another try in here
                part = advance(stream)
        except StopIteration:
            self._finish(stream)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        self._tell(part)
        return part

    async def step_async(self, stream: Any, advance: Callable[[Any], Awaitable[Any]]) -> Any:
        """As `step`, for ``async for``."""
        self._advancing = True
        try:
            with at_work(self._observation):
                part = await advance(stream)
        except StopAsyncIteration:
            self._finish(stream)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        self._tell(part)
        return part

    def close(self, stream: Any) -> None:
        """Tell that the stream is closed; unless litellm does it, which is about to say why."""
        if self._advancing:
            return
        if self._complete:
            self._finish(stream)
        else:
            self._fail(Cancelled("the stream was closed"))

    def give_up(self) -> None:
        """Tell that the stream is gone: nobody can go on with it. Called by the undertaker."""
        if self._complete:
            self._observation.finish(self._answer(None))
        else:
            self._observation.fail(Cancelled("the stream was abandoned"))

    def _tell(self, part: Any) -> None:
        self._parts.append(part)
        try:
            with contained("reading a part of a stream"):
                for kind, text in pieces_of(part):
                    self._observation.chunk(kind, text)
                self._complete = self._complete or is_last(part)
        except BaseException as error:  # the run was cancelled, or could not be recorded
            self._fail(error)
            raise

    def _finish(self, stream: Any) -> None:
        if self._let_go():
            self._observation.finish(self._answer(stream))

    def _fail(self, error: BaseException) -> None:
        if self._let_go():
            self._observation.fail(error)

    def _let_go(self) -> bool:
        """Whether the stream was under way until now."""
        first = self._gone.detach() is not None
        if first:
            undertaker.dismiss()
        return first

    def _answer(self, stream: Any) -> Answer:
        parts, self._parts = self._parts, []
        whole, self.whole = self.whole, None
        cost_of = getattr(getattr(stream, "logging_obj", None), "_response_cost_calculator", None)
        with contained("reading a stream's answer"):
            return answer_streamed(parts, whole, cost_of)
        return Answer()


def _watch_of(stream: Any) -> Watch:
    found: Watch = vars(stream)[_KEY]
    return found


def _make_class(cls: Any) -> type:
    def step(stream: Any) -> Any:
        return _watch_of(stream).step(stream, cls.__next__)

    async def step_async(stream: Any) -> Any:
        return await _watch_of(stream).step_async(stream, cls.__anext__)

    async def close(stream: Any) -> None:
        _watch_of(stream).close(stream)
        await cls.aclose(stream)

    # litellm calls these with the response that it has put together, at the end of a stream.

    def take_whole(stream: Any, processed_chunk: Any, cache_hit: bool) -> Any:
        _watch_of(stream).whole = processed_chunk
        return cls.cache_streaming_response(stream, processed_chunk, cache_hit)

    def take_whole_async(stream: Any, processed_chunk: Any, cache_hit: bool) -> Any:
        _watch_of(stream).whole = processed_chunk
        return cls.async_cache_streaming_response(stream, processed_chunk, cache_hit)

    return type(
        cls.__name__,
        (cls,),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__next__": step,
            "__anext__": step_async,
            "aclose": close,
            "cache_streaming_response": take_whole,
            "async_cache_streaming_response": take_whole_async,
        },
    )


_kept_class = cache(_make_class)


def _watched_class(cls: type) -> type:
    # The Router makes a class for each stream, which must not be kept.
    return _make_class(cls) if "<locals>" in cls.__qualname__ else _kept_class(cls)
