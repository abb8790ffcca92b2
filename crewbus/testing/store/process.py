"""The contract of a store: processes that fork, and processes that are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest

from crewbus.exceptions import RecordingError, RunHeldError
from crewbus.stores import LANDMARKS, Claim, Claimed, LogFilter, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begin_log, write_and_flush
from crewbus.testing.store.crash import STEPS
from crewbus.testing.store.model import LogState, Model, all_logs, first_events, write

LONGEST_LEASE: float = 120.0
"""Seconds within which the lease of a killed process must have expired."""

FORKS: Final = 5
WORK: Final = 12
WORKERS: Final = 2
"""The logs of each of two keys, and the processes that share them."""

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork here")
can_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")


def run_in_child(function: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Call ``function`` in a forked child and ``meanwhile`` here; raises AssertionError if ``function`` fails."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads; a store must be prepared for them
        pid = os.fork()
    if pid == 0:
        _run_child(function, writing)
    meanwhile()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said == b"done", said.decode() or "the child was killed, or hung"


def _run_child(function: Callable[[], object], writing: int) -> None:
    said = b"done"
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))
        function()
    except BaseException:
        said = traceback.format_exc().encode()
    finally:
        os.write(writing, said)
        os._exit(0)


@contextlib.contextmanager
def _writing(store: Store, epochs: dict[str, int]) -> Iterator[Callable[[], None]]:
    """Write each log in a thread of its own, once all threads have started, until the yielded function is called."""
    stop, ready = threading.Event(), threading.Barrier(len(epochs) + 1)

    def keep_writing(root: str, epoch: int) -> None:
        seq = store.info(root).last + 1
        ready.wait(PATIENCE)
        while not stop.is_set():
            write_and_flush(store, root, epoch, seq)
            seq += 1

    threads = [threading.Thread(target=keep_writing, args=log) for log in epochs.items()]
    for thread in threads:
        thread.start()
    try:
        ready.wait(PATIENCE)
        yield stop.set
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)


def _wait_until_released(store: Store, root_id: str) -> None:
    pause = threading.Event()
    for _ in range(int(LONGEST_LEASE * 100)):
        if not store.info(root_id).alive:
            return
        pause.wait(0.01)
    raise AssertionError(f"{store.info(root_id)} is still alive, long after its process was killed")


class ProcessContract(StoreCase):
    """What a store does when its process forks or is killed."""

    # Forked children

    @can_fork
    def test_a_forked_child_does_not_write_its_parents_logs(self) -> None:
        """After `after_fork` the child holds nothing, and writes to no log that its parent began."""
        store = self.new()
        epoch = begin_log(store)
        store.flush(PATIENCE)
        write(store, "a", epoch, 3)

        def child() -> None:
            store.after_fork()
            with pytest.raises(RecordingError):
                write_and_flush(store, "a", epoch, 4)
            store.close()

        run_in_child(child)
        write_and_flush(store, "a", epoch, 4)
        assert [event.seq for event in store.read("a")] == list(range(5))
        assert store.info("a").alive

    @can_fork
    def test_a_forked_child_records_its_own_runs(self) -> None:
        """`after_fork` takes new locks: the child records its own runs, whatever its parent was doing."""
        store = self.new()
        epochs = {root: begin_log(store, root) for root in "abc"}
        store.flush(PATIENCE)

        def child(name: str) -> None:
            store.after_fork()
            write_and_flush(store, name, store.begin(name), 0, 5)
            assert [event.seq for event in store.read(name)] == list(range(5))
            store.close()

        for turn in range(FORKS):
            with _writing(store, epochs) as stop:
                run_in_child(partial(child, f"child {turn}"), meanwhile=stop)
        children = [f"child {turn}" for turn in range(FORKS)] if self.survives else []
        assert store.roots() == ["a", "b", "c", *children]
        for root in epochs:
            seqs = [event.seq for event in store.read(root)]
            assert seqs == list(range(len(seqs)))

    # Processes that are killed

    def _run_until_killed(self, source: str) -> str:
        """Open the store in another process and run ``source`` there, which kills it; returns what it printed."""
        self.skip_unless_survives()
        program = [sys.executable, "-c", f"{self.opener()}\nfrom crewbus.testing.store.crash import *\n{source}"]
        done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done.stdout

    @can_kill
    @pytest.mark.parametrize("acknowledged", range(len(STEPS) + 1))
    def test_a_crash_between_any_two_writes(self, acknowledged: int) -> None:
        """After ``kill -9``, every flushed write is there; of those not flushed, a prefix."""
        printed = self._run_until_killed(f"perform_steps(store, {acknowledged})")
        assert printed.split() == [str(number) for number in range(acknowledged)]
        before, after = Model(), Model()
        for model, done in ((before, acknowledged), (after, acknowledged + 1)):
            for step in STEPS[:done]:
                step(model)
        store = self.new()
        found = all_logs(store)
        _assert_between(found, all_logs(before), all_logs(after))
        for root, seen in found.items():
            _assert_usable(store, root, seen)

    @can_kill
    def test_confirmed_writes_survive_a_crash(self) -> None:
        """Writes that `when_written` has confirmed are there after ``kill -9``."""
        assert self._run_until_killed("write_and_confirm(store); kill_self()") == "confirmed"
        store = self.new()
        assert [event.seq for event in store.read("a")] == list(range(50))

    @can_kill
    def test_a_killed_process_holds_nothing(self) -> None:
        """The logs of a killed process are not alive once its lease has expired or its death is known."""
        self._run_until_killed("perform_steps(store, 2)")
        store = self.new()
        _wait_until_released(store, "a")
        write_and_flush(store, "a", store.acquire("a"), store.info("a").last + 1)

    def test_a_log_is_taken_over_from_another_process(self) -> None:
        """Of two processes that take the same run only the last can write; the other is fenced."""
        self.skip_unless_survives()
        program = [
            sys.executable,
            "-c",
            f"{self.opener()}\nfrom crewbus.testing.store.crash import *\nhold_until_line(store)",
        ]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            store = self.new()
            with pytest.raises(RunHeldError):
                store.acquire("a")
            store.revoke("a")
            epoch = store.acquire("a")
            assert other.communicate("go on\n", timeout=PATIENCE)[0] == "FencedError\n"
        write_and_flush(store, "a", epoch, 3)
        assert [event.seq for event in store.read("a")] == [0, 1, 2, 3]

    @can_kill
    def test_what_was_created_and_posted_survives_a_crash(self) -> None:
        """`create` and `post` return when all is durable."""
        self.new_sharing_work()
        self.close_all()
        assert self._run_until_killed("create_and_post(store); kill_self()") == "0\n"
        store = self.new()
        assert list(store.read("a")) == first_events("a", 200, queue="x")
        assert [tuple(message[:4]) for message in store.posted("a")] == [(0, "u", b"1", "k")]
        assert store.post("a", "u", b"2", "k") == 0
        assert store.claim(Claim()) == [Claimed("a", 1)]

    @can_kill
    def test_what_a_killed_process_claimed_is_claimed_again(self) -> None:
        """As soon as it is known to be dead, and with another epoch; the others are there for anyone at once."""
        self.skip_unless_survives()
        store = self.new_sharing_work()
        for root_id in "abcd":
            store.create(root_id, first_events(root_id, 2))
        assert self._run_until_killed("claim_and_print(store, 2); kill_self()").split() == ["a", "b"]
        for root_id in "ab":
            _wait_until_released(store, root_id)
        assert store.claim(Claim(limit=9)) == [("a", 2), ("b", 2), ("c", 1), ("d", 1)]
        assert [store.info(root_id).stalls for root_id in "abcd"] == [2, 2, 1, 1]
        for root_id, epoch in (("a", 2), ("c", 1)):
            write_and_flush(store, root_id, epoch, 2)

    def test_processes_share_work(self) -> None:
        """Each log is claimed by one process, none is left, and together they never exceed a cap."""
        self.skip_unless_survives()
        store = self.new_sharing_work()
        roots = [f"{key}{number}" for key in "pq" for number in range(WORK)]
        for root_id in roots:
            store.create(root_id, first_events(root_id, 1, queue="x", key=root_id[0]))
        program = [sys.executable, "-c", f"{self.opener()}\nfrom crewbus.testing.store.crash import *\nwork_off(store)"]
        with contextlib.ExitStack() as stack:
            workers = [
                stack.enter_context(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
                for _ in range(WORKERS)
            ]
            printed = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
        assert sorted(" ".join(printed).split()) == sorted(roots)
        assert [one.info.epoch for one in store.find(LogFilter())] == [1] * len(roots)
        assert all(one.info.sealed for one in store.find(LogFilter()))

    def test_changes_by_another_process_are_noticed(self) -> None:
        """`watch` calls its function for them too."""
        self.skip_unless_survives()
        store = self.new()
        begin_log(store)
        store.flush(PATIENCE)
        noticed = threading.Event()
        stop = store.watch(noticed.set)
        try:
            program = f"{self.opener()}\nimport sys; sys.stdin.readline(); store.revoke('a'); sys.stdin.readline()"
            with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, text=True) as other:
                assert other.stdin is not None
                noticed.clear()
                print(file=other.stdin, flush=True)
                assert noticed.wait(PATIENCE)
                other.stdin.close()
        finally:
            stop()


def _assert_between(found: dict[str, LogState], before: dict[str, LogState], after: dict[str, LogState]) -> None:
    """What was acknowledged is there, and a prefix of what was written after it."""
    assert before.keys() & after.keys() <= found.keys() <= before.keys() | after.keys()
    for root, seen in found.items():
        first, last = before.get(root), after.get(root, before.get(root))
        assert last is not None
        assert seen.events == last.events[: len(seen.events)]
        assert seen.epoch <= last.epoch
        if first is not None:
            assert seen.events[: len(first.events)] == first.events
            assert first.epoch <= seen.epoch
            assert seen.sealed in (first.sealed, last.sealed)
            assert seen.parent == first.parent


def _assert_usable(store: Store, root: str, seen: LogState) -> None:
    """All of the log is found, and its next holder can write to it."""
    assert list(store.landmarks(root)) == [event for event in seen.events if event.name in LANDMARKS]
    assert all(store.root_of(event.run_id) for event in seen.events)
    store.revoke(root)
    epoch = store.acquire(root)
    assert epoch == seen.epoch + 1
    write_and_flush(store, root, epoch, len(seen.events), 3)
    assert [event.seq for event in store.read(root)] == list(range(len(seen.events) + 3))
