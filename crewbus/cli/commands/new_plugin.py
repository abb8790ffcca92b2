"""``crewbus new-plugin``: write a plugin's distribution, which works at once."""

from __future__ import annotations

import argparse
import difflib
import getpass
import pkgutil
import re
import subprocess
import textwrap
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from crewbus import Bus, builtin, hookspecs
from crewbus.cli.scaffold.distribution import Distribution
from crewbus.cli.scaffold.new_folder import write
from crewbus.cli.terminal import Terminal
from crewbus.exceptions import InputError

KINDS: Final = tuple(name.removeprefix("crewbus_") for name in vars(hookspecs) if name.startswith("crewbus_"))
"""What ``--hooks`` may name."""
OURS: Final = frozenset({"crewai", "litellm", "metrics", "sqlite"})
"""The plugins whose distributions are published together with crewbus."""
BUILT_IN: Final = frozenset(module.name for module in pkgutil.iter_modules(builtin.__path__))
LONGEST: Final = 28
"""How many characters a name may have, so that the lines of the code keep their length."""

_EPILOG: Final = f"""\
hooks ('crewbus hooks' tells what each is for):
{textwrap.fill(", ".join(KINDS), 78, initial_indent="  ", subsequent_indent="  ")}

examples:
  crewbus new-plugin acme
  crewbus new-plugin slow-alarm --hooks emit,stream_chunk,close
  crewbus new-plugin acme --store acme
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "new-plugin",
        help="write a plugin's distribution: code, tests, documentation, packaging, CI",
        description="Write the directory crewbus-NAME: a distribution with a plugin that works,\n"
        "its tests, its documentation, and what publishes it. Nothing is overwritten.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="what the plugin is called, such as 'acme' or 'slow-alarm'")
    parser.add_argument(
        "--hooks",
        action="append",
        metavar="HOOK,…",
        help="the hooks to implement, see below; 'all': each of them (repeatable; default: emit, or none with --store)",
    )
    parser.add_argument("--store", metavar="SCHEME", help="add a store, which SCHEME:… URLs open, with its tests")
    parser.add_argument("--author", help="whose it is (default: git's user.name, or the login name)")
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, default=Path(), help="where to put it (default: the current directory)"
    )
    parser.set_defaults(main=main, taken=commands.choices)


def main(args: argparse.Namespace, _: Bus) -> int:
    """Write the distribution, and say what to do next."""
    name = plugin_name(args.name)
    hooks = asked_hooks(args.hooks and ",".join(args.hooks), args.store)
    if "cli_commands" in hooks and name in args.taken:
        raise InputError(f"crewbus has a command {name!r} already: choose another NAME, or leave out cli_commands")
    author = one_line(default_author() if args.author is None else args.author)
    asked = name if args.store is None else args.store
    distribution = Distribution(name, hooks, author, scheme_of(asked) if "open_store" in hooks else name)
    folder = args.directory / distribution.project
    files = distribution.files()
    write(folder, files)
    terminal = Terminal()
    terminal.out.write("".join(f"{folder / path}\n" for path in sorted(files)))
    terminal.note(_what_next(folder))
    return 0


def _what_next(folder: Path) -> str:
    return (
        f"\nIt works as it is; make it yours, beginning with {folder / 'README.md'}. Next:\n"
        f"  cd {folder}\n"
        "  python -m pip install -e . --group test tox  # 'crewbus plugins' then lists it, and 'pytest' tests it\n"
        "  tox                                      # its tests on each Python that is found, style, types"
    )


# What is asked for


def plugin_name(given: str) -> str:
    """``given`` as the name of a plugin, normalised as that of a package; raises `InputError`."""
    normalised = re.sub(r"[-_.]+", "-", given).lower()
    name = normalised.removeprefix("crewbus-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name == "crewbus":
        raise InputError(
            f"{given!r} can't be a plugin's name: choose ASCII letters and digits, with '-' between words, "
            "beginning with a letter, such as 'slow-alarm'"
        )
    if len(name) > LONGEST:
        raise InputError(f"{given!r} is too long for a plugin's name: choose one of at most {LONGEST} characters")
    if name in OURS:
        raise InputError(f"crewbus-{name} exists: choose another name, such as 'my-{name}'")
    if name.replace("-", "_") in BUILT_IN:
        raise InputError(
            f"{name!r} is the name of a built-in plugin, and yours would be skipped: choose another one, "
            f"such as 'my-{name}'"
        )
    return name


def asked_hooks(given: str | None, store: str | None) -> tuple[str, ...]:
    """The hooks to implement, in the order of their documentation; raises `InputError`."""
    if given is None:
        asked = {"emit"} if store is None else set[str]()
    else:
        names = [name.strip().replace("-", "_").removeprefix("crewbus_") for name in given.split(",")]
        asked = {kind for name in names if name for kind in (KINDS if name == "all" else [name])}
        if not asked:
            raise InputError(f"--hooks names none: choose of {', '.join(KINDS)}")
    if unknown := sorted(asked - set(KINDS)):
        raise InputError("; ".join(f"there is no hook {name!r}{_nearest(name, KINDS)}" for name in unknown))
    if store is not None:
        asked.add("open_store")
    return tuple(kind for kind in KINDS if kind in asked)


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else f": choose of {', '.join(known)}"


def scheme_of(given: str) -> str:
    """``given`` as the scheme of a store's URLs; raises `InputError`."""
    scheme = given.lower().removesuffix(":")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise InputError(f"{given!r} can't be the scheme of a URL: choose letters and digits, such as 'acme'")
    if scheme in ("memory", "sqlite"):
        raise InputError(f"{scheme}: URLs open another store already: choose another scheme")
    return scheme


def default_author() -> str:
    """What git says of the user's name, or the login name."""
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, encoding="utf-8", timeout=10, check=False
        )
        if name := asked.stdout.strip():
            return name
    with suppress(OSError, ImportError, KeyError):  # a user without a name, or a system without users
        return getpass.getuser()
    return "Its author"


def one_line(author: str) -> str:
    """``author`` as it stands in files of one line each; raises `InputError`."""
    if not author.strip() or not author.isprintable():
        raise InputError(f"--author {author!r} can't stand in a licence: give a name, in one line")
    return author.strip()
