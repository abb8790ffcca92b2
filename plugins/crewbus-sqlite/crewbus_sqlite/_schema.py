"""The file: its tables, and the checks before anything in it is read."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import Final

from crewbus.exceptions import StoreVersionError
from crewbus_sqlite import _meta

APPLICATION: Final = 0x43524557  # "CREW", which the command `file` shows too
VERSION: Final = 5
SEQ_BITS: Final = 32
"""An event's id is its log's id, shifted by these bits, plus its number: a log is one range of ids."""

# Files keep these texts, comments included, and are compared with them: those of a version stay as they are.
_FIRST_EVENTS: Final = """\
CREATE TABLE events (
    id INTEGER PRIMARY KEY, -- logs.id << 32 | the event's number
    epoch INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    parent TEXT,
    at REAL, -- seconds since 1970, UTC; NULL is not a number
    source TEXT,
    attempt INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    landmark INTEGER NOT NULL, -- 1: of the types by which a run is resumed
    before INTEGER NOT NULL, -- the number of the last landmark before this event, or -1
    marked INTEGER NOT NULL, -- likewise of the last checkpoint, resume, or end of a run
    data BLOB NOT NULL, -- JSON
    sum BLOB NOT NULL
)"""
_COUNT: Final = "count INTEGER NOT NULL DEFAULT 1"
"""How many events a row has, numbered from its id: `crewbus.stores.Segment` says what data are then."""
ADD_COUNT: Final = f"ALTER TABLE events ADD COLUMN {_COUNT}"
_EVENTS: Final = f"{_FIRST_EVENTS.removesuffix(')')}, {_COUNT})"
"""The text that SQLite keeps of a table to which the column was added."""
_LANDMARKS: Final = "CREATE INDEX landmarks ON events (landmark) WHERE landmark = 1"
LOG_INDEXES: Final = (
    "CREATE INDEX parents ON logs (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX held ON logs (holder) WHERE holder IS NOT NULL",
)
_FIRST_META: Final = """\
CREATE TABLE meta ( -- one row
    id INTEGER PRIMARY KEY,
    logs INTEGER NOT NULL, -- how many there are
    next_log INTEGER NOT NULL, -- the id of the next one
    first_run TEXT, -- the least run_id in runs
    sum BLOB NOT NULL
)"""
_TAILS_COLUMN: Final = "tails INTEGER NOT NULL DEFAULT 0"
"""How many rows the table of tails has."""
ADD_TAILS: Final = f"ALTER TABLE meta ADD COLUMN {_TAILS_COLUMN}"
_META: Final = f"{_FIRST_META.removesuffix(')')}, {_TAILS_COLUMN})"
TAILS: Final = """\
CREATE TABLE tails ( -- each of one commit: by what the last rows in events of many logs grew, until these are rewritten
    id INTEGER PRIMARY KEY,
    heads BLOB NOT NULL, -- for each log: its id, the number of the first event, how many, bytes of data, last time
    data BLOB NOT NULL,
    sum BLOB NOT NULL
)"""
_OTHERS: Final = (
    """\
CREATE TABLE runs ( -- in which log a run is; a list, so that a missing row is noticed
    run_id TEXT PRIMARY KEY,
    log INTEGER NOT NULL,
    next TEXT, -- the next greater run_id
    sum BLOB NOT NULL
) WITHOUT ROWID""",
    """\
CREATE TABLE holders ( -- the stores that write, or did when they died
    token TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    identity TEXT NOT NULL, -- boot, pid namespace, pid, start time: whether it lives is seen from these
    until REAL NOT NULL, -- when its leases end unless it renews them
    sum BLOB NOT NULL
) WITHOUT ROWID""",
)
_FIRST: Final = """\
CREATE TABLE logs ( -- one for each root run
    id INTEGER PRIMARY KEY, -- never given twice
    root_id TEXT NOT NULL,
    epoch INTEGER NOT NULL, -- how often the run was taken
    last INTEGER NOT NULL, -- the number of its last event, or -1
    sealed INTEGER NOT NULL, -- 1: the run has ended
    holder TEXT, -- who writes it: holders.token
    parent INTEGER, -- a fork shares the events of this log ...
    parent_at INTEGER NOT NULL, -- ... up to this number, or -1
    forks INTEGER NOT NULL, -- how many logs have this one as their parent
"""
"""How the table of logs begins, in each version."""
_LOGS_1: Final = f"""\
{_FIRST}    sum BLOB NOT NULL -- a digest of the row, here as in the other tables
)"""
_SECOND: Final = f"""\
{_FIRST}    base INTEGER, -- the log that the last shared event is in, or one between: parent, or an ancestor of that
    depth INTEGER NOT NULL, -- how many bases there are, one above the other
    jump INTEGER, -- one of them, so far up that few jumps lead to any
    origin INTEGER NOT NULL, -- the log that event 0 is in
    begun REAL, -- when its first own event happened, or else the last shared one; as events.at
    at REAL, -- when its last event happened
    ended INTEGER NOT NULL, -- the number of the own event that ended the root run; -1: none, or it was resumed since
    outcome TEXT, -- the name of that event's type
"""
_LOGS_2: Final = f"""\
{_SECOND}    sum BLOB NOT NULL -- a digest of the row, here as in the other tables
)"""
LOGS: Final = f"""\
{_SECOND}    stalls INTEGER NOT NULL, -- how often it was taken over since its run last got on
    due REAL, -- when it may be claimed; NULL: at once, or it has a holder
    messages INTEGER NOT NULL, -- how many there are for it
    known INTEGER NOT NULL, -- how many there were when it was last taken
    sum BLOB NOT NULL -- a digest of the row, here as in the other tables
)"""
MAY_BE_CLAIMED: Final = (
    "sealed = 0 AND last >= 0 AND stalls < 5 AND (epoch > 0 OR parent IS NULL) "
    "AND (ended < 0 OR outcome = 'crewbus.RunSuspended')"
)
CLAIMABLE: Final = f"CREATE INDEX claimable ON logs (due) WHERE holder IS NULL AND {MAY_BE_CLAIMED}"
MESSAGES: Final = (
    """\
CREATE TABLE messages (
    log INTEGER NOT NULL, -- logs.id
    number INTEGER NOT NULL, -- from 0 in each log
    channel TEXT NOT NULL,
    data BLOB NOT NULL,
    key TEXT, -- the sender's, by which it is there once in its channel
    at REAL NOT NULL, -- when it arrived, seconds since 1970, UTC
    sum BLOB NOT NULL,
    PRIMARY KEY (log, number)
)""",
    "CREATE UNIQUE INDEX keys ON messages (log, channel, key) WHERE key IS NOT NULL",
)
LABELS: Final = """\
CREATE TABLE labels ( -- what logs are looked up by; lists, so that a missing row is noticed
    label BLOB NOT NULL, -- a digest of what it says: a state, name or tag; empty in the row before all labels
    log INTEGER NOT NULL, -- logs.id; the row that begins the list has the greatest number
    before INTEGER NOT NULL, -- the log with this label that was created before, or 0
    latest REAL NOT NULL, -- no log of the list up to this one has a greater begun
    next BLOB, -- in a row that begins a list: the next greater label that there is
    sum BLOB NOT NULL,
    PRIMARY KEY (label, log)
) WITHOUT ROWID"""

TABLES: Final = {
    1: (_LOGS_1, _FIRST_EVENTS, _LANDMARKS, *LOG_INDEXES, *_OTHERS, _FIRST_META),
    2: (_LOGS_2, _FIRST_EVENTS, _LANDMARKS, *LOG_INDEXES, *_OTHERS, _FIRST_META, LABELS),
    3: (LOGS, _FIRST_EVENTS, _LANDMARKS, *LOG_INDEXES, CLAIMABLE, *_OTHERS, _FIRST_META, LABELS, *MESSAGES),
    4: (LOGS, _EVENTS, _LANDMARKS, *LOG_INDEXES, CLAIMABLE, *_OTHERS, _FIRST_META, LABELS, *MESSAGES),
    5: (LOGS, _EVENTS, _LANDMARKS, *LOG_INDEXES, CLAIMABLE, *_OTHERS, _META, LABELS, *MESSAGES, TAILS),
}
"""The statements that create the tables of each version."""

_SCHEMA: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT GLOB 'sqlite_stat[1-4]' ORDER BY name"
)


@cache
def _expected(version: int) -> list[tuple[str, str, str, str | None]]:
    connection = sqlite3.connect(":memory:")
    try:
        for statement in TABLES[version]:
            connection.execute(statement)
        return connection.execute(_SCHEMA).fetchall()
    finally:
        connection.close()


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, inside the caller's transaction."""
    for statement in TABLES[VERSION]:
        connection.execute(statement)
    _meta.save(connection, _meta.Meta())
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file's tables, 0 if it is empty; inside the caller's transaction.

    Raises `StoreVersionError` for the file of another program or of a newer release, and if the schema was changed:
    nothing that was added to it is ever executed.
    """
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    schema = connection.execute(_SCHEMA).fetchall()
    if not schema and application == version == 0:
        return 0
    if application != APPLICATION:
        raise StoreVersionError(f"{path} is an SQLite file, but no record of crewbus: choose another path")
    if version not in TABLES:
        raise StoreVersionError(
            f"{path} has schema version {version}, and this release of crewbus-sqlite reads {VERSION}: "
            f"upgrade crewbus-sqlite"
        )
    if schema != _expected(version):
        raise StoreVersionError(
            f"{path} has other tables than crewbus-sqlite creates: something was added, changed or removed. "
            f"Remove what was added, or choose another path"
        )
    return int(version)
