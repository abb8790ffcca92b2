"""What the tests of a store behind a network share: its hooks, and calls that are repeated or limited in time."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, TypeVar

import pytest

from crewbus.exceptions import (
    CorruptRecordError,
    FencedError,
    FlushTimeoutError,
    RecordingError,
    RunEndedError,
    RunHeldError,
    StoreVersionError,
)
from crewbus.stores import Store
from crewbus.testing.network.proxy import Cut
from crewbus.testing.store.case import PATIENCE, StoreCase

T = TypeVar("T")

PAUSE: Final = 0.03
"""Seconds until a call is repeated."""
LASTING: Final = (CorruptRecordError, FencedError, RunEndedError, StoreVersionError)
"""Errors that no server which comes back ends."""


class NetworkCase(StoreCase):
    """How a subclass of the contract describes its store, its server and the network between them."""

    survives = True
    lease: ClassVar[float] = 2.0
    """The seconds after which the logs of a process that can't reach the server may be taken, as `open` sets them."""

    @abc.abstractmethod
    def cut(self, how: Cut, answers: int = 0) -> threading.Event:
        """Cut the network between the server and all stores, until `heal`; ``answers`` is of `Cut.ANSWERS`.

        Returns an event that is set once something was lost: `TcpProxy.cut` does all of this. For `Cut.PAUSE` the
        server may be stopped instead, as by SIGSTOP.
        """

    @abc.abstractmethod
    def heal(self) -> None:
        """End what `cut` did. The connections that it made half-open stay so."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Crash the server, and return when it has recovered."""

    # For more tests, which are skipped otherwise

    def open_limited(self) -> tuple[Store, int]:
        """Open the store with a small bound for what waits in memory, and give up soon; returns the bound, in bytes."""
        pytest.skip("open_limited() is not defined")

    def crowd(self) -> AbstractContextManager[Any]:
        """Have the server refuse new connections inside the block, since it has as many as it may."""
        pytest.skip("crowd() is not defined")

    def fill_disk(self) -> AbstractContextManager[Any]:
        """Leave the server no room for more data inside the block."""
        pytest.skip("fill_disk() is not defined")

    def fail_over(self) -> AbstractContextManager[Any]:
        """As the block ends, put a replica in place of the server that lacks what was committed inside the block."""
        pytest.skip("fail_over() is not defined")


def within_limit(call: Callable[[], T]) -> T:
    """Make a call in a thread; fails if that hangs."""
    outcome = list[Any]()

    def make() -> None:
        try:
            outcome.append((call(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "a call hangs"
    ((result, error),) = outcome
    if error is not None:
        raise error
    found: T = result
    return found


def repeated(call: Callable[[], T], *, done: Iterable[type[Exception]] = ()) -> T | None:
    """Make a call until the server has answered. A repetition may raise ``done``: the first one was carried out."""
    pause = threading.Event()
    for earlier_tries in range(int(PATIENCE / PAUSE)):
        try:
            return within_limit(call)
        except LASTING:
            raise
        except (FlushTimeoutError, RecordingError, RunHeldError) as error:
            last: Exception = error
        except tuple(done):
            if earlier_tries:
                return None
            raise
        pause.wait(PAUSE)
    raise AssertionError(f"the server is back, and still: {last!r}")
