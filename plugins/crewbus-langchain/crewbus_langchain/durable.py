"""Durable graphs: in a recorded run each node and task of LangGraph's is a step, so that a resume does not repeat it.

The result of a step is what the node or task wrote to the channels of its graph, as a checkpointer would save it. The
graph's own checkpointer works beside. Its checkpoints may be ahead of where the run is repeated from, since it saved
them before the run was interrupted: so the run also records which checkpoint its graph began with.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from langgraph._internal._config import recast_checkpoint_ns
from langgraph._internal._constants import CONF, CONFIG_KEY_CHECKPOINT_ID, RETURN
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphBubbleUp, ParentCommand
from langgraph.pregel import _loop, _runner

from crewbus import UnserializableError
from crewbus_langchain.asking import durable_types
from crewbus_langchain.description import key_of, node_of
from crewbus_langchain.open_scopes import OpenScope, open_scopes
from crewbus_langchain.wrapping import wrap

_NO_CHECKPOINT: Final = "00000000-0000-0000-0000-000000000000"
"""The id of a checkpoint that there never is: a graph that begins with it begins anew."""


def apply_patches(undo: ExitStack) -> None:
    """Patch LangGraph; raises if the installed one is another one than expected."""
    wrap(undo, _runner, "run_with_retry", _running)
    wrap(undo, _runner, "arun_with_retry", _running_async)
    wrap(undo, _loop.SyncPregelLoop, "__enter__", _beginning)
    wrap(undo, _loop.AsyncPregelLoop, "__aenter__", _beginning_async)


# Nodes and tasks


class _Left(BaseException):
    """Leaves a step open: a node waits for someone's answer, and a resume asks again."""

    def __init__(self, error: GraphBubbleUp) -> None:
        super().__init__()
        self.error = error


def _running(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a node or task as a step, if its graph is durable."""
    task = args[0]
    around = _durable(open_scopes.of(task.config))
    if around is None:
        return wrapped(*args, **kwargs)
    outcome = _Outcome(task, around)

    def work() -> Any:
        try:
            outcome.returned = wrapped(*args, **kwargs)
        except GraphBubbleUp as error:
            outcome.left(error)
        return outcome.written()

    try:
        with around.current():
            recorded = around.scope.run.step(task.name, work, key=outcome.key)
    except _Left as left:
        raise left.error from None
    return outcome.of(recorded)


async def _running_async(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """As `_running`, for the nodes and tasks of an async graph."""
    task = args[0]
    around = _durable(open_scopes.of(task.config))
    if around is None:
        return await wrapped(*args, **kwargs)
    outcome = _Outcome(task, around)

    async def work() -> Any:
        try:
            outcome.returned = await wrapped(*args, **kwargs)
        except GraphBubbleUp as error:
            outcome.left(error)
        return outcome.written()

    try:
        with around.current():
            recorded = await around.scope.run.step(task.name, work, key=outcome.key)
    except _Left as left:
        raise left.error from None
    return outcome.of(recorded)


def _durable(around: OpenScope[Any] | None) -> OpenScope[Any] | None:
    """The open scope of a graph if its nodes are steps; None: they are not."""
    if around is None or durable_types(around.bus) is None:
        return None
    run, call = around.scope.run, around.scope.call
    return around if call is None and run is not None and run.recorded and not run.ended else None


class _Outcome:
    """What a node or task did: recorded by its step, or taken from the record."""

    def __init__(self, task: Any, around: OpenScope[Any]) -> None:
        self._task = task
        self._serializer = _Serializer(durable_types(around.bus) or ())
        self._ran = False
        self._command: Any = None
        self.returned: Any = None
        node = node_of(task.config.get("metadata"), None)
        self.key = key_of(node, None) or task.name

    def left(self, error: GraphBubbleUp) -> None:
        """Note that it went on in the graph around; leaves the step open if it waits for an answer."""
        if not isinstance(error, ParentCommand):
            raise _Left(error) from None
        self._command = error.args[0]

    def written(self) -> dict[str, Any]:
        """What the step records."""
        self._ran = True
        where = f"node or task {self._task.name!r}"
        found = {"writes": self._serializer.written(list(self._task.writes), where)}
        if self._command is not None:
            found["command"] = self._serializer.written(self._command, where)
        return found

    def of(self, recorded: Mapping[str, Any]) -> Any:
        """What it returns: what it returned now, or what it wrote and returned when it was recorded."""
        if not self._ran:
            self._task.writes.clear()
            self._task.writes.extend(tuple(one) for one in self._serializer.read(recorded["writes"]))
            self.returned = next((value for channel, value in self._task.writes if channel == RETURN), None)
            if "command" in recorded:
                self._command = _addressed(self._serializer.read(recorded["command"]))
        if self._command is not None:
            raise ParentCommand(self._command)
        return self.returned


def _addressed(command: Any) -> Any:
    """A command for a graph around, whose tasks have other ids than when it was recorded."""
    return replace(command, graph=recast_checkpoint_ns(command.graph)) if command.graph else command


class _Serializer:
    """LangGraph's serializer, for the types that it knows and those that were named, and no others."""

    def __init__(self, types: Iterable[type]) -> None:
        self._serde = JsonPlusSerializer(allowed_msgpack_modules=list(types))

    def written(self, value: Any, where: str) -> list[str]:
        """``value`` as JSON. Raises `UnserializableError` if it would not come back as it is."""
        cause: Exception | None = None
        try:
            kind, data = self._serde.dumps_typed(value)
            written = [kind, base64.b64encode(data).decode()]
            if _same(self.read(written), value):
                return written
        except Exception as error:  # of the serializer, or of an object that it writes or compares
            cause = error
        raise UnserializableError(
            f"{where} wrote something that would not come back from the record as it is: write what JSON has, "
            f"messages and other types of langchain's, and dataclasses or models that durable=[...] names"
        ) from cause

    def read(self, written: Any) -> Any:
        """What was written."""
        kind, data = written
        return self._serde.loads_typed((kind, base64.b64decode(data)))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same types."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other) or repr(one) == repr(other)


# Checkpoints


def _beginning(wrapped: Callable[..., Any], loop: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Begin with the checkpoint with which the graph began when this was recorded."""
    around = _around(loop)
    if around is not None:
        with around.current():
            asked, step = _latest(loop)
            _begin_with(loop, asked, around.scope.run.step("langgraph.checkpoint", step))
    return wrapped(*args, **kwargs)


async def _beginning_async(
    wrapped: Callable[..., Any], loop: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """As `_beginning`, for an async graph."""
    around = _around(loop)
    if around is not None:
        with around.current():
            asked, _ = _latest(loop)

            async def step() -> str:
                asked.append(loop)
                return _id_of(await loop.checkpointer.aget_tuple(loop.checkpoint_config))

            _begin_with(loop, asked, await around.scope.run.step("langgraph.checkpoint", step))
    return await wrapped(*args, **kwargs)


def _around(loop: Any) -> OpenScope[Any] | None:
    """The open scope of a graph whose nodes are steps and that begins with its latest checkpoint; else None."""
    if not loop.checkpointer or loop.is_nested or loop.checkpoint_config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
        return None
    return _durable(open_scopes.get(getattr(loop.manager, "run_id", None)))


def _latest(loop: Any) -> tuple[list[Any], Callable[[], str]]:
    """A list that is empty until the function beside it was called, which returns the id of the latest checkpoint."""
    asked: list[Any] = []

    def step() -> str:
        asked.append(loop)
        return _id_of(loop.checkpointer.get_tuple(loop.checkpoint_config))

    return asked, step


def _id_of(saved: Any) -> str:
    return str(saved.checkpoint["id"]) if saved is not None else _NO_CHECKPOINT


def _begin_with(loop: Any, asked: list[Any], checkpoint_id: str) -> None:
    if not asked:  # the id is from the record: there may be later checkpoints, of what is repeated now
        config = loop.checkpoint_config
        loop.checkpoint_config = {**config, CONF: {**config[CONF], CONFIG_KEY_CHECKPOINT_ID: checkpoint_id}}
