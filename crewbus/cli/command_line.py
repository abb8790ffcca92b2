"""The parser of ``crewbus``, and the commands that it knows."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import crewbus
from crewbus._util import did_you_mean, escape_control
from crewbus.cli.formatting import as_sentence, paragraph
from crewbus.cli.selection import add_plugin_options
from crewbus.exceptions import PluginError

if TYPE_CHECKING:
    from crewbus import Bus

_EPILOG: Final = """\
examples:
  crewbus run agent.py:answer --arg question="Why is the sky blue?"
  crewbus run newsroom.crew:write --input topics.jsonl --concurrency 50
  jq -c .topic topics.json | crewbus run newsroom.crew:write --input - --json
  crewbus runs --state interrupted --state suspended
  crewbus show latest
  crewbus resume latest
  crewbus plugins
  crewbus -p mymodule -p no:metrics --require "sqlite>=0.1" runs

exit codes:
  0    every run finished
  1    a run failed or was cancelled, two runs differ, or the output pipe was closed
  2    invalid usage, input, target, plugin or record
  130  interrupted (Ctrl-C); the runs were cancelled
  143  terminated (SIGTERM); recorded runs were suspended, others cancelled
"""


class CommandLine:
    """Parses the arguments of ``crewbus``. Implements `crewbus.Commands`, through which each command is added."""

    def __init__(self, warn: Callable[[str], object] = warnings.warn) -> None:
        self._warn = warn
        self.parser: Final = _Parser(
            "crewbus",
            description="The event bus under agent applications: run agents, inspect their records,\n"
            "resume interrupted runs, and list plugins.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.parser.add_argument("--version", action="version", version=f"crewbus {crewbus.__version__}")
        add_plugin_options(self.parser)
        self._subparsers = self.parser.add_subparsers(
            title="commands",
            metavar="COMMAND",
            required=True,
            parser_class=cast("type[argparse.ArgumentParser]", _configured),
        )

        self.parser.known = self.commands

    @property
    def commands(self) -> Mapping[str, argparse.ArgumentParser]:
        """The parser of each command."""
        return self._subparsers.choices

    def add(
        self,
        name: str,
        main: Callable[[argparse.Namespace, Bus], int | None],
        *,
        help: str,  # noqa: A002 - as argparse calls it
        description: str | None = None,
        epilog: str | None = None,
        configure: Callable[[argparse.ArgumentParser], object] | None = None,
    ) -> None:
        """Add a command; see `crewbus.Commands.add`."""
        if name in self.commands:
            raise PluginError(f"the command {name!r} exists already")
        parser = argparse.ArgumentParser(
            f"{self.parser.prog} {name}",
            description=description or paragraph(as_sentence(help)),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if configure is not None:
            configure(parser)
        self._add_plugin_options(parser)
        parser.set_defaults(crewbus_main=main)
        self._subparsers.add_parser(name, help=help, parser=parser)

    def _add_plugin_options(self, parser: argparse.ArgumentParser) -> None:
        try:
            add_plugin_options(parser)
        except argparse.ArgumentError:
            self._warn(
                f"'{parser.prog}' has an option -p or --require of its own, which it never receives: both belong to "
                "crewbus, before and after the command's name; the plugin should rename its option"
            )


class _Parser(argparse.ArgumentParser):
    """Ends its errors with what may have been meant."""

    known: Mapping[str, argparse.ArgumentParser] = {}
    """The parsers of the commands."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and remember what: an error's message says no more than what is wrong in it."""
        self._argv = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        super().error(escape_control(message) + self._meant(message))

    def _meant(self, message: str) -> str:
        if found := re.match(r"argument COMMAND: invalid choice: '(\S+)'", message):
            return did_you_mean(found[1], self.known)
        if found := re.match(r"unrecognized arguments: (-\S+)", message):
            command = next((self.known[word] for word in self._argv if word in self.known), self)
            return did_you_mean(found[1].partition("=")[0], command._option_string_actions)
        return ""


def _configured(*, parser: argparse.ArgumentParser, **_: Any) -> argparse.ArgumentParser:
    """Take the place of the parser class, so that a parser is registered only once it is configured."""
    return parser
