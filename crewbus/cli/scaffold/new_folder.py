"""Writes a new directory completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from crewbus.exceptions import InputError


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write ``files``, texts by path, into the new directory ``folder``.

    Raises `InputError` if ``folder`` is occupied or cannot be written; nothing is written then.
    """
    if not folder.parent.is_dir():
        raise InputError(f"there is no directory {folder.parent}: create it, or name another one with --directory")
    if occupied := _occupied_by(folder):
        raise InputError(
            f"{folder} {occupied}, and nothing is overwritten: move it away, or choose another NAME or --directory"
        )
    draft = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
    try:
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, "utf-8", newline="\n")
        draft.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written, and nothing of it was: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _occupied_by(folder: Path) -> str:
    """What is at ``folder``, as the end of a sentence; an empty directory does not count."""
    if folder.is_symlink():
        return "is a link already"
    if not folder.is_dir():
        return "is a file already" if folder.exists() else ""
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    return f"holds {', '.join(entries)} already" if entries else ""
