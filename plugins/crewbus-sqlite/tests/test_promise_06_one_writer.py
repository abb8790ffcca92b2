"""Promise 6, one writer: of two processes that take a run exactly one continues; the other gets an error first."""

from __future__ import annotations

import multiprocessing

import pytest
from sqlite_helpers import PATIENCE, begun, noted, numbers

from crewbus.exceptions import FencedError, RunHeldError, RunIdInUseError
from crewbus_sqlite import SQLiteStore

TURNS = 25


def compete(path, barrier, outcomes, me):
    """Take each run at the same moment as the other process does."""
    store = SQLiteStore(path)
    for turn in range(TURNS):
        barrier.wait(PATIENCE)
        outcomes.put((turn, me, *taken(store, f"taken {turn}"), began(store, f"begun {turn}")))
    barrier.wait(PATIENCE)  # no process releases its leases before all have tried
    store.close()


def taken(store, root):
    try:
        epoch = store.acquire(root)
    except RunHeldError:
        return "held", None
    store.append(root, epoch, noted(3, root))
    store.flush()
    return "taken", epoch


def began(store, root):
    try:
        begun(store, root)
        store.flush()
    except RunIdInUseError:
        return "in use"
    return "begun"


def test_promise_06_of_two_processes_one_continues(tmp_path):
    path, spawn = tmp_path / "record.db", multiprocessing.get_context("spawn")
    store = SQLiteStore(path)
    for turn in range(TURNS):
        store.finish(f"taken {turn}", begun(store, f"taken {turn}"))
    store.close()
    barrier, outcomes = spawn.Barrier(2), spawn.Queue()
    both = [spawn.Process(target=compete, args=(path, barrier, outcomes, me)) for me in range(2)]
    for process in both:
        process.start()
    found = [outcomes.get(timeout=PATIENCE) for _ in range(2 * TURNS)]
    for process in both:
        process.join(PATIENCE)
        assert process.exitcode == 0
    for turn in range(TURNS):
        received = [outcome[2:] for outcome in found if outcome[0] == turn]
        assert sorted(outcome[:2] for outcome in received) == [("held", None), ("taken", 2)]
        assert sorted(outcome[2] for outcome in received) == ["begun", "in use"]
    store = SQLiteStore(path)
    for turn in range(TURNS):
        assert numbers(store, f"taken {turn}") == [0, 1, 2, 3]
        assert numbers(store, f"begun {turn}") == [0, 1, 2]
    store.close()


def test_promise_06_a_fenced_holder_gets_an_error_and_writes_nothing(tmp_path):
    first, second = SQLiteStore(tmp_path / "record.db"), SQLiteStore(tmp_path / "record.db")
    epoch, harmless = begun(first), begun(first, "harmless")
    first.flush()
    first.revoke("a")
    first.append("a", epoch, noted(3))  # a revoked holder continues until another one takes the run
    first.flush()
    assert second.acquire("a") == 2
    received = []
    first.append("a", epoch, noted(4, data=b"of the first"))
    first.append("harmless", harmless, noted(3, "harmless"))
    first.when_written("a", received.append)
    with pytest.raises(FencedError, match=r"^run a was taken over by process \d+ on "):
        first.flush()
    assert isinstance(received[0], FencedError)
    for _ in range(2):
        with pytest.raises(FencedError):
            first.append("a", epoch, noted(5))
    first.flush()  # raised once
    second.append("a", 2, noted(4, data=b"of the second"))
    assert [event.data for event in second.read("a", 3)] == [b"of the second"]
    assert numbers(first) == [0, 1, 2, 3, 4]
    assert numbers(first, "harmless") == [0, 1, 2, 3]
    first.close()
    second.close()
