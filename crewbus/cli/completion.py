"""Completion by the shell, with argcomplete: the extra ``crewbus[completion]``."""

from __future__ import annotations

import argparse
import importlib.util
import os
from typing import Any, Final

from crewbus import default_bus
from crewbus.cli.run_ids import short_id
from crewbus.exceptions import InputError

SHELLS: Final = ("bash", "zsh", "fish")
_MAX_RUNS: Final = 20


def is_asked() -> bool:
    """Whether a shell has called the command for completions."""
    return "_ARGCOMPLETE" in os.environ and _is_installed()


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, and exit."""
    import argcomplete  # optional, and needed by a shell only

    argcomplete.autocomplete(parser)


def script(shell: str) -> str:
    """What the shell has to read to complete ``crewbus``. Raises `InputError` without argcomplete."""
    if not _is_installed():
        raise InputError("completion needs argcomplete: install crewbus[completion]")
    from argcomplete.shell_integration import shellcode

    return shellcode(["crewbus"], shell=shell)


def recent_runs(**_: Any) -> list[str]:
    """The names by which the newest runs of the default bus's store can be given."""
    store = default_bus().store
    return ["latest", *(short_id(root) for root in store.roots()[: -_MAX_RUNS - 1 : -1])]


def _is_installed() -> bool:
    return importlib.util.find_spec("argcomplete") is not None
