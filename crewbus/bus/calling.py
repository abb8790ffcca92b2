"""Calls of models and tools: what `Bus.call` and `Bus.callbacks` make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from crewbus.scopes import Call, Callbacks, Function, Host, check_call_arguments


class Calling(Protocol):
    """What a call asks of its bus."""

    _host: Host


def call(
    self: Calling,
    name: str,
    *,
    kind: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    input: Any = None,  # noqa: A002 - the name that users look for
    callbacks: Iterable[Function] | None = (),
    inherit: bool = False,
    source: Any = None,
) -> Call:
    """A call of a model or tool, to be entered with ``with``; in the current run, or outside any.

    ``kind`` says what is called: "model", "embedding", "tool", "agent", "retrieval", or another text. ``attributes``
    describe the call, by name, as JSON values: see `Call.attributes`. ``input`` is what it is given: text, or another
    JSON value. A record has it, as it has the call's output, only if ``enable_recording(content=True)`` asks for it.
    ``callbacks`` are called, plain ones inline and async ones as tasks, with each envelope of this call and of no
    other, until its terminal event; so are those of `Bus.callbacks` around it. ``inherit``: so are those of the
    enclosing call, for integrations, whose users do not know the call that is made on their behalf. ``source``:
    who calls.
    """
    check_call_arguments(name, callbacks, kind, attributes)
    return Call(self._host, name, callbacks or (), inherit, source, kind, attributes, input)


def callbacks(self: Calling, *callbacks: Function) -> Callbacks:
    """Callbacks for all calls that start in the context of a ``with`` block; nested ones are added."""
    return Callbacks(self._host, callbacks)
