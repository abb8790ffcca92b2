"""Lock files: others see at once whether a holder is alive, however it ends and wherever it runs on this host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from lifecycle_helpers import PATIENCE, until

from crewbus.stores.liveness import LockFiles, host_id, new_token

pytest.importorskip("fcntl", reason="liveness needs flock")

HOLD = """
    import sys
    from pathlib import Path
    from crewbus.stores.liveness import LockFiles, host_id, new_token
    token = new_token()
    held = LockFiles(Path(sys.argv[1])).hold(token)
    print(token, host_id(), flush=True)
    sys.stdin.read()
"""
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


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

    def start(*before):
        process = subprocess.Popen(
            [*before, sys.executable, "-c", textwrap.dedent(HOLD), str(prefix)],
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
    assert not files.is_abandoned(token)
    held = files.hold(token)
    assert held.is_visible
    assert files.tokens() == [token]
    assert not LockFiles(prefix).is_abandoned(token)
    files.remove(token)
    assert held.is_visible
    held.release()
    assert not held.is_visible
    assert files.tokens() == []
    held.release()


def test_a_lock_released_without_its_file_is_abandoned(files):
    token = new_token()
    files.hold(token).release(keep_file=True)
    assert files.is_abandoned(token)
    files.remove(token)
    assert files.tokens() == []


def test_a_lock_that_is_collected_is_abandoned(files):
    token = new_token()
    files.hold(token)
    until(lambda: files.is_abandoned(token), PATIENCE)


def test_a_killed_holder_is_dead_while_it_is_a_zombie(files, holding):
    process, token, _ = holding()
    assert not files.is_abandoned(token)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie
    assert files.is_abandoned(token)


def test_a_stopped_holder_is_alive(files, holding):
    process, token, _ = holding()
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert not files.is_abandoned(token)


def test_a_process_in_place_of_a_dead_holder_is_another(files, holding):
    """No process id is looked at, so one that is reused changes nothing."""
    first, dead, _ = holding()
    first.kill()
    first.wait()
    _, alive, _ = holding()
    assert files.is_abandoned(dead)
    assert not files.is_abandoned(alive)


def test_pid_namespaces_see_each_other(files, prefix, holding):
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("new pid namespaces are not permitted here")
    process, token, host = holding(*UNSHARE)
    assert host == host_id()
    assert not files.is_abandoned(token)
    own = files.hold(new := new_token())
    look = "import sys; from pathlib import Path; from crewbus.stores.liveness import LockFiles\n"
    look += "print(LockFiles(Path(sys.argv[1])).is_abandoned(sys.argv[2]))"
    program = [*UNSHARE, sys.executable, "-c", look, str(prefix), new]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == "False\n"
    process.kill()
    until(lambda: files.is_abandoned(token), PATIENCE)
    own.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork here")
def test_a_forked_child_neither_keeps_nor_drops_its_parents_lock(files):
    token = new_token()
    held = files.hold(token)
    here, there = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        held.release()
        own = files.hold(new_token())
        del held
        os.write(here[1], b"ready" if own.is_visible else b"lost!")
        os.read(there[0], 1)
        os._exit(0)
    assert os.read(here[0], 5) == b"ready"
    assert held.is_visible
    assert not files.is_abandoned(token)
    held.release(keep_file=True)
    assert files.is_abandoned(token)  # although the child lives
    os.write(there[1], b"x")
    os.waitpid(pid, 0)
    for descriptor in (*here, *there):
        os.close(descriptor)


@pytest.mark.parametrize("token", ["", "x", "../other", "0" * 31, "A" * 32, "0" * 31 + "\n", "\0" * 32])
def test_an_invalid_token_names_no_file(files, tmp_path, token):
    assert files.hold(token) is None
    assert not files.is_abandoned(token)
    files.remove(token)
    assert list(tmp_path.iterdir()) == []


def test_without_a_writable_folder_no_holder_is_known_to_be_dead(tmp_path):
    files, token = LockFiles(tmp_path / "missing" / "holder-"), new_token()
    assert files.hold(token) is None
    assert not files.is_abandoned(token)
    assert files.tokens() == []


def test_where_files_can_not_be_locked_no_file_is_left(files, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert files.hold(new_token()) is None
    assert list(tmp_path.iterdir()) == []


def test_without_fcntl_no_holder_is_known_to_be_dead(files, tmp_path, monkeypatch):
    token = new_token()
    files.hold(token).release(keep_file=True)
    monkeypatch.setattr("crewbus.stores.liveness.fcntl", None)
    assert not files.is_abandoned(token)
    assert files.hold(new_token()) is None
    files.remove(token)
    assert files.tokens() == [token]


def test_a_removed_lock_file_is_noticed(files, prefix):
    token = new_token()
    held = files.hold(token)
    prefix.with_name(prefix.name + token).unlink()
    assert not held.is_visible
    assert not files.is_abandoned(token)  # unknown
    again = files.hold(token)
    held.release()
    assert again.is_visible
    again.release()
