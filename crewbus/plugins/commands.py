"""What the hook ``crewbus_cli_commands`` is given: the commands of ``crewbus``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


class Commands(Protocol):
    """The commands of the command line; the hook `crewbus_cli_commands` adds to them."""

    def add(
        self,
        name: str,
        main: Callable[[argparse.Namespace, Any], int | None],
        *,
        help: str,  # noqa: A002 - as argparse calls it
        description: str | None = None,
        epilog: str | None = None,
        configure: Callable[[argparse.ArgumentParser], object] | None = None,
    ) -> None:
        """Add the command ``crewbus NAME``.

        ``main(args, bus)`` is called with the parsed arguments and the bus; it returns the exit code, or None for 0.
        A `CrewbusError` that it raises ends the command with the error's message and exit code 2. The bus is closed
        when the command ends.

        ``configure(parser)`` adds the command's arguments to its `argparse.ArgumentParser`. The options ``-p`` and
        ``--require`` belong to crewbus. ``help`` is the line in ``crewbus --help``; ``description`` (default: ``help``
        as a sentence) and ``epilog`` appear in ``crewbus NAME --help`` as written.

        Raises `PluginError` if the name is taken. If ``configure`` raises, the command is not added.
        """
