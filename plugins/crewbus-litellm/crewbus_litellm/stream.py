"""Streams: what litellm returns for ``stream=True`` is reported while the application consumes it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import cache
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from crewbus import Cancelled
from crewbus_litellm.answer import Answer
from crewbus_litellm.integration import contained
from crewbus_litellm.observation import Observation, working_on
from crewbus_litellm.stream_reaper import reaper
from crewbus_litellm.transcript import Transcript

_KEY = "_crewbus_watcher"


def is_stream(result: Any) -> bool:
    """Whether a litellm function returned a stream."""
    return hasattr(type(result), "__next__") or hasattr(type(result), "__anext__")


def watch(stream: Any, observation: Observation, transcript: Transcript) -> Any:
    """Return ``stream``, whose parts and end are reported to ``observation`` as the application consumes it.

    The stream object stays the same: its class becomes a subclass that also reports. A proxy would miss the methods
    that litellm calls on the stream itself; patching the class would affect every stream. A generator, whose class
    cannot change and which has no such methods, is consumed by another one.
    """
    watcher = StreamWatcher(observation, transcript)
    if isinstance(stream, GeneratorType):
        stream = _watched_generator(watcher, stream)
    elif isinstance(stream, AsyncGeneratorType):
        stream = _watched_async_generator(watcher, stream)
    else:
        stream.__class__ = _watched_class(type(stream))
        vars(stream)[_KEY] = watcher
    watcher.follow(stream)
    return stream


class StreamWatcher:
    """The state of an open stream. Holds no reference to the stream, which may be abandoned."""

    def __init__(self, observation: Observation, transcript: Transcript) -> None:
        self._observation = observation
        self._transcript = transcript
        self._advancing = False
        self.whole: Any = None
        """The response that litellm assembles from the parts at the end."""

    def follow(self, stream: Any) -> None:
        """Report that ``stream`` was abandoned, if it is garbage collected before its end."""
        reaper.stream_opened()
        self._finalizer = weakref.finalize(stream, reaper.reap, self.abandoned)
        self._finalizer.atexit = False

    def step(self, stream: Any, advance: Callable[[Any], Any]) -> Any:
        """Return the stream's next part, and report it or the stream's end."""
        self._advancing = True
        try:
            with working_on(self._observation):  # the Router may begin another try here
                part = advance(stream)
        except StopIteration:
            self._finish(stream)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        self._report(part)
        return part

    async def step_async(self, stream: Any, advance: Callable[[Any], Awaitable[Any]]) -> Any:
        """As `step`, for ``async for``, which waits for slow consumers."""
        self._advancing = True
        try:
            with working_on(self._observation):
                part = await advance(stream)
        except StopAsyncIteration:
            self._finish(stream)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = False
        self._report(part)
        try:
            await self._observation.drain()
        except BaseException as error:  # the run or the task was cancelled
            self._fail(error)
            raise
        return part

    def close(self, stream: Any) -> None:
        """Report that the stream was closed, unless litellm closes it while it raises an error of its own."""
        if self._advancing:
            return
        if self._transcript.complete:
            self._finish(stream)
        else:
            self._fail(Cancelled("the stream was closed"))

    def abandoned(self) -> None:
        """Report that the stream was garbage collected. Called by the reaper."""
        if self._transcript.complete:
            self._observation.finish(self._answer(None))
        else:
            self._observation.fail(Cancelled("the stream was abandoned"))

    def _report(self, part: Any) -> None:
        try:
            with contained("reading a part of a stream"):
                for kind, text in self._transcript.add(part):
                    self._observation.chunk(kind, text)
        except BaseException as error:  # the run was cancelled or cannot be recorded
            self._fail(error)
            raise

    def _finish(self, stream: Any) -> None:
        if self._ended():
            self._observation.finish(self._answer(stream))

    def _fail(self, error: BaseException) -> None:
        if self._ended():
            self._observation.fail(error)

    def _ended(self) -> bool:
        """Mark the stream as ended; False if it was ended before."""
        first = self._finalizer.detach() is not None
        if first:
            reaper.stream_ended()
        return first

    def _answer(self, stream: Any) -> Answer:
        whole, self.whole = self.whole, None
        cost_of = getattr(getattr(stream, "logging_obj", None), "_response_cost_calculator", None)
        with contained("reading a stream's answer"):
            return self._transcript.answer(whole, cost_of)
        return Answer()


def _watcher_of(stream: Any) -> StreamWatcher:
    found: StreamWatcher = vars(stream)[_KEY]
    return found


def _make_class(cls: Any) -> type:
    def step(stream: Any) -> Any:
        return _watcher_of(stream).step(stream, cls.__next__)

    async def step_async(stream: Any) -> Any:
        return await _watcher_of(stream).step_async(stream, cls.__anext__)

    def close(stream: Any) -> None:
        _watcher_of(stream).close(stream)
        cls.close(stream)

    async def close_async(stream: Any) -> None:
        _watcher_of(stream).close(stream)
        await cls.aclose(stream)

    # litellm calls these at the end of a stream, with the response that it assembled.

    def take_whole(stream: Any, processed_chunk: Any, cache_hit: bool) -> Any:
        _watcher_of(stream).whole = processed_chunk
        return cls.cache_streaming_response(stream, processed_chunk, cache_hit)

    def take_whole_async(stream: Any, processed_chunk: Any, cache_hit: bool) -> Any:
        _watcher_of(stream).whole = processed_chunk
        return cls.async_cache_streaming_response(stream, processed_chunk, cache_hit)

    methods = {
        "__next__": step,
        "__anext__": step_async,
        "close": close,
        "aclose": close_async,
        "cache_streaming_response": take_whole,
        "async_cache_streaming_response": take_whole_async,
    }
    described = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), described | {name: ours for name, ours in methods.items() if hasattr(cls, name)})


_cached_class = cache(_make_class)


def _watched_class(cls: type) -> type:
    # The Router defines a class for each stream, which the cache would keep alive.
    return _make_class(cls) if "<locals>" in cls.__qualname__ else _cached_class(cls)


def _watched_generator(watcher: StreamWatcher, stream: Generator[Any, None, None]) -> Generator[Any, None, None]:
    try:
        while True:
            try:
                part = watcher.step(stream, next)
            except StopIteration:
                return
            yield part
    finally:
        watcher.close(stream)
        stream.close()


async def _watched_async_generator(
    watcher: StreamWatcher, stream: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    try:
        while True:
            try:
                part = await watcher.step_async(stream, anext)
            except StopAsyncIteration:
                return
            yield part
    finally:
        watcher.close(stream)
        await stream.aclose()
