"""The plugin ``workers``: its event type, and its commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from crewbus import hookimpl, hookspec
from crewbus_workers.events import Enqueued

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextvars import ContextVar

    from crewbus import Bus, Commands

_COMMANDS: Final = ("enqueue", "worker", "send", "queues", "requeue")


class Hooks:
    """What the plugin asks other plugins. They mark their answer ``optionalhook=True``, so that they need not it."""

    @hookspec
    def crewbus_carry(self, bus: Bus) -> Iterable[ContextVar[Any]] | None:
        """Name ContextVars whose values travel with the runs of every workflow, as those of ``@workflow(carry=…)`` do.

        Called each time that a run is queued or executed, in the context of that.
        """


@hookimpl
def crewbus_configure(bus: Bus) -> None:
    """Add the hook."""
    asked = getattr(bus.plugins.hook, "crewbus_carry", None)
    if asked is None or not asked.has_spec():
        bus.plugins.add_hookspecs(Hooks)


@hookimpl
def crewbus_event_types() -> Iterable[type]:
    """The event that queues a run."""
    return [Enqueued]


@hookimpl
def crewbus_cli_commands(commands: Commands) -> None:
    """Add the commands, which are loaded now: they need the command line, and a bus does not."""
    for name in _COMMANDS:
        import_module(f"crewbus_workers.commands.{name}").add_to(commands)
