"""What the tests of the contract share: how to open a store, write to it and wait for it."""

from __future__ import annotations

import abc
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
"""Seconds after which a wait has failed."""


class StoreCase(abc.ABC):
    """How a subclass of the contract describes its store."""

    survives: ClassVar[bool] = False
    """Whether flushed data outlive the process, and are found when the store is opened again."""
    path: Path
    """A directory for the test, empty at first."""

    @abc.abstractmethod
    def open(self) -> Store:
        """Open the store under test. If its data survive, each call in one test opens the same data."""

    def opener(self) -> str:
        """Python source that opens the store in another process, as `open` does here, and binds it to ``store``."""
        raise NotImplementedError(f"{type(self).__name__}.opener() must return source, since its store survives")

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path
        yield
        self.close_all()

    def new(self) -> Store:
        """Open a store that is closed after the test."""
        store = self.open()
        self.__dict__.setdefault("_opened", []).append(store)
        return store

    def pair(self) -> tuple[Store, Store]:
        """Two stores with the same data; if data don't survive, the same store twice."""
        first = self.new()
        return first, self.new() if self.survives else first

    def skip_unless_survives(self) -> None:
        """Skip the test unless data survive the process."""
        if not self.survives:
            pytest.skip("the data of this store do not survive its process")

    def new_sharing_work(self) -> Store:
        """Like `new`; skips the test if the store has only the defaults of what is tested."""
        store = self.new()
        if not shares_work(store):
            pytest.skip("this store has the defaults for creating and claiming logs, and takes no messages")
        return store

    def pair_sharing_work(self) -> tuple[Store, Store]:
        """Like `pair`; skips the test likewise."""
        first = self.new_sharing_work()
        return first, self.new() if self.survives else first

    def close_all(self) -> None:
        """Close the stores that `new` opened."""
        for store in self.__dict__.pop("_opened", []):
            with contextlib.suppress(CrewbusError):  # from a test whose writes were refused
                store.close()


def shares_work(store: Store) -> bool:
    """Whether a store has its own `Store.create`, `Store.claim` and `Store.post`, which are atomic."""
    return all(getattr(type(store), name) is not getattr(Store, name) for name in ("create", "claim", "post"))


def begin_log(store: Store, root_id: str = "a", count: int = 3) -> int:
    """Begin a log of ``count`` events, and return its epoch."""
    epoch = store.begin(root_id)
    write(store, root_id, epoch, 0, count)
    return epoch


def write_finished_log(store: Store, root_id: str = "a", count: int = 3) -> None:
    """Write a finished log of ``count`` events."""
    store.finish(root_id, begin_log(store, root_id, count))


def write_and_flush(store: Store, root_id: str, epoch: int, start: int, count: int = 1) -> None:
    """Append and flush; raises what either raises."""
    write(store, root_id, epoch, start, count)
    store.flush(PATIENCE)


def write_and_wait(store: Store, root_id: str, epoch: int, start: int, count: int = 1) -> None:
    """Append and wait until `when_written` notifies; raises the error that it passes."""
    notified = queue.SimpleQueue[BaseException | None]()
    write(store, root_id, epoch, start, count)
    store.when_written(root_id, notified.put)
    error = wait_for_notification(notified)
    if error is not None:
        raise error


def wait_for_notification(notified: queue.SimpleQueue[BaseException | None]) -> BaseException | None:
    """The argument with which `Store.when_written` called ``notified.put``."""
    try:
        return notified.get(timeout=PATIENCE)
    except queue.Empty:
        raise AssertionError("when_written() did not call its function") from None


def call_concurrently(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls in threads at the same time; returns what each returned, or the exception that it raised."""
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
