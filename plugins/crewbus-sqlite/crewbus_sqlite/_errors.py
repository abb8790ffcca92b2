"""Errors of SQLite as errors of crewbus."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from crewbus.exceptions import CorruptRecordError, CrewbusError, RecordingError, StoreVersionError

_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked: let that end, or give the store a longer ?busy=SECONDS",
    sqlite3.SQLITE_LOCKED: "another connection keeps it locked: close that, and try again",
    sqlite3.SQLITE_PROTOCOL: "SQLite can't lock it: try again, and don't keep it on a network file system",
    sqlite3.SQLITE_FULL: "the disk is full, or the file has its maximum size: make room, and flush",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: see whether its directory exists, and may be written",
    sqlite3.SQLITE_READONLY: "it is read-only: give this process write access, or choose another path",
    sqlite3.SQLITE_PERM: "access was denied: give this process access, or choose another path",
    sqlite3.SQLITE_IOERR: "the disk failed: see the system log",
    sqlite3.SQLITE_NOMEM: "memory ran out",
    sqlite3.SQLITE_AUTH: "the call was interrupted, or a trigger was added to the file: try again",
    sqlite3.SQLITE_TOOBIG: "an event is larger than SQLite can store",
}

_UNWRITABLE: Final = frozenset((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM))
_ELSEWHERE: Final = (
    ". The plugin {!r} records every run there: set CREWBUS_STORE=sqlite:////tmp/crewbus.db, or another URL, to record "
    "elsewhere, or CREWBUS_RECORD=off to record nothing"
)


def translated(error: Exception, path: Path, armed_by: str = "") -> RecordingError:
    """The error of crewbus for an error of SQLite with the file at ``path``: what it means, and what to do.

    ``armed_by``: the plugin that records there, if no code asked for it.
    """
    if isinstance(error, CorruptRecordError):
        return CorruptRecordError(f"{path}: {error}")
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreVersionError(f"{path} is not an SQLite file, or its header is damaged: choose another path")
    if primary in _REASONS:
        elsewhere = _ELSEWHERE.format(armed_by) if armed_by and primary in _UNWRITABLE else ""
        return RecordingError(f"{path}: {_REASONS[primary]} ({error}){elsewhere}")
    if isinstance(error, sqlite3.ProgrammingError | MemoryError):
        return RecordingError(f"{path}: {type(error).__name__}: {error}")
    return CorruptRecordError(f"{path} is damaged: {error}. Restore it from a copy, or choose another path")


def copy_of(error: CrewbusError) -> CrewbusError:
    """A copy to raise, since each raise adds to the traceback."""
    return type(error)(*error.args)
