"""The plugin ``workers``: its event type, and its commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from crewbus import hookimpl
from crewbus_workers.events import Enqueued

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crewbus import Commands

_COMMANDS: Final = ("enqueue", "worker", "send", "queues", "requeue")


@hookimpl
def crewbus_event_types() -> Iterable[type]:
    """The event that queues a run."""
    return [Enqueued]


@hookimpl
def crewbus_cli_commands(commands: Commands) -> None:
    """Add the commands, which are loaded now: they need the command line, and a bus does not."""
    for name in _COMMANDS:
        import_module(f"crewbus_workers.commands.{name}").add_to(commands)
