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
from crewbus.stores import LANDMARKS, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, begun, write_through
from crewbus.testing.store.crash import STEPS
from crewbus.testing.store.model import Model, Picture, album, write

LONGEST_LEASE: float = 120.0
"""Seconds within which the lease of a process that was killed must have ended."""

FORKS: Final = 5

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork here")
can_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")


def in_child(function: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Call ``function`` in a forked child, and ``meanwhile`` here; raises AssertionError if it fails there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: what a store has to be prepared for
        pid = os.fork()
    if pid == 0:
        _be_the_child(function, writing)
    meanwhile()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said == b"done", said.decode() or "the child was killed, or hung"


def _be_the_child(function: Callable[[], object], writing: int) -> None:
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
def _writers(store: Store, epochs: dict[str, int]) -> Iterator[Callable[[], None]]:
    """Write each log in a thread of its own until what this yields is called; begins when all of them do."""
    stop, ready = threading.Event(), threading.Barrier(len(epochs) + 1)

    def keep_writing(root: str, epoch: int) -> None:
        seq = store.info(root).last + 1
        ready.wait(PATIENCE)
        while not stop.is_set():
            write_through(store, root, epoch, seq)
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


def _wait_until_dead(store: Store, root_id: str) -> None:
    pause = threading.Event()
    for _ in range(int(LONGEST_LEASE * 100)):
        if not store.info(root_id).alive:
            return
        pause.wait(0.01)
    raise AssertionError(f"{store.info(root_id)} is said to be alive long after its process was killed")


class ProcessContract(StoreCase):
    """What holds of a store when its process forks, or is killed."""

    # Forked children

    @can_fork
    def test_a_forked_child_writes_nothing_of_its_parent(self) -> None:
        """`after_fork` makes the child hold nothing and write nothing of what the parent had begun."""
        store = self.new()
        epoch = begun(store)
        store.flush(PATIENCE)
        write(store, "a", epoch, 3)

        def child() -> None:
            store.after_fork()
            with pytest.raises(RecordingError):
                write_through(store, "a", epoch, 4)
            store.close()

        in_child(child)
        write_through(store, "a", epoch, 4)
        assert [event.seq for event in store.read("a")] == list(range(5))
        assert store.info("a").alive

    @can_fork
    def test_a_forked_child_records_anew(self) -> None:
        """`after_fork` takes new locks: the child records runs of its own, at whatever moment it was forked."""
        store = self.new()
        epochs = {root: begun(store, root) for root in "abc"}
        store.flush(PATIENCE)

        def child(name: str) -> None:
            store.after_fork()
            write_through(store, name, store.begin(name), 0, 5)
            assert [event.seq for event in store.read(name)] == list(range(5))
            store.close()

        for turn in range(FORKS):
            with _writers(store, epochs) as stop:
                in_child(partial(child, f"child {turn}"), meanwhile=stop)
        children = [f"child {turn}" for turn in range(FORKS)] if self.survives else []
        assert store.roots() == ["a", "b", "c", *children]
        for root in epochs:
            seqs = [event.seq for event in store.read(root)]
            assert seqs == list(range(len(seqs)))

    # Processes that are killed

    def _perish(self, source: str) -> str:
        """What a process said that opens the store, does ``source`` and is killed."""
        self.needs_survival()
        program = [sys.executable, "-c", f"{self.opener()}\nfrom crewbus.testing.store.crash import *\n{source}"]
        done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done.stdout

    @can_kill
    @pytest.mark.parametrize("acknowledged", range(len(STEPS) + 1))
    def test_a_crash_between_any_two_writes(self, acknowledged: int) -> None:
        """What `flush` has returned for is there after ``kill -9``, and what it hasn't is there or not, in order."""
        said = self._perish(f"perform(store, {acknowledged})")
        assert said.split() == [str(number) for number in range(acknowledged)]
        before, after = Model(), Model()
        for model, done in ((before, acknowledged), (after, acknowledged + 1)):
            for step in STEPS[:done]:
                step(model)
        store = self.new()
        found = album(store)
        _lies_between(found, album(before), album(after))
        for root, seen in found.items():
            _goes_on(store, root, seen)

    @can_kill
    def test_what_was_said_to_be_written_is_there(self) -> None:
        """So is what `when_written` has told of."""
        assert self._perish("hear(store); die()") == "heard"
        store = self.new()
        assert [event.seq for event in store.read("a")] == list(range(50))

    @can_kill
    def test_who_is_dead_holds_nothing(self) -> None:
        """What a killed process held is not alive when its lease has ended, or its death is known."""
        self._perish("perform(store, 2)")
        store = self.new()
        _wait_until_dead(store, "a")
        write_through(store, "a", store.acquire("a"), store.info("a").last + 1)

    def test_another_process_is_kept_out_and_then_fenced(self) -> None:
        """Of two processes that take the same run one goes on; the other is told before it writes."""
        self.needs_survival()
        program = [sys.executable, "-c", f"{self.opener()}\nfrom crewbus.testing.store.crash import *\nhold(store)"]
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
        write_through(store, "a", epoch, 3)
        assert [event.seq for event in store.read("a")] == [0, 1, 2, 3]


def _lies_between(found: dict[str, Picture], before: dict[str, Picture], after: dict[str, Picture]) -> None:
    """What was acknowledged is there; of what was not yet, as much as was written, in order."""
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


def _goes_on(store: Store, root: str, seen: Picture) -> None:
    """All that belongs to the log is found, and whoever takes it writes on."""
    assert list(store.landmarks(root)) == [event for event in seen.events if event.name in LANDMARKS]
    assert all(store.root_of(event.run_id) for event in seen.events)
    store.revoke(root)
    epoch = store.acquire(root)
    assert epoch == seen.epoch + 1
    write_through(store, root, epoch, len(seen.events), 3)
    assert [event.seq for event in store.read(root)] == list(range(len(seen.events) + 3))
