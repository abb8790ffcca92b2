"""A new directory: all of its files are written, or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from crewbus.exceptions import InputError


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write ``files``, texts by their paths, into the new directory ``folder``: all of them, or none.

    Raises `InputError` if anything is in the way, naming all of it, or if they can't be written.
    """
    if not folder.parent.is_dir():
        raise InputError(f"there is no directory {folder.parent}: make it first, or name another one with --directory")
    if in_the_way := _occupied_by(folder):
        raise InputError(
            f"{folder} {in_the_way} already, and nothing is overwritten: "
            "move it away, or choose another NAME or --directory"
        )
    draft = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
    try:
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, "utf-8", newline="\n")
        draft.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} can't be written, and nothing of it was: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _occupied_by(folder: Path) -> str:
    """What is where ``folder`` is to be, in words; an empty directory is nothing."""
    if folder.is_symlink():
        return "is a link"
    if not folder.is_dir():
        return "is a file" if folder.exists() else ""
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    return f"holds {', '.join(entries)}" if entries else ""
