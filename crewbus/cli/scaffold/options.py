"""The options of ``crewbus new-plugin``, checked and normalised. Each function raises `InputError`."""

from __future__ import annotations

import difflib
import getpass
import pkgutil
import re
import subprocess
from contextlib import suppress
from typing import Final

from crewbus import builtin, hookspecs
from crewbus.exceptions import InputError

KINDS: Final = tuple(name.removeprefix("crewbus_") for name in vars(hookspecs) if name.startswith("crewbus_"))
"""The hooks that ``--hooks`` may name, without ``crewbus_``."""
PUBLISHED: Final = frozenset(
    {"crewai", "http", "langchain", "litellm", "metrics", "otel", "postgres", "sqlite", "workers"}
)
"""The plugins whose distributions are published together with crewbus."""
BUILT_IN: Final = frozenset(module.name for module in pkgutil.iter_modules(builtin.__path__))
MAX_NAME_LENGTH: Final = 28
"""With longer names, lines of the generated code would be too long."""
_BUILT_IN_SCHEMES: Final = ("memory", "sqlite")


def plugin_name(text: str) -> str:
    """The plugin's name, normalised as the name of a package is."""
    normalised = re.sub(r"[-_.]+", "-", text).lower()
    name = normalised.removeprefix("crewbus-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name == "crewbus":
        raise InputError(
            f"{text!r} is not a valid plugin name: use ASCII letters and digits, with '-' between words, "
            "starting with a letter, such as 'slow-alarm'"
        )
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(f"{text!r} is too long for a plugin name: use at most {MAX_NAME_LENGTH} characters")
    if name in PUBLISHED:
        raise InputError(f"crewbus-{name} exists: choose another name, such as 'my-{name}'")
    if name.replace("-", "_") in BUILT_IN:
        raise InputError(
            f"{name!r} is the name of a built-in plugin, so yours would be skipped: choose another name, "
            f"such as 'my-{name}'"
        )
    return name


def hook_kinds(texts: list[str] | None, *, with_store: bool) -> tuple[str, ...]:
    """The hooks to implement, without ``crewbus_``, in the order of ``hookspecs.py``."""
    kinds = _parse_kinds(texts) if texts else set() if with_store else {"emit"}
    if unknown := sorted(kinds - set(KINDS)):
        raise InputError("; ".join(f"there is no hook {name!r}{_suggest(name)}" for name in unknown))
    if with_store:
        kinds.add("open_store")
    return tuple(kind for kind in KINDS if kind in kinds)


def _parse_kinds(texts: list[str]) -> set[str]:
    names = [name.strip().replace("-", "_").removeprefix("crewbus_") for name in ",".join(texts).split(",")]
    kinds = {kind for name in names if name for kind in (KINDS if name == "all" else [name])}
    if not kinds:
        raise InputError(f"--hooks is empty: choose from {', '.join(KINDS)}")
    return kinds


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, KINDS, 1)
    return f": did you mean {close[0]}?" if close else f": choose from {', '.join(KINDS)}"


def url_scheme(text: str) -> str:
    """The scheme of a store's URLs."""
    scheme = text.lower().removesuffix(":")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise InputError(f"{text!r} is not a valid URL scheme: use letters and digits, such as 'acme'")
    if scheme in _BUILT_IN_SCHEMES:
        raise InputError(f"{scheme}: URLs already open another store: choose another scheme")
    return scheme


def author_name(text: str | None) -> str:
    """The author, by default git's user name or else the login name."""
    author = default_author() if text is None else text
    if not author.strip() or not author.isprintable():
        raise InputError(f"--author {author!r} is not a name on one line")
    return author.strip()


def default_author() -> str:
    """Git's user name, or else the login name."""
    with suppress(OSError, subprocess.SubprocessError):
        git = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, encoding="utf-8", timeout=10, check=False
        )
        if name := git.stdout.strip():
            return name
    with suppress(OSError, ImportError, KeyError):  # the user has no name, or the system has no users
        return getpass.getuser()
    return "Its author"
