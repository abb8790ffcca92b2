"""The plugin ``http``: its command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from crewbus import hookimpl

if TYPE_CHECKING:
    from crewbus import Commands


@hookimpl
def crewbus_cli_commands(commands: Commands) -> None:
    """Add ``crewbus serve``, which is loaded now: it needs the command line, and a bus does not."""
    import_module("crewbus_http.commands.serve").add_to(commands)
