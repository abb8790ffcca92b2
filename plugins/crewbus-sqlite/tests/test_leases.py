"""Who holds a run: until when, and how it is known that a holder is dead."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import pytest
from lifecycle_helpers import until
from sqlite_helpers import PATIENCE, answer, begun, noted, numbers

from crewbus.exceptions import FencedError, RunHeldError
from crewbus.stores import LogFilter
from crewbus.stores.liveness import LockFiles, host_id, new_token
from crewbus_sqlite import SQLiteStore
from crewbus_sqlite._holders import Holder, Holders, save

pytest.importorskip("fcntl", reason="liveness needs flock")


def hold(path, lease, ready, stay):
    store = SQLiteStore(path, lease=lease)
    begun(store)
    store.flush()
    ready.set()
    stay.wait(PATIENCE)
    store.close()


@pytest.fixture
def holding(tmp_path):
    """Start processes that hold the run ``a``; they are ended after the test."""
    spawn, processes = multiprocessing.get_context("spawn"), []

    def start(lease):
        ready, stay = spawn.Event(), spawn.Event()
        process = spawn.Process(target=hold, args=(tmp_path / "record.db", lease, ready, stay))
        process.start()
        processes.append(process)
        assert ready.wait(PATIENCE)
        return process, stay

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def store(tmp_path):
    store = SQLiteStore(tmp_path / "record.db")
    yield store
    store.close()


def test_the_holder_of_a_run_is_named(holding, store):
    process, stay = holding(15.0)
    info = store.info("a")
    assert info.alive
    assert info.holder.startswith(f"process {process.pid} on ")
    assert info.until > time.time()
    with pytest.raises(RunHeldError, match=rf"^run a is alive: held by process {process.pid} on .* runs until 20"):
        store.acquire("a")
    stay.set()
    process.join()
    assert store.info("a")[3:7] == (False, None, None, False)
    assert store.acquire("a") == 2


def test_a_killed_holder_is_dead_at_once(holding, store):
    process, _ = holding(1e6)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    info = store.info("a")
    assert not info.alive
    assert info.holder.startswith(f"process {process.pid} ")
    assert store.acquire("a") == 2
    assert numbers(store) == [0, 1, 2]


def test_a_stopped_holder_is_fenced_once_its_lease_has_ended(holding, store):
    process, stay = holding(0.3)
    os.kill(process.pid, signal.SIGSTOP)
    assert not store.info("a").sealed
    until(lambda: not store.info("a").alive, PATIENCE)
    assert store.acquire("a") == 2
    os.kill(process.pid, signal.SIGCONT)
    stay.set()
    process.join()
    store.append("a", 2, noted(3))
    assert numbers(store) == [0, 1, 2, 3]
    assert store.info("a").alive


def test_a_lease_is_renewed_while_the_store_is_open(tmp_path, store):
    other = SQLiteStore(tmp_path / "record.db", lease=0.3)
    begun(other)
    first = other.info("a").until
    until(lambda: store.info("a").until > first + 0.3, PATIENCE)
    assert store.info("a").alive
    other.close()


def test_an_ended_lease_continues_if_no_other_store_acquired_the_run(tmp_path, store, monkeypatch):
    monkeypatch.setattr(LockFiles, "hold", lambda *_: None)
    epoch = begun(store)
    store.flush()
    end_leases(tmp_path / "record.db")
    assert not store.info("a").alive
    with pytest.raises(RunHeldError):
        store.acquire("a")  # this very store holds it
    store.append("a", epoch, noted(3))
    assert numbers(store) == [0, 1, 2, 3]
    other = SQLiteStore(tmp_path / "record.db")
    assert other.acquire("a") == 2
    store.append("a", epoch, noted(4))
    with pytest.raises(FencedError):
        store.flush()
    other.close()


def test_while_others_lock_the_database_for_longer_than_a_lease_the_run_keeps_its_holder(tmp_path, store):
    lease, path = 1.5, tmp_path / "record.db"
    holder = SQLiteStore(path, lease=lease)
    epoch = begun(holder)
    holder.flush()
    ended = holder.info("a").until + 2 * lease
    tried = []
    taking = threading.Thread(target=lambda: tried.append(answer(store.acquire, "a")))
    with closing(sqlite3.connect(path, isolation_level=None)) as program:
        program.execute("BEGIN EXCLUSIVE")
        holder.append("a", epoch, noted(3))
        taking.start()
        until(lambda: time.time() > ended, PATIENCE)
        assert holder.has_lease("a", epoch)
        assert store.info("a").alive
        assert [found.state for found in store.find(LogFilter())] == ["running"]
        holder.append("a", epoch, noted(4))
        program.execute("ROLLBACK")
    taking.join(PATIENCE)
    assert tried == [RunHeldError]
    holder.flush()
    assert numbers(store) == [0, 1, 2, 3, 4]
    holder.close()


def test_an_ended_lease_of_a_holder_that_is_alive_is_not_named(tmp_path, store):
    holder = SQLiteStore(tmp_path / "record.db")
    begun(holder)
    holder.flush()
    end_leases(tmp_path / "record.db")
    with pytest.raises(RunHeldError, match=r"^run a is alive: held by process \d+ on .*; its process is alive on this"):
        store.acquire("a")
    holder.close()


def test_a_vacuum_in_the_middle_changes_nothing(tmp_path, store):
    epoch = begun(store)
    store.flush()
    with closing(sqlite3.connect(tmp_path / "record.db", isolation_level=None)) as program:
        for seq in range(3, 6):
            store.append("a", epoch, noted(seq))
            program.execute("VACUUM")
    assert numbers(store) == [0, 1, 2, 3, 4, 5]
    assert store.info("a").alive


STOPPABLE = """
    import sys
    from crewbus.stores import StoredEvent
    from crewbus_sqlite import SQLiteStore
    store = SQLiteStore(sys.argv[1], lease=0.3)
    epoch = store.begin("a")
    store.flush()
    print("begun", flush=True)
    for line in sys.stdin:
        if line == "ask\\n":
            print(store.has_lease("a", epoch), flush=True)
        else:
            try:
                store.confirm("a", epoch)
            except Exception as error:
                print(type(error).__name__, flush=True)
            else:
                print("confirmed", flush=True)
"""


@pytest.fixture
def stoppable(tmp_path):
    """A process that holds the run ``a``, and answers questions."""
    program = [sys.executable, "-c", textwrap.dedent(STOPPABLE), str(tmp_path / "record.db")]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.communicate()


def told(process, question):
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def continue_until_renewed(process, store):
    """Continue a stopped process, until others see that it is there again."""
    os.kill(process.pid, signal.SIGCONT)
    with closing(sqlite3.connect(store.path)) as connection:
        query = "SELECT until FROM holders WHERE name LIKE ?"
        name = f"process {process.pid} %"
        until(lambda: connection.execute(query, (name,)).fetchone()[0] > time.time(), PATIENCE)


@pytest.mark.parametrize("lock", [True, False])
def test_a_holder_that_comes_back_is_certain_once_it_has_found_its_run(tmp_path, store, stoppable, lock):
    if not lock:
        (name,) = lock_files(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()  # so that it can't be made again
    os.kill(stoppable.pid, signal.SIGSTOP)
    until(lambda: not store.info("a").alive, PATIENCE)
    continue_until_renewed(stoppable, store)
    until(lambda: told(stoppable, "ask") == "True", PATIENCE)  # the renewal looks at the run, too
    assert told(stoppable, "confirm") == "confirmed"


def test_a_holder_that_comes_back_too_late_is_told(store, stoppable):
    os.kill(stoppable.pid, signal.SIGSTOP)
    until(lambda: not store.info("a").alive, PATIENCE)
    assert store.acquire("a") == 2
    continue_until_renewed(stoppable, store)
    for _ in range(2):
        assert told(stoppable, "ask") == "False"
        assert told(stoppable, "confirm") == "FencedError"


UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def test_a_pod_that_restarts_takes_its_runs_at_once_although_it_has_the_same_process_id(tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("new pid namespaces are not permitted here")
    pod = """
        import os, signal, sys
        from crewbus_sqlite import SQLiteStore
        store = SQLiteStore(sys.argv[1], lease=1e6)
        print(os.getpid(), store.acquire("a") if store.roots() else store.begin("a"), flush=True)
        store.flush()
        os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != 1 else os._exit(1)
    """
    program = [*UNSHARE, sys.executable, "-c", textwrap.dedent(pod), str(tmp_path / "record.db")]
    said = [subprocess.run(program, capture_output=True, text=True, check=False).stdout for _ in range(3)]
    assert said == ["1 1\n", "1 2\n", "1 3\n"]


def end_leases(path):
    """Have all leases end now."""
    connection = sqlite3.connect(path, isolation_level=None)
    for *columns, _ in connection.execute("SELECT * FROM holders").fetchall():
        save(connection, Holder(*columns)._replace(until=time.time()))
    connection.close()


def test_the_rows_of_dead_holders_are_removed(tmp_path, store):
    begun(store)
    store.flush()
    connection = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    save(connection, Holder(new_token(), "process 1 on nowhere", "elsewhere", time.time() - 100.0))
    assert len(connection.execute("SELECT * FROM holders").fetchall()) == 2
    begun(store, "b")
    store.flush()
    assert len(connection.execute("SELECT * FROM holders").fetchall()) == 1
    connection.close()


def test_a_holder_elsewhere_is_alive_until_its_lease_ends(tmp_path):
    holders = Holders(tmp_path / "record.db", 15.0)
    token = new_token()
    LockFiles(tmp_path / "record.db-holder-").hold(token, 15.0).release(keep_file=True)
    holder = Holder(token, "process 1 on nowhere", "elsewhere", time.time() + 100)
    assert holders.is_alive(holder)
    assert not holders.is_alive(holder._replace(until=time.time() - 1))
    assert not holders.is_alive(holder._replace(host=host_id()))


@pytest.mark.parametrize("token", ["", "x", "../record.db", "0" * 32])
def test_a_holder_without_a_lock_file_is_alive_until_its_lease_ends(tmp_path, token):
    holders = Holders(tmp_path / "record.db", 15.0)
    holder = Holder(token, "process 1", host_id(), time.time() + 100)
    assert holders.is_alive(holder)
    assert not holders.is_alive(holder._replace(until=time.time() - 1))


def lock_files(tmp_path):
    return [file.name for file in tmp_path.iterdir() if "-holder-" in file.name]


def test_lock_files_go_when_their_stores_are_closed(holding, store, tmp_path):
    process, stay = holding(15.0)
    begun(store, "b")
    store.flush()
    assert len(lock_files(tmp_path)) == 2
    stay.set()
    process.join()
    assert len(lock_files(tmp_path)) == 1
    store.close()
    assert lock_files(tmp_path) == []


def test_the_lock_file_of_a_killed_store_goes_after_its_lease(holding, store, tmp_path):
    process, _ = holding(15.0)
    process.kill()
    process.join()
    assert len(lock_files(tmp_path)) == 1
    end_leases(tmp_path / "record.db")
    begun(store, "b")
    store.flush()
    assert len(lock_files(tmp_path)) == 1
    store.close()
    assert lock_files(tmp_path) == []


def test_a_lock_file_that_was_removed_is_made_again(tmp_path, store):
    begun(store)
    store.flush()
    (name,) = lock_files(tmp_path)
    (tmp_path / name).unlink()
    other = SQLiteStore(tmp_path / "record.db")
    assert other.info("a").alive  # for as long as its lease
    begun(store, "b")
    store.flush()
    assert lock_files(tmp_path) == [name]
    other.close()


def test_where_nothing_can_be_locked_the_lease_decides(tmp_path, store, monkeypatch):
    monkeypatch.setattr(LockFiles, "hold", lambda *_: None)
    epoch = begun(store)
    store.flush()
    other = SQLiteStore(tmp_path / "record.db")
    assert other.info("a").alive
    with pytest.raises(RunHeldError):
        other.acquire("a")
    assert store.has_lease("a", epoch)
    end_leases(tmp_path / "record.db")
    assert other.acquire("a") == 2
    other.close()


def test_a_run_that_was_lost_and_dropped_can_be_begun_again(tmp_path, store):
    epoch = begun(store)
    store.flush()
    store.revoke("a")
    other = SQLiteStore(tmp_path / "record.db")
    other.drop("a")
    store.append("a", epoch, noted(3))
    with pytest.raises(FencedError, match="was dropped by another process"):
        store.flush()
    assert begun(store, count=5) == 1
    assert numbers(store) == [0, 1, 2, 3, 4]
    other.close()
