"""The plugin ``workers``: its event type, and its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crewbus import hookimpl
from crewbus_workers.commands import enqueue, queues, requeue, send, worker

if TYPE_CHECKING:
    from crewbus import Commands


@hookimpl
def crewbus_cli_commands(commands: Commands) -> None:
    """Add the commands."""
    for module in (enqueue, worker, send, queues, requeue):
        module.add_to(commands)
