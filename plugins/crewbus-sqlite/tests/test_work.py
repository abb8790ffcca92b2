"""Creating, claiming, messages and watching: what the contract can't see of them in a file."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest
from sqlite_helpers import PATIENCE, begun, noted, write

from crewbus.exceptions import CorruptRecordError, RecordingError, RunIdInUseError, RunNotFoundError
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


# Messages


def statements(store, question):
    """How many statements a question takes."""
    with store._database.reading() as connection:
        found = []
        connection.set_trace_callback(found.append)
    try:
        question()
    finally:
        connection.set_trace_callback(None)
    return len(found)


def test_asking_for_the_messages_of_many_runs_takes_as_long_as_of_one(store):
    for number in range(100):
        begun(store, f"held {number}", 1)
    store.post("held 0", "u", b"seen")
    store.flush()
    after = {f"held {number}": -1 for number in range(1, 100)}
    one = statements(store, lambda: store.mail({"held 0": 0}))
    assert statements(store, lambda: store.mail({**after, "held 0": 0})) == one
    store.post("held 7", "u", b"new")
    assert list(store.mail({**after, "held 0": 0})) == ["held 7"]


def test_a_damaged_log_keeps_no_message_to_others_back(store, path):
    for root in ("a", "b"):
        begun(store, root)
        store.post(root, "u", root.encode())
    tamper(path, "UPDATE messages SET data = x'00' WHERE data = x'61'")
    with pytest.raises(CorruptRecordError):
        store.posted("a")
    assert list(store.mail({"a": -1, "b": -1})) == ["b"]


# Commits that callers share


def commits_in(path):
    """How many transactions the write-ahead log holds."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    page = int.from_bytes(log[8:12], "big")
    salts = log[16:24]
    frames = [log[start : start + 24] for start in range(32, len(log), 24 + page)]
    return sum(frame[4:8] != bytes(4) for frame in frames if frame[8:16] == salts)


@contextmanager
def locked(path):
    """Nobody else writes to the file meanwhile."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def at_once(path, store, calls):
    """What these calls return or raise, which all wait for the file at the same time."""
    outcomes = {}

    def call(number):
        try:
            outcomes[number] = calls[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    with locked(path):
        threads[0].start()  # it is taken out of the queue alone, and waits for the file
        until(lambda: store._writer._writing and not store._writer._changes)
        for thread in threads[1:]:
            thread.start()
        until(lambda: len(store._writer._changes) == len(calls) - 1)
    for thread in threads:
        thread.join(PATIENCE)
    return [outcomes[number] for number in range(len(calls))]


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_callers_at_the_same_time_share_a_commit(store, path):
    epochs = [begun(store, f"held {number}") for number in range(3)]
    store.create("first", [tagged("first")])
    store.flush()
    before = commits_in(path)
    found = at_once(
        path,
        store,
        [
            lambda: store.create("a", [tagged("a")]),
            *(partial(store.create, f"b{number}", [tagged(f"b{number}")]) for number in range(4)),
            *(partial(store.post, "first", "mail", b"x") for _ in range(4)),
            *(partial(store.release, f"held {number}", epoch) for number, epoch in enumerate(epochs)),
        ],
    )
    assert sorted(map(str, found)) == ["0", "1", "2", "3", *["None"] * 8]
    assert commits_in(path) - before <= 2
    assert [store.info(root).last for root in ("a", "b0", "b3")] == [0, 0, 0]
    assert len(store.posted("first")) == 4
    assert not any(store.info(f"held {number}").alive for number in range(3))


def test_the_error_of_one_caller_is_not_that_of_others_in_the_commit(store, path):
    store.create("first", [tagged("first")])
    number, in_use, unknown, _ = at_once(
        path,
        store,
        [
            lambda: store.post("first", "mail", b"x"),
            lambda: store.create("first", [tagged("first")]),
            lambda: store.post("nobody", "mail", b"x"),
            lambda: store.create("second", [tagged("second")]),
        ],
    )
    assert number == 0
    assert isinstance(in_use, RunIdInUseError)
    assert isinstance(unknown, RunNotFoundError)
    assert store.roots() == ["first", "second"]
    assert len(store.posted("first")) == 1


def test_what_a_damaged_row_keeps_from_one_caller_is_done_for_the_others(store, path):
    store.create("first", [tagged("first")])
    store.create("damaged", [tagged("damaged")])
    tamper(path, "UPDATE logs SET sum = x'00' WHERE root_id = 'damaged'")
    _, damaged, _ = at_once(
        path,
        store,
        [
            lambda: store.post("first", "mail", b"x"),
            lambda: store.post("damaged", "mail", b"x"),
            lambda: store.create("second", [tagged("second")]),
        ],
    )
    assert isinstance(damaged, CorruptRecordError)
    assert str(damaged).startswith(f"{path}: ")
    assert store.info("second").last == 0


def test_a_caller_whose_file_is_gone_is_told_and_nothing_is_tried_again(store, path):
    store.create("first", [tagged("first")])
    path.unlink()
    with pytest.raises(RecordingError, match="deleted or replaced"):
        store.create("second", [tagged("second")])
    assert store._writer._changes == []
