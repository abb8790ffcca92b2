"""The command ``crewbus``: runs agents on the default bus, shows what was recorded, lists what is loaded there."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import crewbus
from crewbus import Bus, default_bus
from crewbus.bus.default import made_with
from crewbus.cli.commands import (
    export,
    fork,
    hooks,
    new_plugin,
    plugins,
    prune,
    replay,
    resume,
    run,
    runs,
    show,
    tail,
)
from crewbus.cli.selection import add_plugin_options, add_to_all, split
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import CrewbusError, PluginError, PluginWarning

__all__ = ["main"]

_COMMANDS: Final = (run, runs, show, tail, resume, fork, replay, export, prune, new_plugin, plugins, hooks)

_EPILOG: Final = """\
examples:
  crewbus run agent.py:answer --arg question="Why is the sky blue?"
  crewbus run newsroom.crew:write --input topics.jsonl --concurrency 50
  jq -c .topic topics.json | crewbus run newsroom.crew:write --input - --json
  crewbus runs --state interrupted
  crewbus show latest
  crewbus resume latest
  crewbus plugins
  crewbus -p mymodule -p no:metrics --require "sqlite>=0.1" runs

exit codes:
  0    all runs ended well
  1    a run failed or was cancelled, two runs differ, or nobody read the output
  2    bad usage, input, target, plugin or record, before or after the runs
  130  interrupted (Ctrl-C): the runs were cancelled
  143  terminated (SIGTERM): the same
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default the process's; returns the exit code."""
    terminal = Terminal()
    try:
        code = _main(sys.argv[1:] if argv is None else argv, terminal)
        sys.stdout.flush()
        return code
    except CrewbusError as error:
        terminal.fail(str(error))
        return 2
    except KeyboardInterrupt:
        terminal.note("crewbus: interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()
        return 1


def _main(argv: Sequence[str], terminal: Terminal) -> int:
    parser, commands = _parser()
    try:
        options, rest = split(argv, parser)
    except SystemExit as stop:
        return int(stop.code or 0)
    options.make_importable()
    with made_with(**options.arguments):
        # Which commands there are is for the plugins to say.
        unknown = bool(rest) and rest[0] not in (*commands.choices, "--version")
        return _call(argv, parser, commands if unknown else None, terminal)


def _call(
    argv: Sequence[str],
    parser: argparse.ArgumentParser,
    commands: argparse._SubParsersAction[argparse.ArgumentParser] | None,
    terminal: Terminal,
) -> int:
    """Carry the command out; ``commands`` is given where plugins may bring it."""
    bus = None
    try:
        if commands is not None:
            bus = _bus(terminal)
            _add_brought(commands, bus, terminal)
        try:
            args = parser.parse_args(argv)
        except SystemExit as stop:
            return int(stop.code or 0)
        if not hasattr(args, "main"):
            raise PluginError("the plugin that brings this command does not say what it calls: set_defaults(main=...)")
        bus = bus or _bus(terminal, quiet=args.main is plugins.plugins)
        return int(args.main(args, bus) or 0)
    finally:
        if bus is not None:
            bus.close()


def _add_brought(commands: argparse._SubParsersAction[argparse.ArgumentParser], bus: Bus, terminal: Terminal) -> None:
    """Add the commands that plugins bring."""
    own = set(commands.choices)
    bus.plugins.hook.crewbus_cli_commands(commands=commands)
    for conflict in add_to_all(parser for name, parser in commands.choices.items() if name not in own):
        terminal.warn(conflict)


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        "crewbus",
        description="The event bus under agent applications: run agents on it, look at what they did,\n"
        "go on with what was interrupted, see what is plugged in.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"crewbus {crewbus.__version__}")
    add_plugin_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
    add_to_all(commands.choices.values())
    return parser, commands


def _bus(terminal: Terminal, quiet: bool = False) -> Bus:
    """The default bus; what its plugins warn of becomes a note, unless ``quiet`` and they were skipped."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        bus = default_bus()
    skipped = tuple(f"was skipped: {info.reason}" for info in bus.plugins.infos() if info.status == "broken")
    for warning in caught:
        if not issubclass(warning.category, PluginWarning):
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
        elif not (quiet and str(warning.message).endswith(skipped)):
            terminal.warn(str(warning.message))
    return bus


def _discard_output() -> None:
    """Let what Python flushes at exit go nowhere, since nobody reads it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
