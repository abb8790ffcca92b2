"""The file: when it is created, what is refused, and what happens to it when others use it too."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading

import pytest
from sqlite_helpers import PATIENCE, begun, noted, numbers, write

from crewbus.exceptions import InputError, RecordingError, RunNotFoundError, StoreVersionError
from crewbus_sqlite import SQLiteStore, _database


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.db"


@pytest.fixture
def store(path):
    store = SQLiteStore(path)
    yield store
    store.close()


def files(path):
    return sorted(file.name for file in path.parent.iterdir())


def test_nothing_is_created_before_the_first_event(path, store):
    assert store.roots() == []
    assert store.root_of("a") is None
    store.flush()
    questions = [store.info, store.acquire, store.drop, store.revoke, store.forks]
    questions += [lambda root: list(store.read(root)), lambda root: list(store.landmarks(root))]
    questions += [lambda root: store.event(root, 0), lambda root: store.fork(root, 0, "b")]
    for question in questions:
        with pytest.raises(RunNotFoundError, match="run a is not recorded"):
            question("a")
    store.close()
    assert files(path) == []


def test_an_unused_store_has_no_thread(store):
    assert store.roots() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("crewbus sqlite")]
    begun(store)
    assert "crewbus sqlite record.db" in {thread.name for thread in threading.enumerate()}


def test_closing_leaves_one_file_and_no_thread(path, store):
    begun(store)
    store.close()
    assert files(path) == ["record.db"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("crewbus sqlite")]


def test_a_path_is_where_it_was_when_the_store_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("record.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    begun(store)
    store.close()
    assert files(tmp_path / "record.db") == ["elsewhere", "record.db"]


@pytest.mark.parametrize("name", ["with space.db", "100%?&#.db", "ünïcode 🦀.db", "'quoted'.db"])
def test_any_name_will_do(name, tmp_path):
    store = SQLiteStore(tmp_path / name)
    begun(store)
    store.close()
    assert files(tmp_path / name) == [name]


@pytest.mark.parametrize("options", [{"lease": 0}, {"lease": float("nan")}, {"busy": -1}, {"backlog": 0}])
def test_options_that_can_not_be_are_refused(options, path):
    with pytest.raises(InputError, match="got lease="):
        SQLiteStore(path, **options)


def test_an_empty_file_is_an_empty_record(path, store):
    path.touch()
    assert store.roots() == []
    assert path.stat().st_size == 0
    begun(store)
    assert store.roots() == ["a"]


def test_another_application_s_file_is_left_alone(path, store):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="no record of crewbus: choose another path"):
        store.begin("a")
    assert path.read_bytes() == before


def test_a_newer_file_is_refused(path, store):
    begun(store)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    newer = SQLiteStore(path)
    with pytest.raises(StoreVersionError, match=r"has schema version 7, .* reads 5: upgrade crewbus-sqlite"):
        newer.roots()
    newer.close()


def test_an_old_sqlite_is_refused(path, monkeypatch):
    monkeypatch.setattr(_database.sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(RecordingError, match=r"is too old for crewbus-sqlite, which needs 3\.35\.0"):
        SQLiteStore(path)


def test_it_is_durable_at_each_commit(store):
    begun(store)
    with store._database.writing() as connection:
        settings = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert settings == ["wal", 2]
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_taking_a_run_waits_for_no_disk_and_what_follows_does(store):
    """A power cut that undoes the take-over ends its process too; the next commit puts both on disk."""
    begun(store)
    store.revoke("a")
    seen = []
    connection = store._database._writer.connection
    connection.set_trace_callback(lambda sql: sql.startswith(("PRAGMA sync", "COMMIT")) and seen.append(sql))
    for _ in range(2):
        epoch = store.acquire("a")
        store.append("a", epoch, noted(store.info("a").last + 1))
        store.flush()
        store.release("a", epoch)
    assert seen == ["PRAGMA synchronous = NORMAL", "COMMIT", "PRAGMA synchronous = FULL", "COMMIT", "COMMIT"] * 2
    with store._database.writing(synced=False) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    with store._database.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_closed_store_says_so(store):
    epoch = begun(store)
    unread = store.read("a")
    store.close()
    store.close()
    calls = [store.roots, store.flush, lambda: store.begin("b"), lambda: store.append("a", epoch, noted(3))]
    calls += [lambda: store.info("a"), lambda: store.when_written("a", print), lambda: next(unread)]
    for call in calls:
        with pytest.raises(RecordingError, match="is closed: open it again"):
            call()


def test_a_slow_reader_blocks_no_writer(path, store):
    epoch = begun(store, count=1000)
    reader = store.read("a")
    assert next(reader).seq == 0
    write(store, "a", epoch, range(1000, 1010))
    store.flush()
    with store._database.writing() as connection:
        connection.execute("COMMIT")
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # was not held up
        connection.execute("BEGIN")
    assert [event.seq for event in reader] == list(range(1, 1000))


def test_what_is_dropped_while_it_is_read_is_not_found(store):
    store.finish("a", begun(store, count=1000))
    reader = store.read("a")
    next(reader)
    store.drop("a")
    with pytest.raises(RunNotFoundError):
        list(reader)


@pytest.mark.parametrize("readers", ["landmarks", "marks"])
def test_landmarks_that_are_dropped_while_they_are_read_are_not_found(store, readers):
    epoch = store.begin("a")
    for seq in range(1000):
        store.append("a", epoch, noted(seq, name="crewbus.CheckpointSaved"))
    store.finish("a", epoch)
    reader = getattr(store, readers)("a")
    next(reader)
    store.drop("a")
    with pytest.raises(RunNotFoundError, match="run a is not recorded"):
        list(reader)


def test_ids_are_free_again_and_an_old_writer_does_not_notice_the_new_run(path, store):
    epoch = begun(store)
    store.flush()
    other = SQLiteStore(path)
    store.revoke("a")
    other.drop("a")
    other.finish("a", begun(other, count=2))
    other.flush()
    store.append("a", epoch, noted(3))
    with pytest.raises(RecordingError, match="dropped"):
        store.flush()
    assert numbers(other) == [0, 1]
    other.close()


def record(path, barrier, me):
    store = SQLiteStore(path, busy=PATIENCE)
    barrier.wait(PATIENCE)
    for run in range(5):
        root = f"{me}/{run}"
        epoch = begun(store, root, 20)
        store.flush()
        write(store, root, epoch, range(20, 30))
        store.finish(root, epoch)
    store.close()


def test_many_processes_record_to_one_file(path, store):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(8)
    processes = [spawn.Process(target=record, args=(path, barrier, me)) for me in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted(store.roots()) == sorted(f"{me}/{run}" for me in range(8) for run in range(5))
    for root in store.roots():
        assert numbers(store, root) == list(range(30))
        assert store.info(root)[:4] == (root, 1, 29, True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_shares_the_file_and_holds_nothing(path, store):
    epoch = begun(store)
    store.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.raises(RecordingError, match="no open record"):
                store.append("a", epoch, noted(3))
            store.finish("child", begun(store, "child"))
            store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    store.append("a", epoch, noted(3))
    assert numbers(store) == [0, 1, 2, 3]
    assert numbers(store, "child") == [0, 1, 2]
