"""What the tests of a store's contract share: how a store is opened, written to and waited for."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from crewbus.exceptions import CrewbusError
from crewbus.stores import Store
from crewbus.testing.store.model import write

PATIENCE: Final = 60.0
"""Seconds after which a wait means that something hangs."""


class StoreCase:
    """What a subclass of the contract says of its store."""

    survives: ClassVar[bool] = False
    """Whether what was flushed survives the process, so that whoever opens the store again finds it."""
    path: Path
    """A directory of the test's own, empty at first."""

    def open(self) -> Store:
        """Open the store under test: with the same data each time in one test, where it survives its process."""
        raise NotImplementedError(f"{type(self).__name__}.open() must return the store under test")

    def opener(self) -> str:
        """Python source that does in another process what `open` does here, and binds ``store`` to it."""
        raise NotImplementedError(f"{type(self).__name__}.opener() must return source, since its store survives")

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path
        yield
        self.close_all()

    def new(self) -> Store:
        """A store that is closed after the test."""
        store = self.open()
        self.__dict__.setdefault("_opened", []).append(store)
        return store

    def pair(self) -> tuple[Store, Store]:
        """Two who share their data: two stores where it survives, else twice the same."""
        first = self.new()
        return first, self.new() if self.survives else first

    def needs_survival(self) -> None:
        """Skip the test unless data survive the process."""
        if not self.survives:
            pytest.skip("what this store keeps does not survive its process")

    def close_all(self) -> None:
        """Close what `new` has opened."""
        for store in self.__dict__.pop("_opened", []):
            with contextlib.suppress(CrewbusError):  # of a test that had writes refused
                store.close()


def begun(store: Store, root_id: str = "a", count: int = 3) -> int:
    """Begin a log of ``count`` events, and return its epoch."""
    epoch = store.begin(root_id)
    write(store, root_id, epoch, 0, count)
    return epoch


def sealed(store: Store, root_id: str = "a", count: int = 3) -> None:
    """Write a finished log of ``count`` events."""
    store.finish(root_id, begun(store, root_id, count))


def write_through(store: Store, root_id: str, epoch: int, start: int, count: int = 1) -> None:
    """Append and flush; raises what either raises."""
    write(store, root_id, epoch, start, count)
    store.flush(PATIENCE)


def write_and_hear(store: Store, root_id: str, epoch: int, start: int, count: int = 1) -> None:
    """Append and wait until told that it is written; raises what went wrong."""
    told = queue.SimpleQueue[BaseException | None]()
    write(store, root_id, epoch, start, count)
    store.when_written(root_id, told.put)
    error = heard(told)
    if error is not None:
        raise error


def heard(told: queue.SimpleQueue[BaseException | None]) -> BaseException | None:
    """With what `Store.when_written` has called ``told.put``."""
    try:
        return told.get(timeout=PATIENCE)
    except queue.Empty:
        raise AssertionError("nobody told that it is written, or why not") from None


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returns, or the exception that it raises, when threads make them at the same moment."""
    barrier, outcomes = threading.Barrier(len(calls)), dict[int, Any]()

    def make(index: int) -> None:
        barrier.wait(PATIENCE)
        try:
            outcomes[index] = calls[index]()
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=make, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a call hangs"
    return [outcomes[index] for index in range(len(calls))]
