"""The command ``crewbus``: runs agents, shows recorded runs, lists plugins and hooks.

`main` is its entry point. `CommandLine` holds the parser; `add_built_in_commands` adds crewbus's own commands to it.
The other names are for the commands of plugins, which then read and write as those of crewbus do.
"""

from __future__ import annotations

from crewbus._util import format_duration
from crewbus.cli.app import main
from crewbus.cli.command_line import CommandLine
from crewbus.cli.commands import add_built_in_commands
from crewbus.cli.commands.show import tree_as_json
from crewbus.cli.formatting import paragraph, parse_tag
from crewbus.cli.input import parse_arguments
from crewbus.cli.record_arguments import add_json_argument, add_run_argument, add_store_argument, open_store
from crewbus.cli.run_ids import find_run
from crewbus.cli.run_table import run_as_json
from crewbus.cli.table import format_table
from crewbus.cli.target import load_object
from crewbus.cli.terminal import Terminal

__all__ = [
    "CommandLine",
    "Terminal",
    "add_built_in_commands",
    "add_json_argument",
    "add_run_argument",
    "add_store_argument",
    "find_run",
    "format_duration",
    "format_table",
    "load_object",
    "main",
    "open_store",
    "paragraph",
    "parse_arguments",
    "parse_tag",
    "run_as_json",
    "tree_as_json",
]
