"""Promise 4, durable when on: what was acknowledged survives ``kill -9`` at any moment, and the file opens clean."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading

import pytest
from sqlite_helpers import noted, numbers

from crewbus_sqlite import SQLiteStore

KILLS, FILES = 208, 8
RUNS = 3
"""How many runs a process records at once, each in a thread of its own."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed and made again 200 times")


def record_for_ever(path, turn, said):
    """Record runs, and say of each event that it is on disk, once that is so."""
    store = SQLiteStore(path)

    def record(run):
        root = f"{turn}/{run}"
        epoch = store.begin(root)
        for seq in range(1_000_000):
            store.append(root, epoch, noted(seq, root, data=b'{"text":"%d"}' % seq * (1 + seq % 50)))
            if run == 0:
                store.when_written(root, lambda error, seq=seq: error or os.write(said, f"{root} {seq}\n".encode()))
            elif seq % (run * 3) == 0:
                store.flush()
                os.write(said, f"{root} {seq}\n".encode())

    for run in range(RUNS):
        threading.Thread(target=record, args=(run,)).start()


def killed(path, turn, acknowledgements):
    """Have a process record until it has said so often that something is on disk, and kill it; what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            record_for_ever(path, turn, writing)
            threading.Event().wait()
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = [pipe.readline() for _ in range(acknowledgements)]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said += pipe.readlines()
    last = {}
    for line in said:
        if line.endswith(b"\n"):  # the last may have been cut by the kill
            root, _, seq = line.decode().strip().rpartition(" ")
            last[root] = max(last.get(root, -1), int(seq))
    return last


@pytest.mark.parametrize("seed", range(FILES))
def test_promise_04_what_was_acknowledged_survives_kills_at_random_moments(seed, tmp_path):
    chance, path, said = random.Random(seed), tmp_path / "record.db", {}
    for turn in range(KILLS // FILES):
        said |= killed(path, turn, chance.choice((1, 2, 3, 5, 8, 13, 21)))
        if turn % 10 == 0:
            found_is_whole(path, said)
    found_is_whole(path, said)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def found_is_whole(path, said):
    """Each event that was acknowledged is there, once, in order; who was killed is known to be dead."""
    store = SQLiteStore(path)
    assert set(said) <= set(store.roots())
    for root in store.roots():
        events = list(store.read(root))
        assert [event.seq for event in events] == list(range(len(events)))
        assert len(events) > said.get(root, -1)
        assert all(event.data == b'{"text":"%d"}' % event.seq * (1 + event.seq % 50) for event in events)
    root = store.roots()[-1]
    assert not store.info(root).alive
    epoch = store.acquire(root)
    length = len(numbers(store, root))
    store.append(root, epoch, noted(length, root, data=b'{"text":"%d"}' % length * (1 + length % 50)))
    store.finish(root, epoch)
    store.close()
