"""Load on stores: threads that write, create, claim and post, and know what was acknowledged."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from crewbus.exceptions import FencedError, RunIdInUseError
from crewbus.stores import Claim, Claimed, LogFilter, Store
from crewbus.testing.network.network_case import repeated
from crewbus.testing.store.case import PATIENCE, wait_for_notification
from crewbus.testing.store.model import first_events, stored, write

LENGTH: Final = 8
"""The events of a log until it is finished."""
BETWEEN: Final = 0.01
"""Seconds between two pieces of work of a thread."""
TRIES: Final = 100
MAILBOX: Final = "mailbox"
QUEUED: Final = {"queue": frozenset({"x"})}
"""The tags of jobs: no thread claims another log."""


class Load:
    """Work on stores that share their data, until it is told to stop."""

    def __init__(self, stores: list[Store]) -> None:
        self._stores = stores
        self._stopped = threading.Event()
        self._paused = threading.Event()
        self._failures: list[BaseException] = []
        self.acknowledged: Final[dict[str, int]] = {}
        """The number of the last event of each written log that was acknowledged."""
        self.created: Final[set[str]] = set()
        """The jobs whose creation was acknowledged."""
        self.worked: Final[Counter[str]] = Counter()
        """How often the end of each job was acknowledged."""
        self.posted: Final[list[str]] = []
        """The keys of the messages that were acknowledged, in order."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work in threads inside the block; raises what one has met."""
        works: list[Callable[[], None]] = [
            *(partial(self._write, store, f"w{place}") for place, store in enumerate(self._stores)),
            partial(self._create, self._stores[0]),
            *(partial(self._work, store) for store in self._stores),
            partial(self._post, self._stores[-1]),
        ]
        repeated(lambda: self._stores[0].create(MAILBOX, first_events(MAILBOX)))
        threads = [threading.Thread(target=self._noting, args=[work], daemon=True) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads), "a call hangs"
        self._raise_failure()

    def let_work(self, seconds: float) -> None:
        """Wait so long, and until something was acknowledged meanwhile."""
        before, pause = self._progress(), threading.Event()
        pause.wait(seconds)
        for _ in range(int(PATIENCE * 100)):
            self._raise_failure()
            if all(now > then for now, then in zip(self._progress(), before, strict=True)):
                return
            pause.wait(0.01)
        raise AssertionError(f"the stores do not get on: {before}, {self._progress()}")

    def _progress(self) -> tuple[int, ...]:
        return (sum(self.acknowledged.values()) + len(self.acknowledged), len(self.created), len(self.posted))

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _noting(self, work: Callable[[], None]) -> None:
        try:
            while not self._stopped.wait(BETWEEN):
                work()
        except BaseException as error:
            self._failures.append(error)

    # What a thread does once

    def _write(self, store: Store, name: str) -> None:
        """Begin a log, and write to it, piece by piece."""
        root = f"{name} {len(self.acknowledged)}"
        epoch = repeated(lambda: store.begin(root), done=[RunIdInUseError]) or 1
        for seq in range(LENGTH):
            repeated(partial(write, store, root, epoch, seq))
            _wait_until_written(store, root)
            self.acknowledged[root] = seq
        repeated(lambda: store.finish(root, epoch))
        _wait_until_written(store, root)

    def _create(self, store: Store) -> None:
        """Create a job."""
        root = f"job {len(self.created)}"
        repeated(lambda: store.create(root, first_events(root, 2, queue="x")), done=[RunIdInUseError])
        self.created.add(root)

    def _work(self, store: Store) -> None:
        """Claim a job, and end it."""
        for claimed in repeated(lambda: store.claim(Claim(tags=QUEUED))) or []:
            with suppress(FencedError):  # another one has it: its answer to a claim was late
                self._end(store, claimed)
                self.worked[claimed.root_id] += 1

    def _end(self, store: Store, claimed: Claimed) -> None:
        root, epoch = claimed
        repeated(lambda: store.append(root, epoch, stored(2, root, name="crewbus.RunFinished")))
        repeated(lambda: store.finish(root, epoch))
        _wait_until_written(store, root)

    def _post(self, store: Store) -> None:
        """Post a message."""
        key = f"m{len(self.posted)}"
        repeated(lambda: store.post(MAILBOX, "mail", key.encode(), key))
        self.posted.append(key)

    # Afterwards

    def check(self, store: Store) -> None:
        """Nothing acknowledged is missing, and nothing is there twice; what is left of the work can be done."""
        for root, last in self.acknowledged.items():
            seqs = [event.seq for event in store.read(root)]
            assert seqs == list(range(len(seqs)))
            assert len(seqs) > last
        assert all(count == 1 for count in self.worked.values()), self.worked
        left = self._finish_jobs(store)
        assert not left & self.worked.keys(), "an ended job was claimed again"
        for root in self.created:
            names = [event.name for event in store.read(root)]
            assert names.count("crewbus.RunFinished") == 1
            assert store.info(root).sealed
        mail = [message.key for message in store.posted(MAILBOX)]
        assert mail[: len(self.posted)] == self.posted
        assert len({*mail}) == len(mail)
        assert len([*store.find(LogFilter())]) == len(store.roots())

    def _finish_jobs(self, store: Store) -> set[str]:
        found = set[str]()
        while claims := store.claim(Claim(limit=100, tags=QUEUED)):
            for claimed in claims:
                found.add(claimed.root_id)
                self._end(store, claimed)
        return found


def _wait_until_written(store: Store, root_id: str) -> None:
    """Wait until a log is written, however often that fails; raises `FencedError`."""
    error: BaseException | None = None
    for _ in range(TRIES):
        outcome = queue.SimpleQueue[BaseException | None]()
        store.when_written(root_id, outcome.put)
        error = wait_for_notification(outcome)
        if error is None:
            return
        if isinstance(error, FencedError):
            raise error
    raise AssertionError(f"the server is back, and still: {error!r}")
