"""What a log grew by since its rows were last written is in the table of tails: nobody notices, whatever happens."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from sqlite_helpers import PATIENCE, noted, numbers

from crewbus.exceptions import FencedError, RecordingError
from crewbus.stores import LogFilter, LogPart
from crewbus_sqlite import SQLiteStore, _tails

BEGUN, TAIL = 4, 10
"""The events of a log before it has a tail, and with it."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


@pytest.fixture
def store(path):
    store = SQLiteStore(path)
    yield store
    store.close()


@pytest.fixture
def other(path):
    """As in another process."""
    store = SQLiteStore(path)
    yield store
    store.close()


def chunk(seq, root):
    return noted(seq, root, "crewbus.Chunk", b'{"text":"%d"}' % seq)._replace(at=seq / 4)


def begin(store, root="a"):
    """Write a log of which the last row is a segment."""
    epoch = store.begin(root)
    store.append(root, epoch, noted(0, root, "crewbus.RunStarted"))
    for seq in range(1, BEGUN):
        store.append(root, epoch, chunk(seq, root))
    store.flush()
    return epoch


def grow(store, root="a", epoch=1, numbers=range(BEGUN, TAIL)):
    """Write more events, with a commit each."""
    for seq in numbers:
        store.append(root, epoch, chunk(seq, root))
        store.flush()


def expected(root="a", count=TAIL):
    return [noted(0, root, "crewbus.RunStarted"), *(chunk(seq, root) for seq in range(1, count))]


def counted(path):
    """How many tails there are, and what the rows say of the last event of each log."""
    with closing(sqlite3.connect(path)) as connection:
        ((tails,),) = connection.execute("SELECT count(*) FROM tails")
        return tails, [last for (last,) in connection.execute("SELECT last FROM logs ORDER BY id")]


@pytest.fixture
def tailed(store, path):
    """Two logs with tails."""
    for root in "ab":
        begin(store, root)
        grow(store, root)
    assert counted(path) == (2 * (TAIL - BEGUN), [BEGUN - 1] * 2)
    return store


def test_all_is_read_of_a_log_with_a_tail(tailed, other):
    for reader in (tailed, other):
        for after in range(-1, TAIL):
            assert list(reader.read("a", after)) == expected()[after + 1 :]
        for seq in range(TAIL):
            assert reader.event("a", seq) == expected()[seq]
        assert [event.seq for event in reader.landmarks("a")] == [event.seq for event in reader.marks("a")] + [0]
        assert reader.info("a").last == TAIL - 1
        assert reader.summary("a").at == expected()[-1].at
        assert [(one.info.last, one.at) for one in reader.find(LogFilter())] == [(TAIL - 1, expected()[-1].at)] * 2
        assert reader.parts("a") == [LogPart("a", 0, TAIL - 1)]


def test_many_logs_grow_in_one_row(store, path):
    roots = [f"run {number}" for number in range(50)]
    for root in roots:
        begin(store, root)
    for root in roots:
        store.append(root, 1, chunk(BEGUN, root))
    store.flush()
    tails, ends = counted(path)
    assert 0 < tails <= len(roots) / 10
    assert ends == [BEGUN - 1] * len(roots)
    assert all(numbers(store, root) == list(range(BEGUN + 1)) for root in roots)


def test_logs_with_many_tails_are_written(store, path):
    begin(store)
    for seq in range(BEGUN, BEGUN + 3 * _tails.MOST):
        grow(store, numbers=[seq])
        assert counted(path)[0] <= _tails.MOST
    assert list(store.read("a")) == expected(count=BEGUN + 3 * _tails.MOST)


def test_a_closed_store_leaves_no_tails(tailed, path, other):
    tailed.close()
    assert counted(path) == (0, [TAIL - 1] * 2)
    assert list(other.read("a")) == expected()


@pytest.mark.parametrize("event", [noted(TAIL, name="crewbus.StepFinished"), noted(TAIL, name="tests.Other")])
def test_an_event_of_another_kind_follows(tailed, path, event):
    tailed.append("a", 1, event)
    tailed.flush()
    assert counted(path)[1] == [TAIL, BEGUN - 1]
    assert list(tailed.read("a")) == [*expected(), event]


def test_a_log_that_ends_is_written(tailed, path, other):
    tailed.finish("a", 1)
    tailed.flush()
    assert counted(path)[1] == [TAIL - 1, BEGUN - 1]
    assert (other.info("a").last, other.info("a").sealed) == (TAIL - 1, True)
    assert list(other.read("a")) == expected()


@pytest.mark.parametrize("at", range(1, TAIL))
def test_a_fork_within_a_tail(tailed, at):
    tailed.fork("a", at, "fork")
    assert list(tailed.read("fork")) == expected()[: at + 1]
    grow(tailed, numbers=[TAIL])
    assert numbers(tailed) == list(range(TAIL + 1))
    assert numbers(tailed, "fork") == list(range(at + 1))


def test_a_log_is_taken_over_with_its_tail(tailed, other, path):
    tailed.revoke("a")
    assert other.acquire("a") == 2
    assert counted(path)[1] == [TAIL - 1, BEGUN - 1]
    grow(other, epoch=2, numbers=[TAIL])
    tailed.append("a", 1, chunk(TAIL, "a"))
    with pytest.raises(FencedError):
        tailed.flush()
    assert list(other.read("a")) == expected(count=TAIL + 1)
    grow(tailed, "b", numbers=[TAIL])
    assert list(other.read("b")) == expected("b", TAIL + 1)


def test_a_log_is_released_with_its_tail(tailed, other, path):
    tailed.release("a", 1)
    assert counted(path)[1] == [TAIL - 1, BEGUN - 1]
    assert other.acquire("a") == 2
    assert list(other.read("a")) == expected()


def test_another_holder_settles_logs_that_go_on(tailed, other, path):
    begin(other, "c")
    assert counted(path) == (0, [TAIL - 1] * 2 + [BEGUN - 1])
    grow(tailed, numbers=range(TAIL, TAIL + 3))
    assert counted(path)[0] == 3
    assert list(other.read("a")) == expected(count=TAIL + 3)


def test_a_log_is_dropped_with_its_tail(tailed, other):
    tailed.finish("a", 1)
    tailed.drop("a")
    assert other.roots() == ["b"]
    assert list(other.read("b")) == expected("b")


def test_messages_do_not_disturb_a_tail(tailed):
    tailed.post("a", "channel", b"1")
    grow(tailed, numbers=range(TAIL, TAIL + 2))
    assert list(tailed.read("a")) == expected(count=TAIL + 2)


@pytest.mark.parametrize("statement", ["INSERT INTO tails", "INSERT OR REPLACE INTO meta", "COMMIT"])
def test_a_write_that_fails_is_repeated(tailed, monkeypatch, statement):
    connection = tailed._database._writer.connection
    failing = True

    class Failing:
        def __getattr__(self, name):
            return getattr(connection, name)

        def execute(self, sql, *values):
            if failing and sql.startswith(statement):
                raise sqlite3.OperationalError("disk I/O error")
            return connection.execute(sql, *values)

    monkeypatch.setattr(tailed._database._writer, "connection", Failing())
    tailed.append("a", 1, chunk(TAIL, "a"))
    with pytest.raises(RecordingError):
        tailed.flush()
    failing = False
    tailed.flush()
    grow(tailed, numbers=[TAIL + 1])
    assert list(tailed.read("a")) == expected(count=TAIL + 2)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_tails import SQLiteStore, begin, grow
store = SQLiteStore(sys.argv[1])
for root in "ab":
    begin(store, root)
    grow(store, root)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_a_killed_process_wrote_is_read_and_gone_on_with(path, other, request):
    folder = str(request.path.parent)
    killed = subprocess.run([sys.executable, "-c", KILLED, path, folder], check=False, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    assert counted(path) == (2 * (TAIL - BEGUN), [BEGUN - 1] * 2)
    assert list(other.read("a")) == expected()
    assert other.acquire("a") == 2
    grow(other, epoch=2, numbers=range(TAIL, TAIL + 2))
    assert list(other.read("a")) == expected(count=TAIL + 2)
    assert list(other.read("b")) == expected("b")
    assert counted(path) == (0, [TAIL + 1, TAIL - 1])


def test_what_a_landmark_changes_in_a_row_stays_when_it_grows(store, other):
    """Getting on makes a run that was taken over one that was not: the digest of its row is made of that again."""
    store.release("a", begin(store))
    store.flush()
    epoch = other.acquire("a")
    step = [noted(seq, "a", "crewbus.StepFinished") for seq in (BEGUN + 2, BEGUN + 5)]
    events = [chunk(seq, "a") for seq in range(BEGUN, BEGUN + 8)]
    for event in (*events[:2], step[0], *events[3:5], step[1], *events[6:]):
        other.append("a", epoch, event)
        other.flush()
    assert store.info("a").last == BEGUN + 7
    assert store.info("a").stalls == 0
