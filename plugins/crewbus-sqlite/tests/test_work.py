"""Creating, claiming, messages and watching: what the contract can't see of them in a file."""

from __future__ import annotations

import json
import sqlite3
import threading

import pytest
from sqlite_helpers import PATIENCE, begun, noted, write

from crewbus.exceptions import CorruptRecordError, RecordingError
from crewbus.stores import Cap, Claim
from crewbus_sqlite import SQLiteStore
from crewbus_sqlite._database import Database
from crewbus_sqlite._watching import LONGEST, PERIOD, Changes


def tagged(root, **tags):
    return noted(0, root, "crewbus.RunStarted", json.dumps({"tags": tags}).encode())


def tamper(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


@pytest.fixture
def store(path):
    store = SQLiteStore(path)
    yield store
    store.close()


# Claims


def read_by(store, claim):
    """The numbers of steps of SQLite's machine that a claim takes which finds nothing, in tens."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    with store._database.reading() as connection:
        connection.set_progress_handler(count, 10)
        try:
            assert store._find_for(claim, connection) == []
        finally:
            connection.set_progress_handler(None, 0)
    return steps


def test_a_claim_does_not_look_at_what_has_ended_is_held_or_waits(store):
    claim = Claim(tags={"queue": frozenset("x")}, caps=(Cap("key", 1),))
    begun(store, "other")
    store.flush()
    alone = read_by(store, claim)
    for number in range(50):
        for root in (f"ended {number}", f"held {number}"):
            epoch = store.begin(root)
            store.append(root, epoch, tagged(root, queue="x"))
            if root.startswith("ended"):
                store.append(root, epoch, noted(1, root, "crewbus.RunFinished"))
                store.finish(root, epoch)
        store.create(f"waits {number}", [tagged(f"waits {number}", queue="x")], 1e12)
    store.flush()
    assert store.claim(Claim(tags={"queue": frozenset("x")})) == []
    assert read_by(store, Claim(tags={"queue": frozenset("x")})) <= alone


def test_a_claim_that_finds_nothing_writes_nothing(store, path):
    begun(store)
    store.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert store.claim(Claim()) == []
    other.execute("ROLLBACK")
    other.close()


def test_a_claim_does_not_create_the_file(store, path):
    assert store.claim(Claim()) == []
    assert not path.exists()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE logs SET stalls = 1",
        "UPDATE logs SET due = 5.0",
        "UPDATE logs SET known = 3",
        "UPDATE events SET data = '{}'",
        "DELETE FROM events",
        "UPDATE holders SET until = 0",
    ],
)
def test_a_claim_notices_damage(store, path, damage):
    store.create("a", [tagged("a")])
    begun(store, "held")
    store.flush()
    tamper(path, damage)
    with pytest.raises(CorruptRecordError):
        store.claim(Claim())


def test_an_index_that_lies_gives_no_log_away(store, path):
    epoch = begun(store)
    write(store, "a", epoch, range(3, 4))
    store.finish("a", epoch)
    store.create("b", [tagged("b")])
    tamper(path, "UPDATE logs SET sealed = 0, sum = (SELECT sum FROM logs WHERE root_id = 'b') WHERE root_id = 'a'")
    with pytest.raises(CorruptRecordError):
        store.claim(Claim())


# Messages


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE messages SET data = x'00' WHERE number = 1",
        "UPDATE messages SET channel = 'v'",
        "UPDATE messages SET key = 'l' WHERE number = 0",
        "UPDATE messages SET at = 5",
        "UPDATE messages SET number = 7 WHERE number = 2",
        "DELETE FROM messages WHERE number = 2",
        "DELETE FROM messages WHERE number = 0",
        "DELETE FROM messages",
        "UPDATE logs SET messages = 4",
    ],
)
def test_damaged_messages_are_noticed(store, path, damage):
    begun(store)
    for data in (b"1", b"2", b"3"):
        store.post("a", "u", data, f"key of {data.decode()}")
    tamper(path, damage)
    with pytest.raises(CorruptRecordError):
        store.posted("a")


def test_a_text_that_sqlite_can_not_store_is_refused(store):
    begun(store)
    for channel, key in (("\ud800", None), ("u", "\udfff")):
        with pytest.raises(RecordingError, match="lone surrogate"):
            store.post("a", channel, b"", key)
    assert store.posted("a") == []


# Watching


class Counted(Database):
    """Counts what it is asked."""

    asked = 0

    def version(self):
        self.asked += 1
        return super().version()


def test_an_idle_watcher_asks_the_database_once_a_second(store, path):
    begun(store)
    store.flush()
    database = Counted(path, 5.0)
    times = iter(range(10**6))
    changes = Changes(database, lambda: next(times) * PERIOD)
    for _ in range(round(3 * LONGEST / PERIOD)):
        changes.look()
    database.asked = 0
    looks = round(10 * LONGEST / PERIOD)
    assert not any(changes.look() for _ in range(looks))
    assert database.asked <= 10
    database.close()


WAYS = {
    "the log grows": "",
    "the log is truncated first": "PRAGMA wal_checkpoint(TRUNCATE)",
    "the log is reset first": "PRAGMA wal_checkpoint(RESTART)",
    "the log is copied first": "PRAGMA wal_checkpoint(PASSIVE)",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_commit_is_seen_whatever_becomes_of_the_log(store, path, way):
    begun(store)
    store.flush()
    other = SQLiteStore(path)
    changes = Changes(other._database)
    assert changes.look()
    for number in range(20):
        if WAYS[way]:
            tamper(path, WAYS[way])
            changes.look()
        store.post("a", "u", b"%d" % number)
        assert changes.look()
    other.close()


def test_a_commit_that_the_file_system_does_not_show_is_seen(store, path, monkeypatch):
    begun(store)
    store.flush()
    other, now = SQLiteStore(path), [0.0]
    monkeypatch.setattr(other._database, "files", lambda: "the same")
    changes = Changes(other._database, lambda: now[0])
    changes.look()
    now[0] = LONGEST / 2
    store.post("a", "u", b"1")
    assert not changes.look()
    now[0] += LONGEST
    assert changes.look()
    other.close()


def test_the_file_may_be_created_later(store, path):
    noticed = threading.Event()
    other = SQLiteStore(path)
    stop = other.watch(noticed.set)
    noticed.clear()
    begun(store)
    store.flush()
    assert noticed.wait(PATIENCE)
    stop()
    other.close()


def test_closing_ends_the_watching(store, path):
    begun(store)
    stop = store.watch(lambda: None)
    thread = store._watching._thread
    store.close()
    assert not thread.is_alive()
    stop()
    with pytest.raises(RecordingError, match="closed"):
        store.watch(lambda: None)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no os.fork here")
def test_a_forked_child_has_no_watchers_and_its_parent_keeps_its_own(store):
    from crewbus.testing.store.process import run_in_child

    begun(store)
    store.flush()
    noticed = threading.Event()
    stop = store.watch(noticed.set)

    def child():
        assert store._watching._thread is None
        stop()
        seen = threading.Event()
        end = store.watch(seen.set)
        begun(store, "b")
        store.flush()
        assert seen.wait(PATIENCE)
        end()
        store.close()

    run_in_child(child)
    noticed.clear()
    store.post("a", "u", b"1")
    assert noticed.wait(PATIENCE)
    stop()
