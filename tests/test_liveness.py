"""Liveness: others see whether a holder is alive, however it ends or stops and wherever it runs on this host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from helpers import needs_fork
from lifecycle_helpers import PATIENCE, until

from crewbus.stores import liveness
from crewbus.stores.liveness import LockFiles, Presence, Sign, clock, host_id, new_token

pytest.importorskip("fcntl", reason="liveness needs flock")

HOLD = """
    import sys
    from pathlib import Path
    from crewbus.stores.liveness import LockFiles, Presence, host_id, new_token
    token = new_token()
    presence = Presence(LockFiles(Path(sys.argv[1])), token, float(sys.argv[2]))
    presence.show()
    print(token, host_id(), flush=True)
    sys.stdin.read()
"""
LONG, SHORT = 1e6, 0.3
"""Seconds: a lease that never ends in a test, and one that soon does."""
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
TIME = ["unshare", "--user", "--map-root-user", "--time", "--monotonic", "100000", "--boottime", "100000", "--fork"]


def permitted(before):
    """Whether processes can be started this way here."""
    return shutil.which(before[0]) is not None and not subprocess.run([*before, "true"], check=False).returncode


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "record.db-holder-"


@pytest.fixture
def files(prefix):
    return LockFiles(prefix)


@pytest.fixture
def holding(prefix):
    """Start processes that hold a lock; each is given with its token and what it calls this host."""
    processes = []

    def start(*before, lease=LONG, program=HOLD):
        process = subprocess.Popen(
            [*before, sys.executable, "-c", textwrap.dedent(program), str(prefix), str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, *process.stdout.readline().split()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_is_held_until_it_is_released(files, prefix):
    token = new_token()
    assert files.sign(token) is Sign.UNKNOWN
    held = files.hold(token, LONG)
    assert held.is_visible
    assert files.tokens() == [token]
    assert LockFiles(prefix).sign(token) is Sign.ALIVE
    files.remove(token)
    assert held.is_visible
    held.release()
    assert not held.is_visible
    assert files.tokens() == []
    held.release()


def test_a_lock_released_without_its_file_is_abandoned(files):
    token = new_token()
    files.hold(token, LONG).release(keep_file=True)
    assert files.sign(token) is Sign.DEAD
    files.remove(token)
    assert files.tokens() == []


def test_a_lock_that_is_collected_is_abandoned(files):
    token = new_token()
    files.hold(token, LONG)
    until(lambda: files.sign(token) is Sign.DEAD, PATIENCE)


def test_a_killed_holder_is_dead_while_it_is_a_zombie(files, holding):
    process, token, _ = holding()
    assert files.sign(token) is Sign.ALIVE
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie
    assert files.sign(token) is Sign.DEAD


def test_a_stopped_holder_is_alive_until_its_lease_ends(files, holding):
    (long, long_token, _), (short, short_token, _) = holding(), holding(lease=SHORT)
    for process in (long, short):
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    until(lambda: files.sign(short_token) is Sign.STOPPED, PATIENCE)
    assert files.sign(long_token) is Sign.ALIVE
    os.kill(short.pid, signal.SIGCONT)
    until(lambda: files.sign(short_token) is Sign.ALIVE, PATIENCE)
    os.kill(short.pid, signal.SIGKILL)
    short.wait()
    assert files.sign(short_token) is Sign.DEAD


FORK = """
    import ctypes
    child = ctypes.CDLL(None).fork()
    if child == 0:
        ctypes.CDLL(None).pause()
"""


def test_a_child_that_python_does_not_know_of_keeps_the_lock_for_a_lease_only(files, holding):
    program = textwrap.dedent(HOLD).replace("print(token", textwrap.dedent(FORK) + "print(token")
    program = program.replace("host_id(), flush", "child, flush")
    process, token, child = holding(lease=SHORT, program=program)
    try:
        process.kill()
        process.wait()
        until(lambda: files.sign(token) is Sign.STOPPED, PATIENCE)
    finally:
        os.kill(int(child), signal.SIGKILL)
    until(lambda: files.sign(token) is Sign.DEAD, PATIENCE)


def test_a_process_in_place_of_a_dead_holder_is_another(files, holding):
    """No process id is looked at, so one that is reused changes nothing."""
    first, dead, _ = holding()
    first.kill()
    first.wait()
    _, alive, _ = holding()
    assert files.sign(dead) is Sign.DEAD
    assert files.sign(alive) is Sign.ALIVE


def test_pid_namespaces_see_each_other(files, prefix, holding):
    if not permitted(UNSHARE):
        pytest.skip("new pid namespaces are not permitted here")
    process, token, host = holding(*UNSHARE)
    assert host == host_id()
    assert files.sign(token) is Sign.ALIVE
    own = files.hold(new := new_token(), LONG)
    look = "import sys; from pathlib import Path; from crewbus.stores.liveness import LockFiles\n"
    look += "print(LockFiles(Path(sys.argv[1])).sign(sys.argv[2]).name)"
    program = [*UNSHARE, sys.executable, "-c", look, str(prefix), new]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == "ALIVE\n"
    process.kill()
    until(lambda: files.sign(token) is Sign.DEAD, PATIENCE)
    own.release()


def test_a_process_with_another_clock_is_on_another_host(holding):
    if not permitted(TIME):
        pytest.skip("new time namespaces are not permitted here")
    assert holding(*TIME)[2] != host_id()


def test_a_pod_that_restarts_with_the_same_process_id_is_another_holder(files, holding):
    if not permitted(UNSHARE):
        pytest.skip("new pid namespaces are not permitted here")
    program = HOLD.replace("host_id(), flush", "__import__('os').getpid(), flush")
    first, dead, pid = holding(*UNSHARE, program=program)
    first.kill()
    first.wait()
    _, alive, same = holding(*UNSHARE, program=program)
    assert pid == same
    until(lambda: files.sign(dead) is Sign.DEAD, PATIENCE)
    assert files.sign(alive) is Sign.ALIVE


@needs_fork
def test_a_forked_child_neither_keeps_nor_drops_its_parents_lock(files):
    token = new_token()
    held = files.hold(token, LONG)
    here, there = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        held.release()
        own = files.hold(new_token(), LONG)
        del held
        os.write(here[1], b"ready" if own.is_visible else b"lost!")
        os.read(there[0], 1)
        os._exit(0)
    assert os.read(here[0], 5) == b"ready"
    assert held.is_visible
    assert files.sign(token) is Sign.ALIVE
    held.release(keep_file=True)
    assert files.sign(token) is Sign.DEAD  # although the child lives
    os.write(there[1], b"x")
    os.waitpid(pid, 0)
    for descriptor in (*here, *there):
        os.close(descriptor)


@pytest.mark.parametrize("token", ["", "x", "../other", "0" * 31, "A" * 32, "0" * 31 + "\n", "\0" * 32])
def test_an_invalid_token_names_no_file(files, tmp_path, token):
    assert files.hold(token, LONG) is None
    assert files.sign(token) is Sign.UNKNOWN
    files.remove(token)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["missing", "/proc"])
def test_without_a_writable_folder_no_holder_is_known_to_be_dead(tmp_path, folder):
    files, token = LockFiles(tmp_path / folder / "holder-"), new_token()
    assert files.hold(token, LONG) is None
    assert files.sign(token) is Sign.UNKNOWN
    assert files.tokens() == []


def test_where_files_can_not_be_locked_no_file_is_left(files, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert files.hold(new_token(), LONG) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lease", [SHORT, LONG])
def test_where_times_are_not_kept_no_file_is_left(files, tmp_path, monkeypatch, lease):
    monkeypatch.setattr("os.utime", lambda *_, **__: None)
    assert files.hold(new_token(), lease) is None
    assert list(tmp_path.iterdir()) == []


def test_without_fcntl_no_holder_is_known_to_be_dead(files, tmp_path, monkeypatch):
    token = new_token()
    files.hold(token, LONG).release(keep_file=True)
    monkeypatch.setattr("crewbus.stores.liveness.fcntl", None)
    assert files.sign(token) is Sign.UNKNOWN
    assert files.hold(new_token(), LONG) is None
    files.remove(token)
    assert files.tokens() == [token]


def test_a_removed_lock_file_is_noticed(files, prefix):
    token = new_token()
    held = files.hold(token, LONG)
    prefix.with_name(prefix.name + token).unlink()
    assert not held.is_visible
    assert files.sign(token) is Sign.UNKNOWN
    again = files.hold(token, LONG)
    held.release()
    assert again.is_visible
    again.release()


@pytest.mark.parametrize("step", [-1e9, 1e9])
def test_a_step_of_the_clock_changes_nothing(files, monkeypatch, step):
    token = new_token()
    held = files.hold(token, 3600.0)
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + step)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(step * 1e9))
    assert files.sign(token) is Sign.ALIVE
    assert held.touch()
    assert files.sign(token) is Sign.ALIVE
    held.release()


def test_a_process_that_is_stopped_while_it_looks_does_not_take_others_for_stopped(files, monkeypatch):
    token, passed = new_token(), 0
    held = files.hold(token, 15.0)
    now, fstat = time.monotonic_ns, os.fstat

    def stop(descriptor):
        nonlocal passed
        passed = int(1e12)
        return fstat(descriptor)

    monkeypatch.setattr(time, "monotonic_ns", lambda: now() + passed)
    monkeypatch.setattr(os, "fstat", stop)
    assert files.sign(token) is Sign.ALIVE
    monkeypatch.undo()
    held.release()


# Presence: what a holder does, and what it knows of its own lease


@pytest.fixture
def present(files):
    made = []

    def make(lease=LONG):
        made.append(Presence(files, new_token(), lease))
        return made[-1]

    yield make
    for presence in made:
        presence.end()


def path_of(prefix, files):
    (token,) = files.tokens()
    return prefix.with_name(prefix.name + token)


def test_a_holder_touches_its_file_by_itself(files, prefix, present):
    assert present(SHORT).show()
    path = path_of(prefix, files)
    for _ in range(3):
        touched = path.stat().st_mtime_ns
        until(lambda touched=touched: path.stat().st_mtime_ns > touched, PATIENCE)


def test_a_deleted_file_is_made_again_by_itself(files, prefix, present):
    presence = present(SHORT)
    assert presence.show()
    path = path_of(prefix, files)
    path.unlink()
    until(path.exists, PATIENCE)
    until(lambda: files.sign(*files.tokens()) is Sign.ALIVE, PATIENCE)
    assert presence.has_file


def test_a_replaced_file_is_locked(files, prefix, present):
    presence = present()
    assert presence.show()
    assert not presence.show()
    path = path_of(prefix, files)
    path.unlink()
    path.touch()
    assert files.sign(*files.tokens()) is Sign.DEAD
    assert presence.show()
    assert files.sign(*files.tokens()) is Sign.ALIVE


def test_a_file_that_can_not_be_touched_any_more_is_given_up(files, present, monkeypatch):
    presence = present()
    presence.show()
    monkeypatch.setattr(liveness, "_touch", lambda *_: False)
    assert not presence.show()
    assert not presence.has_file
    assert files.tokens() == []
    monkeypatch.undo()
    assert presence.show()
    assert presence.has_file


def test_without_a_thread_to_touch_it_there_is_no_file(files, present, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(liveness, "start_daemon", refuse)
    presence = present()
    assert not presence.show()
    assert not presence.has_file
    assert files.tokens() == []


def test_the_end_of_a_holder_is_final(files, present):
    presence = present()
    presence.show()
    presence.end()
    assert not presence.show()
    assert files.tokens() == []
    presence.end()


def test_a_holder_that_is_collected_is_dead(files):
    before = set(threading.enumerate())
    presence = Presence(files, new_token(), SHORT)
    presence.show()
    (thread,) = {thread for thread in threading.enumerate() if thread.name == "crewbus liveness"} - before
    gone = weakref.ref(presence)
    del presence
    until(lambda: gone() is None, PATIENCE)
    until(lambda: files.sign(*files.tokens()) is Sign.DEAD, PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_lease_lasts_while_it_is_renewed_without_a_gap(present, monkeypatch):
    now = 100.0
    monkeypatch.setattr(liveness, "clock", lambda: now)
    presence = present(15.0)
    assert not presence.lasts(100.0)
    presence.renewed(100.0)
    now = 109.9
    assert presence.lasts(100.0)
    now = 110.0
    assert not presence.lasts(100.0)  # although others believe in it for a while
    presence.renewed(109.9)
    assert presence.lasts(100.0)
    presence.renewed(108.0)  # the renewal of another thread, which comes late
    now = 119.8
    assert presence.lasts(100.0)


def test_what_was_held_before_a_gap_is_in_doubt_until_it_is_confirmed(present, monkeypatch):
    now = 200.0
    monkeypatch.setattr(liveness, "clock", lambda: now)
    presence = present(15.0)
    presence.renewed(100.0)
    presence.renewed(200.0)
    assert not presence.lasts(100.0)
    assert not presence.lasts(199.9)
    assert presence.lasts(200.0)
    now = 205.0
    presence.renewed(205.0)
    assert not presence.lasts(199.9)
    assert presence.lasts(200.0)


def test_a_touch_renews_the_lease(present):
    presence = present()
    before = clock()
    presence.show()
    assert presence.lasts(before)
