"""Promise 12, reading is safe: damaged and hostile files give an error or the truth; nothing in them is executed."""

from __future__ import annotations

import pickle
import random
import shutil
import sqlite3
from contextlib import suppress

import pytest
from sqlite_helpers import QUEUED, begun, furnish, noted, numbers, picture

from crewbus.exceptions import CorruptRecordError, CrewbusError, RunNotFoundError, StoreVersionError
from crewbus.stores import Claim
from crewbus_sqlite import SQLiteStore

FLIPS, CLAIM_FLIPS, CUTS, LOG_FLIPS, LOG_CUTS = 2500, 400, 300, 800, 200
FOREVER = 1e6
"""A lease that is not renewed while a test copies files."""


def seen_in(folder, files, also=()):
    """What a new store reads of the bytes of a file, and of its write-ahead log."""
    path = folder / "record.db"
    for name in ("record.db-wal", "record.db-shm"):
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    store = SQLiteStore(path)
    try:
        return picture(store, also)
    finally:
        store.close()


def is_error(answer):
    return isinstance(answer, type) and issubclass(answer, CrewbusError)


def lies(seen, truth):
    """The answers that are neither true nor an error; that a run was not found is an answer too."""
    asked = [question for question in seen if question in truth]
    wrong = [question for question in asked if seen[question] != truth[question] and not is_error(seen[question])]
    hidden = [
        question
        for question in asked
        if seen[question] is RunNotFoundError is not truth[question] and seen["roots"] == truth["roots"]
    ]
    return wrong + hidden


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The file of a record that was closed, and what is read of it."""
    folder = tmp_path_factory.mktemp("recorded")
    store = SQLiteStore(folder / "record.db")
    furnish(store)
    store.close()
    files = {"record.db": (folder / "record.db").read_bytes()}
    truth = seen_in(folder, files)
    assert len(truth["events fork of the fork"]) == 31
    assert truth["info untaken"].parent == "fork"
    assert not any(map(is_error, truth.values()))
    return files, truth


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    """The two files of a record that is being written, and what is read of it after each of its commits."""
    folder, copy = tmp_path_factory.mktemp("living"), tmp_path_factory.mktemp("copy")
    store, truths = SQLiteStore(folder / "record.db", lease=FOREVER), [seen_in(copy, {})]

    def commit():
        store.flush()
        files = {name: (folder / name).read_bytes() for name in ("record.db", "record.db-wal")}
        truths.append(seen_in(copy, files))
        return files

    epoch = store.begin("a")
    commit()
    for seq in range(12):
        store.append("a", epoch, noted(seq, "a" if seq % 2 else f"a/{seq}", data=b'{"text":"%d"}' % seq))
        files = commit()
    assert len(truths[-1]["events a"]) == 12
    store.close()
    return files, truths


def flipped(chance, content):
    """``content`` with something else at some place."""
    content, at = bytearray(content), chance.randrange(len(content))
    if chance.random() < 0.5:  # much of a file is zeros that mean nothing
        at = next((index for index in range(at, len(content)) if content[index]), at)
    length = chance.choice((1, 1, 1, 1, 2, 8, 64))
    for index in range(at, min(at + length, len(content))):
        content[index] ^= chance.randrange(1, 256)
    return bytes(content)


def test_promise_12_a_flipped_byte_is_an_error_or_changes_nothing(recorded, tmp_path):
    files, truth = recorded
    chance, noticed = random.Random(4), 0
    roots = truth["roots"]
    for _ in range(FLIPS):
        seen = seen_in(tmp_path, {"record.db": flipped(chance, files["record.db"])}, roots)
        assert not lies(seen, truth)
        noticed += seen != truth
    assert noticed > FLIPS / 4


def test_promise_12_a_claim_of_a_damaged_file_takes_nothing_that_it_may_not(recorded, tmp_path):
    """It may leave a log to a later one, where an index is damaged."""
    files, _ = recorded
    chance, noticed = random.Random(16), 0
    for _ in range(CLAIM_FLIPS):
        for name in ("record.db-wal", "record.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "record.db").write_bytes(flipped(chance, files["record.db"]))
        store = SQLiteStore(tmp_path / "record.db")
        try:
            claimed = [root_id for root_id, _ in store.claim(Claim(limit=99))]
            assert claimed == [root_id for root_id in QUEUED if root_id in claimed]
        except CrewbusError:
            noticed += 1
        finally:
            with suppress(CrewbusError):
                store.close()
    assert noticed


def test_promise_12_a_file_that_was_cut_is_an_error_or_changes_nothing(recorded, tmp_path):
    files, truth = recorded
    chance, content = random.Random(12), files["record.db"]
    for turn in range(CUTS):
        length = chance.randrange(len(content)) if turn % 3 else turn // 3 * 4096 % len(content)
        seen = seen_in(tmp_path, {"record.db": content[:length]}, truth["roots"])
        if length:  # an empty file is an empty record
            assert not lies(seen, truth), length


def test_promise_12_a_damaged_log_shows_what_was_at_some_commit(living, tmp_path):
    """SQLite returns to the last undamaged commit: a former state, never a mixture."""
    files, truths = living
    chance, log = random.Random(6), files["record.db-wal"]
    damaged = []
    for _ in range(LOG_FLIPS):
        name = chance.choice(("record.db", "record.db-wal", "record.db-wal"))
        damaged.append({**files, name: flipped(chance, files[name])})
    damaged += [{**files, "record.db-wal": log[: chance.randrange(len(log))]} for _ in range(LOG_CUTS)]
    seen = [seen_in(tmp_path, each) for each in damaged]
    for picture_ in seen:
        assert any(not lies(picture_, truth) for truth in truths)
    assert len({str(picture_["events a"]) for picture_ in seen if "events a" in picture_}) > 3


class Exploding:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pickle.dumps(Exploding()), id="pickle"),
        pytest.param(b"SQLite format 3\0" + random.Random(1).randbytes(8192), id="random after the magic"),
        pytest.param(random.Random(2).randbytes(100_000), id="random"),
        pytest.param(b"import os; os.abort()\n", id="source"),
    ],
)
def test_promise_12_what_is_no_record_is_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "record.db"
    path.write_bytes(content)
    store = SQLiteStore(path)
    for question in (store.roots, lambda: store.begin("a"), lambda: store.root_of("a")):
        with pytest.raises((StoreVersionError, CorruptRecordError)):
            question()
    store.close()
    assert path.read_bytes() == content


def test_promise_12_hostile_data_is_only_data(tmp_path):
    store = SQLiteStore(tmp_path / "record.db")
    epoch = store.begin("a")
    store.append("a", epoch, noted(0, name="os.system", data=pickle.dumps(Exploding())))
    assert next(store.read("a")).data == pickle.dumps(Exploding())
    store.close()


ADDITIONS = {
    "trigger": "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
    "temptation": "CREATE TRIGGER t AFTER UPDATE ON logs BEGIN SELECT writefile('/tmp/x', 'y'); END",
    "view": "CREATE VIEW v AS SELECT load_extension('x')",
    "table": "CREATE TABLE t (x DEFAULT (randomblob(1000000000)))",
    "index": "CREATE INDEX i ON events (name)",
    "column": "ALTER TABLE events ADD COLUMN more",
}


@pytest.mark.parametrize("addition", ADDITIONS)
def test_promise_12_foreign_additions_are_refused(addition, tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    store.finish("a", begun(store))
    store.close()
    tamper(path, ADDITIONS[addition])
    store = SQLiteStore(path)
    for question in (store.roots, lambda: store.begin("b"), lambda: numbers(store)):
        with pytest.raises(StoreVersionError, match="added, changed or removed"):
            question()
    store.close()


def test_promise_12_a_trigger_added_while_the_file_is_open_is_not_executed(tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    epoch = begun(store)
    store.flush()
    tamper(path, ADDITIONS["trigger"])
    store.append("a", epoch, noted(3, name="tests.Other"))  # a row of its own
    with pytest.raises(CrewbusError, match="not authorized"):
        store.flush()
    tamper(path, "DROP TRIGGER t")
    store.flush()
    assert numbers(store) == [0, 1, 2, 3]
    store.close()


def test_statistics_may_be_added(tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    begun(store)
    store.close()
    tamper(path, "ANALYZE")
    store = SQLiteStore(path)
    assert numbers(store) == [0, 1, 2]
    store.close()


def tamper(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(statement)
    connection.close()


def chunks(store, root="a", count=3):
    """A log of an event and a segment of chunks."""
    epoch = store.begin(root)
    store.append(root, epoch, noted(0, root, "tests.Begun"))
    for seq in range(1, 1 + count):
        store.append(root, epoch, noted(seq, root, data=b'{"text":"%d"}' % seq))
    return epoch


SEGMENT_EDITS = {
    "a segment is gone": "DELETE FROM events WHERE count > 1",
    "a segment is shorter than it was": "UPDATE events SET count = count - 1 WHERE count > 1",
    "a segment is longer than it was": "UPDATE events SET count = count + 1 WHERE count > 1",
    "a single event is a segment": "UPDATE events SET count = 2 WHERE count = 1",
    "a segment is empty": "UPDATE events SET count = 0 WHERE count > 1",
    "a segment has less than no events": "UPDATE events SET count = -1 WHERE count > 1",
    "a segment has many events": "UPDATE events SET count = 9223372036854775807 WHERE count > 1",
    "a segment is a single event": "UPDATE events SET count = 1 WHERE count > 1",
    "a count is a text": "UPDATE events SET count = 'x'",
    "a text in a segment": "UPDATE events SET data = CAST(replace(data, '2', '4') AS BLOB) WHERE count > 1",
    "a time in a segment": "UPDATE events SET data = substr(data, 1, length(data) - 1) || x'01' WHERE count > 1",
    "data of a segment are text": "UPDATE events SET data = CAST(data AS TEXT) WHERE count > 1",
    "it ends within a segment": "UPDATE logs SET last = 2",
}


@pytest.mark.parametrize("edit", SEGMENT_EDITS)
def test_foreign_changes_of_a_segment_are_detected(edit, tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    store.finish("a", chunks(store))
    store.close()
    connection = sqlite3.connect(path)
    assert [count for (count,) in connection.execute("SELECT count FROM events")] == [1, 3]
    connection.close()
    tamper(path, SEGMENT_EDITS[edit])
    store = SQLiteStore(path)
    with pytest.raises(CorruptRecordError, match=r"record\.db: the record is damaged: "):
        numbers(store)
    store.close()


TAIL_EDITS = {
    "a tail is gone": "DELETE FROM tails",
    "a tail is gone, and nothing says so": "DELETE FROM tails; UPDATE meta SET tails = 0",
    "a tail is there twice": "INSERT INTO tails SELECT 7, heads, data, sum FROM tails",
    "a text in a tail": "UPDATE tails SET data = CAST(replace(data, '4', '5') AS BLOB)",
    "a number in a tail": "UPDATE tails SET heads = CAST(x'0100000000000000' || x'05' || substr(heads, 10) AS BLOB)",
    "a tail is cut": "UPDATE tails SET heads = substr(heads, 1, 9)",
    "data of a tail are text": "UPDATE tails SET data = CAST(data AS TEXT)",
    "heads of a tail are a number": "UPDATE tails SET heads = 1",
    "the row before it is gone": "DELETE FROM events WHERE count > 1",
    "the row before it is shorter": "UPDATE logs SET last = 2",
}


@pytest.mark.parametrize("edit", TAIL_EDITS)
def test_foreign_changes_of_a_tail_are_detected(edit, tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    epoch = chunks(store)
    store.flush()
    store.append("a", epoch, noted(4, data=b'{"text":"4"}'))
    assert numbers(store) == [0, 1, 2, 3, 4]
    tamper(path, TAIL_EDITS[edit])
    with pytest.raises(CorruptRecordError, match=r"record\.db: the record is damaged: "):
        numbers(store)
    store.close()


def test_damage_of_a_segment_is_that_of_its_events(tmp_path):
    store = SQLiteStore(tmp_path / "record.db")
    chunks(store)
    store.flush()
    tamper(tmp_path / "record.db", "UPDATE events SET data = x'00' WHERE count > 1")
    assert store.event("a", 0).name == "tests.Begun"
    with pytest.raises(CorruptRecordError, match="event 1 of log 1 is not as it was written"):
        store.event("a", 2)
    store.close()


EDITS = {
    "an event is gone": "DELETE FROM events WHERE id & 0xffffffff = 1",
    "the last event is gone": "DELETE FROM events WHERE id & 0xffffffff = 2",
    "an event is another's": "UPDATE events SET run_id = 'b' WHERE id & 0xffffffff = 1",
    "data are text": "UPDATE events SET data = CAST(data AS TEXT)",
    "a number is a text": "UPDATE events SET attempt = 'x'",
    "a time is missing": "UPDATE events SET at = NULL",
    "it is longer than it was": "UPDATE logs SET last = 3",
    "it is shorter than it was": "UPDATE logs SET last = 1",
    "it has another id": "UPDATE logs SET root_id = 'b'",
    "all is gone": "DELETE FROM logs",
}


@pytest.mark.parametrize("edit", EDITS)
def test_foreign_changes_are_detected(edit, tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    epoch = store.begin("a")
    for seq in range(3):
        store.append("a", epoch, noted(seq, name=f"tests.Noted{seq}"))  # a row each
    store.finish("a", epoch)
    store.close()
    tamper(path, EDITS[edit])
    store = SQLiteStore(path)
    with pytest.raises(CorruptRecordError, match=r"record\.db: the record is damaged: "):
        numbers(store)
    store.close()


def test_a_run_that_was_removed_from_the_list_is_noticed(tmp_path):
    path = tmp_path / "record.db"
    store = SQLiteStore(path)
    for root in "abc":
        store.finish(root, begun(store, root))
    store.close()
    for root in "abc":
        shutil.copy(path, tmp_path / "copy.db")
        tamper(tmp_path / "copy.db", f"DELETE FROM runs WHERE run_id = '{root}'")
        copy = SQLiteStore(tmp_path / "copy.db")
        with pytest.raises(CorruptRecordError):
            copy.root_of(root)
        with pytest.raises(CorruptRecordError):
            copy.begin(root)
        copy.close()
