"""Files of schema version 1: they are migrated when they are opened, whole or not at all."""

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
from crewbus.stores import LogFilter, LogPart
from crewbus_sqlite import SQLiteStore

GOLDEN = Path(__file__).with_name("golden") / "schema-1.db"


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(GOLDEN, tmp_path / "record.db"))


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


def test_a_file_is_migrated_by_the_first_question(path):
    store = SQLiteStore(path)
    assert version(path) == 1
    assert found(store) == [("fork", "interrupted"), ("long", "interrupted"), ("writer", "finished")]
    assert version(path) == 2
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
    assert version(path) == 2
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
_migration.migrate = lambda connection: migrate(Killing(connection))
SQLiteStore(sys.argv[1]).roots()
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("statements", [0, 1, 3, 6, 12, 30, 45])
def test_a_kill_during_a_migration_leaves_the_file_as_it_was(path, statements):
    killed = subprocess.run([sys.executable, "-c", KILLED, path, f"{statements}"], check=False, timeout=PATIENCE)
    assert killed.returncode == -9
    assert version(path) == 1
    store = SQLiteStore(path)
    assert found(store) == [("fork", "interrupted"), ("long", "interrupted"), ("writer", "finished")]
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
        ("DELETE FROM events WHERE id = 2 << 32 | 299", {"long"}),
        ("UPDATE events SET attempt = 7 WHERE id = 1 << 32", {"writer", "fork"}),  # its start, which a fork shares
        ("UPDATE logs SET last = 3 WHERE id = 1", {"writer", "fork"}),
    ],
)
def test_a_damaged_record_stays_damaged_and_leaves_the_others_alone(path, damage, unreadable):
    tamper(path, damage)
    store = SQLiteStore(path)
    for root_id in ("writer", "long", "fork"):
        if root_id in unreadable:
            with pytest.raises(CorruptRecordError):
                store.summary(root_id)
        else:
            assert store.summary(root_id).info.root_id == root_id
    with pytest.raises(CorruptRecordError):
        found(store)
    store.close()


def test_a_changed_schema_is_not_migrated(path):
    tamper(path, "CREATE TABLE more (x)")
    store = SQLiteStore(path)
    with pytest.raises(StoreVersionError, match="added, changed or removed"):
        store.roots()
    assert version(path) == 1
    store.close()
