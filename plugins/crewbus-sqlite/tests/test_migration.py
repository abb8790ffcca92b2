"""Files of earlier schema versions: they are migrated when they are opened, whole or not at all."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from golden.make import LOGS
from sqlite_helpers import PATIENCE

from crewbus.exceptions import CorruptRecordError, StoreVersionError
from crewbus.stores import Claim, Claimed, LogFilter, LogPart
from crewbus_sqlite import SQLiteStore
from crewbus_sqlite._schema import VERSION

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(params=[1, 2, 3, 4])
def former(request):
    """The schema version of the file."""
    return request.param


@pytest.fixture
def path(former, tmp_path):
    return Path(shutil.copy(GOLDEN / f"schema-{former}.db", tmp_path / "record.db"))


def version(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()


def found(store, **query):
    return [(one.info.root_id, one.state) for one in store.find(LogFilter(**query))]


def tamper(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_file_is_migrated_by_the_first_question(path, former):
    store = SQLiteStore(path)
    assert version(path) == former
    assert found(store) == [("fork", "interrupted"), ("long", "interrupted"), ("writer", "finished")]
    assert version(path) == VERSION
    assert found(store, states=frozenset({"finished"})) == [("writer", "finished")]
    assert found(store, name="writer") == [("fork", "interrupted"), ("writer", "finished")]
    summary = store.summary("writer")
    assert (summary.begun, summary.at, summary.end) == (1700000000.25, -0.5, LOGS["writer"][-1])
    assert store.parts("fork") == [LogPart("writer", 0, 1), LogPart("fork", 2, 2)]
    store.close()


def test_a_file_is_migrated_by_the_first_write(path):
    store = SQLiteStore(path)
    store.append("new", store.begin("new"), LOGS["writer"][0]._replace(run_id="new"))
    store.flush()
    assert found(store)[0] == ("new", "running")
    assert version(path) == VERSION
    store.close()


def test_a_migrated_file_is_like_a_new_one(path, tmp_path):
    store, new = SQLiteStore(path), SQLiteStore(tmp_path / "new.db")
    new.begin("a")
    new.flush()
    store.roots()
    schemas = []
    for file in (path, tmp_path / "new.db"):
        connection = sqlite3.connect(file)
        schemas.append(sorted(map(str, connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))))
        connection.close()
    assert schemas[0] == schemas[1]
    store.close()
    new.close()


KILLED = """
import os, signal, sys
from crewbus_sqlite import SQLiteStore, _migration

class Killing:
    def __init__(self, connection):
        self.connection, self.left = connection, int(sys.argv[2])
    def execute(self, *arguments):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.connection.execute(*arguments)

migrate = _migration.migrate
_migration.migrate = lambda connection, version: migrate(Killing(connection), version)
SQLiteStore(sys.argv[1]).roots()
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("former", "statements"),
    [*((former, count) for former in (1, 2) for count in (0, 1, 3, 6, 10, 13)), (3, 0), (3, 1), (4, 0), (4, 1)],
)
def test_a_kill_during_a_migration_leaves_the_file_as_it_was(path, former, statements):
    killed = subprocess.run([sys.executable, "-c", KILLED, path, f"{statements}"], check=False, timeout=PATIENCE)
    assert killed.returncode == -9
    assert version(path) == former
    store = SQLiteStore(path)
    assert found(store) == [("fork", "interrupted"), ("long", "interrupted"), ("writer", "finished")]
    store.close()


def test_a_migrated_run_is_claimed(path):
    store = SQLiteStore(path)
    assert store.claim(Claim(limit=9)) == [Claimed("fork", 2)]
    assert store.post("fork", "u", b"1", "k") == 0
    assert [message.data for message in store.posted("fork")] == [b"1"]
    store.close()


def test_two_stores_migrate_a_file_once(path):
    stores, barrier, seen = [SQLiteStore(path), SQLiteStore(path)], threading.Barrier(2), []

    def ask(store):
        barrier.wait(PATIENCE)
        seen.append(store.roots())

    threads = [threading.Thread(target=ask, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert seen == [["writer", "long", "empty", "fork"]] * 2
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("damage", "unreadable"),
    [
        ("UPDATE events SET attempt = 7 WHERE id = 1 << 32 | 4", {"writer"}),  # its end
        ("DELETE FROM events WHERE id = (SELECT max(id) FROM events WHERE id <= 2 << 32 | 299)", {"long"}),
        ("UPDATE events SET attempt = 7 WHERE id = 1 << 32", {"writer", "fork"}),  # its start, which a fork shares
        ("UPDATE logs SET last = 3 WHERE id = 1", {"writer", "fork"}),
    ],
)
def test_a_damaged_record_stays_damaged_and_leaves_the_others_alone(path, former, damage, unreadable):
    tamper(path, damage)
    store = SQLiteStore(path)
    for root_id in ("writer", "long", "fork"):
        if root_id in unreadable:
            with pytest.raises(CorruptRecordError):
                _read(store, root_id)
        else:
            assert _read(store, root_id).info.root_id == root_id
    if former == 1 or "writer" in unreadable:  # later versions find runs without reading the last event
        with pytest.raises(CorruptRecordError):
            found(store)
    store.close()


def _read(store, root_id):
    """The summary of a run, after reading all of it."""
    assert [event.seq for event in store.read(root_id)] == list(range(store.info(root_id).last + 1))
    return store.summary(root_id)


def test_a_changed_schema_is_not_migrated(path, former):
    tamper(path, "CREATE TABLE more (x)")
    store = SQLiteStore(path)
    with pytest.raises(StoreVersionError, match="added, changed or removed"):
        store.roots()
    assert version(path) == former
    store.close()
