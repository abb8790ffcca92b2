"""The entry point: selects the plugins, finds the command, calls it with the bus, returns the exit code."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress

from crewbus import Bus, default_bus
from crewbus.bus import made_with
from crewbus.cli import completion
from crewbus.cli.command_line import CommandLine
from crewbus.cli.commands import add_built_in_commands, plugins
from crewbus.cli.selection import PluginSelection, split_plugin_options
from crewbus.cli.terminal import Terminal
from crewbus.cli.warning_notes import log_as_notes
from crewbus.exceptions import CrewbusError, InputError, PluginWarning, see_page


def main(argv: Sequence[str] | None = None, *, bus: Bus | None = None) -> int:
    """Run ``crewbus`` with these arguments, by default those of the process, and return the exit code.

    The command runs on ``bus``, or else on the default bus, which is closed when the command ends.
    """
    terminal = Terminal()
    try:
        with log_as_notes(terminal):
            code = _run(sys.argv[1:] if argv is None else argv, bus, terminal)
        sys.stdout.flush()
        return code
    except CrewbusError as error:
        terminal.error(str(error))
        if error.page:
            terminal.note(see_page(error.page))
        return 2
    except KeyboardInterrupt:
        terminal.note("crewbus: interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()
        return 1


def _run(argv: Sequence[str], bus: Bus | None, terminal: Terminal) -> int:
    command_line = CommandLine(terminal.warn)
    add_built_in_commands(command_line)
    if completion.is_asked():
        bus = bus or _open_default_bus(terminal)
        bus.plugins.hook.crewbus_cli_commands(commands=command_line)
        completion.complete(command_line.parser)
    try:
        selection, rest = split_plugin_options(argv, command_line.parser)
    except SystemExit as stop:
        return int(stop.code or 0)
    if bus is None:
        return _run_on_default_bus(argv, rest, selection, command_line, terminal)
    if selection != PluginSelection():
        raise InputError("-p and --require select the plugins of the default bus, but another bus was given")
    return _call(argv, rest, bus, command_line, terminal)


def _run_on_default_bus(
    argv: Sequence[str],
    rest: Sequence[str],
    selection: PluginSelection,
    command_line: CommandLine,
    terminal: Terminal,
) -> int:
    selection.make_importable()
    with made_with(**selection.bus_options):
        return _call(argv, rest, None, command_line, terminal)


def _call(
    argv: Sequence[str], rest: Sequence[str], bus: Bus | None, command_line: CommandLine, terminal: Terminal
) -> int:
    """Parse the arguments and call the command. The default bus is made only when it is needed."""
    try:
        if rest and rest[0] not in (*command_line.commands, "--version"):  # a plugin may add the command
            bus = bus or _open_default_bus(terminal)
            bus.plugins.hook.crewbus_cli_commands(commands=command_line)
        try:
            args = command_line.parser.parse_args(argv)
        except SystemExit as stop:
            return int(stop.code or 0)
        lists_plugins = args.crewbus_main is plugins.main
        bus = bus or _open_default_bus(terminal, warn_of_skipped=not lists_plugins)
        return int(args.crewbus_main(args, bus) or 0)
    finally:
        if bus is not None:
            bus.close()


def _open_default_bus(terminal: Terminal, *, warn_of_skipped: bool = True) -> Bus:
    """The default bus. Warnings from its plugins are shown as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        bus = default_bus()
    skipped = tuple(f"was skipped: {info.reason}" for info in bus.plugins.infos() if info.status == "broken")
    for warning in caught:
        if not issubclass(warning.category, PluginWarning):
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
        elif warn_of_skipped or not str(warning.message).endswith(skipped):
            terminal.warn(str(warning.message))
    return bus


def _discard_output() -> None:
    """Redirect standard output to the null device, so that Python's flush at exit does not fail."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
