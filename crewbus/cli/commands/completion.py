"""``crewbus completion``: print what a shell needs to complete the command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from crewbus import Bus
from crewbus.cli.completion import SHELLS, script
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.terminal import Terminal

if TYPE_CHECKING:
    from crewbus.plugins import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "completion",
        main,
        help="print what a shell needs to complete crewbus",
        description=paragraph(
            "Print what a shell needs to complete commands, options and runs.",
            "It needs argcomplete: pip install 'crewbus[completion]'.",
        ),
        epilog=examples(
            'eval "$(crewbus completion bash)"                            # in ~/.bashrc, or zsh in ~/.zshrc',
            "crewbus completion fish > ~/.config/fish/completions/crewbus.fish",
        ),
        configure=lambda parser: parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS)),
    )


def main(args: argparse.Namespace, bus: Bus) -> int:  # noqa: ARG001 - as a command is called
    """Print it."""
    Terminal().out.write(script(args.shell) + "\n")
    return 0
