"""Runs as users name them: by an id, by the beginning or the end of one, or ``latest``."""

from __future__ import annotations

import difflib
import re
from typing import Final

from crewbus import MemoryStore, Store
from crewbus._util import one_line
from crewbus.exceptions import RunNotFoundError

_GENERATED: Final = re.compile("[0-9a-f]{28}")
_SHORT: Final = 8
_MAX_LISTED: Final = 3


def short_id(run_id: str) -> str:
    """A chosen id as it is; the end of a generated one, which is random: its beginning is a time, which runs share."""
    return run_id[-_SHORT:] if _GENERATED.fullmatch(run_id) else one_line(run_id)


def find_run(text: str, store: Store) -> str:
    """The id of the run that RUN names. Raises `RunNotFoundError` with suggestions."""
    if store.root_of(text) is not None:
        return text
    roots = store.roots()
    if not roots:
        raise RunNotFoundError(no_runs_message(store))
    if text == "latest":
        return roots[-1]
    found = [root for root in roots if text and _is_named(root, text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunNotFoundError(f"{len(found)} runs have ids that begin or end with {text!r}: {_list(found)}")
    close = difflib.get_close_matches(text, [*roots, *map(short_id, roots)], _MAX_LISTED, 0.8)
    hint = f"did you mean {_list(close)}?" if close else f"the newest are {_list([*map(short_id, roots[::-1])])}"
    raise RunNotFoundError(f"no run {text!r} in {_name(store)}: {hint}")


def no_runs_message(store: Store) -> str:
    """What to say if nothing is recorded, and what to do then."""
    if isinstance(store, MemoryStore):
        return "No runs in memory, which is lost when the process ends. Install crewbus-sqlite, or name a `--store`."
    return f"No runs in {_name(store)}. Start one with `crewbus run`, or name another `--store`."


def _is_named(run_id: str, text: str) -> bool:
    return run_id.startswith(text) or (run_id.endswith(text) and _GENERATED.fullmatch(run_id) is not None)


def _name(store: Store) -> str:
    """The store's path if it has one, else its repr."""
    return one_line(str(getattr(store, "path", None) or repr(store)))


def _list(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _MAX_LISTED else ""
    return ", ".join(one_line(run_id) for run_id in ids[:_MAX_LISTED]) + more
