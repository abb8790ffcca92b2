"""``crewbus new-plugin``: write the distribution of a new plugin."""

from __future__ import annotations

import argparse
import pkgutil
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crewbus import Bus
from crewbus.cli.formatting import examples, paragraph
from crewbus.cli.scaffold import (
    KINDS,
    SOURCE,
    Distribution,
    author_name,
    hook_kinds,
    installed_from,
    plugin_name,
    url_scheme,
    write_folder,
)
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError

if TYPE_CHECKING:
    from crewbus.plugins import Commands

_BUILT_IN_COMMANDS: Final = frozenset(
    module.name.replace("_", "-") for module in pkgutil.iter_modules([str(Path(__file__).parent)])
)
_HOOKS: Final = (
    f"hooks (see 'crewbus hooks'):\n{textwrap.fill(', '.join(KINDS), 78, initial_indent='  ', subsequent_indent='  ')}"
)


def add_to(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "new-plugin",
        main,
        help="write the distribution of a new plugin: code, tests, documentation, packaging, CI",
        description=paragraph(
            "Write the directory crewbus-NAME: the distribution of a working plugin, with tests, documentation, "
            "packaging and CI.",
            "Existing files are not overwritten.",
        ),
        epilog=f"{_HOOKS}\n\n"
        + examples(
            "crewbus new-plugin acme",
            "crewbus new-plugin slow-alarm --hooks emit,stream_chunk,close",
            "crewbus new-plugin acme --store acme",
        ),
        configure=_configure,
    )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the plugin's name, such as 'acme' or 'slow-alarm'")
    parser.add_argument(
        "--hooks",
        action="append",
        metavar="HOOK,…",
        help="the hooks to implement, from the list below, or 'all' (repeatable; default: emit, or none with --store)",
    )
    parser.add_argument("--store", metavar="SCHEME", help="add a store that SCHEME:… URLs open, with its tests")
    parser.add_argument("--author", help="the author (default: git's user.name, or the login name)")
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, default=Path(), help="the parent directory (default: the current one)"
    )


def main(args: argparse.Namespace, _: Bus) -> int:
    """Write the distribution, and show the next steps."""
    name = plugin_name(args.name)
    hooks = hook_kinds(args.hooks, with_store=args.store is not None)
    if "cli_commands" in hooks and name in _BUILT_IN_COMMANDS:
        raise InputError(f"crewbus has a command {name!r} already: choose another NAME, or leave out cli_commands")
    scheme = url_scheme(name if args.store is None else args.store) if "open_store" in hooks else name
    distribution = Distribution(name, hooks, author_name(args.author), scheme)
    folder = args.directory / distribution.project
    files = distribution.files()
    write_folder(folder, files)
    terminal = Terminal()
    terminal.out.write("".join(f"{folder / path}\n" for path in sorted(files)))
    terminal.note(_next_steps(folder))
    return 0


def _next_steps(folder: Path) -> str:
    source = installed_from()
    tox = "tox" if source is None else f"{SOURCE}={shlex.quote(source)} tox"
    why = "" if source is None else f"\nWithout {SOURCE}, tox looks for crewbus in the package index."
    return (
        f"\nThe plugin works as it is. Adapt it, starting with {folder / 'README.md'}. Next:\n"
        f"  cd {folder}\n"
        "  python -m pip install -e . --group test tox  # 'crewbus plugins' then lists it, and 'pytest' tests it\n"
        f"  {tox:<43}  # tests on each installed Python, style, types{why}"
    )
