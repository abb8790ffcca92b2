"""The command ``crewbus``: runs agents, shows recorded runs, lists plugins and hooks.

`main` is its entry point. `CommandLine` holds the parser; `add_built_in_commands` adds crewbus's own commands to it.
"""

from __future__ import annotations

from crewbus.cli.app import main
from crewbus.cli.command_line import CommandLine
from crewbus.cli.commands import add_built_in_commands

__all__ = ["CommandLine", "add_built_in_commands", "main"]
