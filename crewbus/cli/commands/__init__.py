"""The built-in commands, one module each: ``add_to(commands)`` adds the command, ``main(args, bus)`` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crewbus.cli.commands import (
    cancel,
    completion,
    diff,
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

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_MODULES: Final = (
    run,
    runs,
    show,
    tail,
    resume,
    cancel,
    fork,
    diff,
    replay,
    export,
    prune,
    new_plugin,
    plugins,
    hooks,
    completion,
)


def add_built_in_commands(commands: Commands) -> None:
    """Add the commands that crewbus brings."""
    for module in _MODULES:
        module.add_to(commands)
