"""What the tests of plugins share: a plugin that keeps what it gets, and a logger that keeps what it logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import crewbus


class Watcher:
    """A plugin that keeps the failures reported to it."""

    def __init__(self) -> None:
        self.failures: list[crewbus.Failure] = []

    @crewbus.hookimpl
    def crewbus_plugin_error(self, failure: crewbus.Failure) -> None:
        self.failures.append(failure)

    @property
    def names(self) -> list[str]:
        return [failure.name for failure in self.failures]


class Observer:
    """A plugin that keeps the envelopes it observes."""

    def __init__(self) -> None:
        self.envelopes: list[crewbus.Envelope] = []

    @crewbus.hookimpl
    def crewbus_emit(self, envelope: crewbus.Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[Any]:
        return [envelope.event for envelope in self.envelopes]


class Messages(logging.Handler):
    """A logging handler that formats each record as any real one does, and keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.messages.append(record.getMessage())
        except Exception as error:
            self.messages.append(f"not formatted: {type(error).__name__}")


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the logger "crewbus" is given meanwhile, kept from pytest's own handlers."""
    logger, handler = logging.getLogger("crewbus"), Messages()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def plugin(**hooks: Any) -> Any:
    """A plugin object with these functions as its hookimpls."""
    made = type("Plugin", (), {})()
    for name, function in hooks.items():
        marked = function if hasattr(function, "crewbus_impl") else crewbus.hookimpl(function)
        setattr(made, name, marked)
    return made
