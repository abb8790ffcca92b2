"""The handler: langchain's callbacks become runs, calls, chunks and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID
from weakref import WeakSet

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

import crewbus
from crewbus import Bus, Call, CallError, Run, RunCancelledError, RunIdInUseError, RunSuspendedError
from crewbus_langchain import interrupts
from crewbus_langchain.answers import Piece, answer_of, pieces_of, pieces_of_event
from crewbus_langchain.description import HIDDEN, TYPE, key_of, model_attributes, model_name, name_of, node_of, tags_of
from crewbus_langchain.events import CustomEvent
from crewbus_langchain.integration import contained, integration
from crewbus_langchain.open_scopes import OpenScope, open_scopes
from crewbus_langchain.plain import as_plain

SOURCE: Final = "langchain"
"""The source of the emitted events."""

_joined: Final[WeakSet[Run]] = WeakSet()
"""The resumed runs that what they were resumed for has joined."""


class CrewbusHandler(BaseCallbackHandler):
    """Reports each run of langchain's to the bus in scope. One serves the whole process: it only knows run ids."""

    raise_error = True
    """What is not contained is to reach the application: a run that was cancelled, or that can't be recorded."""
    run_inline = True
    """In the task that starts a run, which is to be interrupted when that is cancelled, and in order."""

    # Chains: runs

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,  # noqa: ARG002 - it may be large, and is not the run's
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:
        """Start a run, for a chain, a graph, a node or whatever else is no model and no tool."""
        around, bus = _where(run_id, parent_run_id)
        if bus is None:
            return
        if HIDDEN in (tags or ()):
            if around is not None:
                open_scopes.add(run_id, around, own=False)
            return
        with contained("reporting a run"):
            node = node_of(metadata, around.namespace if around is not None else None)
            name = name_of(serialized, known)
            opened = _resumed(bus, around, name) or _started_run(
                bus, around, run_id, name, {"key": key_of(node, tags), "tags": tags_of(node, known)}
            )
            if node is not None:
                opened.namespace = node.namespace
            open_scopes.add(run_id, opened)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002 - as `inputs`
        """End a run."""
        opened = open_scopes.pop(run_id)
        if opened is not None:
            _close_run(opened, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End a run that failed, or that was interrupted for someone to answer.

        Raises `crewbus.RunCancelledError` or `crewbus.RunSuspendedError` if the run itself was stopped.
        """
        opened = open_scopes.pop(run_id)
        if opened is not None:
            with contained("reporting a failed run"):
                interrupts.report(opened, error)
            _close_run(opened, None if interrupts.are(error) else error)

    # Models: calls

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[Any]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:
        """Start a call of a chat model."""
        self._model_start(serialized, messages, run_id, parent_run_id, metadata, known)

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:
        """Start a call of a model that completes text."""
        self._model_start(serialized, prompts, run_id, parent_run_id, metadata, known)

    @staticmethod
    def _model_start(
        serialized: dict[str, Any] | None,
        prompts: Sequence[Any],
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: Mapping[str, Any] | None,
        known: Mapping[str, Any],
    ) -> None:
        _start_call(
            run_id,
            parent_run_id,
            "model",
            lambda: model_name(metadata, known) or name_of(serialized, known),
            lambda: model_attributes(metadata, known),
            lambda: prompts[0] if len(prompts) == 1 else prompts,
        )

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_: Any) -> None:
        """Report the chunks in what a model streamed."""
        _report_pieces(run_id, True, lambda: list(pieces_of(token, chunk)))

    def on_stream_event(self, event: Any, *, run_id: UUID, **_: Any) -> None:
        """Report the chunks in an event of langchain's protocol for streams."""
        _report_pieces(run_id, False, lambda: list(pieces_of_event(event)))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """End a call of a model with its output and usage."""

        def finish(call: Call) -> None:
            answer = answer_of(response)
            call.set_attributes(**answer.attributes)
            call.finish(answer.output, answer.usage)

        _end_call(run_id, finish)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End a call of a model that failed."""
        _end_call(run_id, lambda call: call.fail(error))

    # Tools and retrievers: calls

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **known: Any,
    ) -> None:
        """Start a call of a tool."""
        _start_call(
            run_id,
            parent_run_id,
            "tool",
            lambda: name_of(serialized, known),
            lambda: {"tool_call_id": tool_call_id} if tool_call_id else {},
            lambda: inputs if inputs is not None else input_str,
        )

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        """End a call of a tool with its output."""
        _end_call(run_id, lambda call: call.finish(as_plain(output)))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End a call of a tool that failed, or in which the graph was interrupted for someone to answer."""
        if interrupts.are(error):
            _end_call(run_id, lambda call: call.finish())
        else:
            _end_call(run_id, lambda call: call.fail(error))

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **known: Any,
    ) -> None:
        """Start a call of a retriever."""
        _start_call(run_id, parent_run_id, "retrieval", lambda: name_of(serialized, known), dict, lambda: query)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        """End a call of a retriever with the documents."""
        _end_call(run_id, lambda call: call.finish(as_plain(documents)))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End a call of a retriever that failed."""
        _end_call(run_id, lambda call: call.fail(error))

    # What code reports

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        """Emit what code dispatched with ``dispatch_custom_event``."""
        opened = open_scopes.get(run_id)
        if opened is not None:
            with contained("reporting a custom event"):
                opened.run(opened.scope.emit, CustomEvent(str(name), as_plain(data)), SOURCE)


def _where(run_id: UUID, parent_run_id: UUID | None) -> tuple[OpenScope[Any] | None, Bus | None]:
    """The open scope around a run that starts, if it is known, and the bus to report to; None: to none."""
    if run_id in open_scopes:
        return None, None
    around = open_scopes.get(parent_run_id)
    return around, around.bus if around is not None else integration.bus_in_scope()


def _resumed(bus: Bus, around: OpenScope[Any] | None, name: str) -> OpenScope[Any] | None:
    """The run in scope, if `crewbus.Bus.resume` resumed it for what starts here; None: it did not."""
    here = crewbus.current_run(bus)
    if around is not None or here is None or here.ended or here.resumed is None or here in _joined:
        return None
    if here.parent is not None or TYPE not in here.tags or here.name != name:
        return None
    _joined.add(here)
    return OpenScope(bus, here.scope(), None)


def _started_run(
    bus: Bus, around: OpenScope[Any] | None, run_id: UUID, name: str, described: Mapping[str, Any]
) -> OpenScope[Run]:
    """A run; one that has no run around it has langchain's id, unless that is in use."""
    here = crewbus.current_run(bus)
    if around is None and (here is None or here.ended):
        root = {**described, "key": None, "tags": {TYPE: "chain", **(described["tags"] or {})}}
        try:
            return OpenScope(bus, bus.run(name, id=str(run_id), **root), None)
        except RunIdInUseError:
            pass
    return OpenScope(bus, bus.run(name, **described), around)


def _close_run(opened: OpenScope[Any], error: BaseException | None) -> None:
    stopped: Exception | None = None
    with contained("reporting the end of a run"):
        try:
            opened.close(error)
        except (RunCancelledError, RunSuspendedError) as stop:
            stopped = stop
    if stopped is not None:
        raise stopped from error


def _start_call(
    run_id: UUID,
    parent_run_id: UUID | None,
    kind: str,
    name: Callable[[], str],
    attributes: Callable[[], Mapping[str, Any]],
    given: Callable[[], Any],
) -> None:
    around, bus = _where(run_id, parent_run_id)
    if bus is None:
        return
    with contained("reporting a call"):
        call = bus.call(
            name(),
            kind=kind,
            attributes=as_plain(attributes()),
            input=as_plain(given()),
            inherit=True,
            source=SOURCE,
        )
        open_scopes.add(run_id, OpenScope(bus, call, around))


def _report_pieces(run_id: UUID, tokens: bool, read: Callable[[], list[Piece]]) -> None:
    opened = open_scopes.own(run_id)
    if opened is None:
        return
    with contained("reporting a chunk"):
        pieces = read()
        if pieces and opened.takes_tokens is None:  # a model may report both, of the same chunks
            opened.takes_tokens = tokens
        if opened.takes_tokens is tokens:
            for kind, text in pieces:
                opened.run(opened.scope.chunk, text, kind, SOURCE)


def _end_call(run_id: UUID, report: Callable[[Call], None]) -> None:
    opened = open_scopes.pop(run_id)
    if opened is None:
        return
    try:
        with contained("reporting the end of a call"):
            opened.run(report, opened.scope)
    finally:
        lost = None if opened.scope.ended else CallError("the outcome of the call could not be reported")
        with contained("leaving a call"):
            opened.close(lost)


handler: Final = CrewbusHandler()
