"""The contract of a store behind a network: answers that are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

import attrs
import pytest

from crewbus.exceptions import RunHeldError, RunIdInUseError, RunNotFoundError
from crewbus.stores import Claim, Store
from crewbus.testing.network.network_case import NetworkCase, repeated, within_limit
from crewbus.testing.network.proxy import Cut
from crewbus.testing.store.case import PATIENCE
from crewbus.testing.store.model import first_events, write

MOST_ANSWERS: Final = 40
"""More than any call waits for."""
Calls = Iterable[Callable[[], object]]


def seqs(store: Store, root_id: str) -> list[int]:
    """The numbers of the events of a log."""
    return [event.seq for event in store.read(root_id)]


def _held(store: Store, root_id: str) -> None:
    write(store, root_id, store.begin(root_id), 0, 3)
    store.flush(PATIENCE)


def _finished(store: Store, root_id: str) -> None:
    _held(store, root_id)
    store.finish(root_id, 1)
    store.flush(PATIENCE)


def _queued(store: Store, root_id: str) -> None:
    store.create(root_id, first_events(root_id, 3))


@attrs.frozen
class Operation:
    """Calls whose answers are lost, the state before them, and what must hold once each was answered."""

    before: Callable[[Store, str], object]
    calls: Callable[[Store, str], Calls]
    holds: Callable[[Store, str], object]
    done: tuple[type[Exception], ...] = ()


def _nothing(store: Store, root_id: str) -> None:
    pass


def _write_seven(store: Store, root_id: str) -> None:
    write(store, root_id, 1, 3, 7)


def _claimed_once(store: Store, root_id: str) -> bool:
    """Claim a log, and write with the epoch of that claim."""
    claimed = next(iter(store.claim(Claim(limit=1))), None)
    if claimed is None:
        raise RunHeldError("it can't be claimed yet")
    assert claimed.root_id == root_id
    write(store, root_id, claimed.epoch, 3)
    store.finish(root_id, claimed.epoch)
    return True


def _acquired(store: Store, root_id: str) -> bool:
    epoch = store.acquire(root_id)
    write(store, root_id, epoch, 3)
    store.finish(root_id, epoch)
    return True


OPERATIONS: Final = {
    "begin": Operation(
        _nothing,
        lambda store, root: [lambda: store.begin(root), lambda: write(store, root, 1, 0, 2), store.flush],
        lambda store, root: seqs(store, root) == [0, 1] and store.info(root).alive,
        (RunIdInUseError,),
    ),
    "append": Operation(
        _held,
        lambda store, root: [lambda: _write_seven(store, root), store.flush],
        lambda store, root: seqs(store, root) == list(range(10)),
    ),
    "finish": Operation(
        _held,
        lambda store, root: [lambda: store.finish(root, 1), store.flush],
        lambda store, root: store.info(root).sealed,
    ),
    "release": Operation(
        _held,
        lambda store, root: [lambda: store.release(root, 1)],
        lambda store, root: not store.info(root).alive,
    ),
    "revoke": Operation(
        _held,
        lambda store, root: [lambda: store.revoke(root)],
        lambda store, root: not store.info(root).alive,
    ),
    "confirm": Operation(
        _held,
        lambda store, root: [lambda: store.confirm(root, 1)],
        lambda store, root: store.has_lease(root, 1),
    ),
    "create": Operation(
        _nothing,
        lambda store, root: [lambda: store.create(root, first_events(root, 3))],
        lambda store, root: seqs(store, root) == [0, 1, 2] and [one.root_id for one in store.claim(Claim())] == [root],
        (RunIdInUseError,),
    ),
    "claim": Operation(
        _queued,
        lambda store, root: [lambda: _claimed_once(store, root), store.flush],
        lambda store, root: seqs(store, root) == [0, 1, 2, 3] and store.info(root).sealed,
    ),
    "acquire": Operation(
        _finished,
        lambda store, root: [lambda: _acquired(store, root), store.flush],
        lambda store, root: seqs(store, root) == [0, 1, 2, 3] and store.info(root).sealed,
    ),
    "fork": Operation(
        _held,
        lambda store, root: [lambda: store.fork(root, 1, f"{root} fork")],
        lambda store, root: seqs(store, f"{root} fork") == [0, 1] and store.forks(root) == [f"{root} fork"],
        (RunIdInUseError,),
    ),
    "post": Operation(
        _held,
        lambda store, root: [lambda: store.post(root, "mail", b"1", "key")],
        lambda store, root: [(one.number, one.data) for one in store.posted(root)] == [(0, b"1")],
    ),
    "drop": Operation(
        _finished,
        lambda store, root: [lambda: store.drop(root)],
        lambda store, root: root not in store.roots(),
        (RunNotFoundError,),
    ),
}
"""Each way to change a store."""


class AnswerContract(NetworkCase):
    """What a store does about answers that don't arrive."""

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_whichever_answer_is_lost_it_happens_once(self, name: str) -> None:
        """Each answer that a call waits for is lost in turn, that of the commit among them, and the connection ends.

        Repeated until it is answered, the call was carried out once; and the run is held by no one who does not know.
        """
        store, operation = self.new_sharing_work(), OPERATIONS[name]
        for answers in range(MOST_ANSWERS):
            root = f"{name} {answers}"
            operation.before(store, root)
            if not self._lose_one(store, operation, root, answers):
                break
            assert within_limit(lambda: repeated(lambda: operation.holds(store, root)))  # noqa: B023 - made at once
        else:
            raise AssertionError("a call waits for ever more answers")
        assert answers > 0

    def _lose_one(self, store: Store, operation: Operation, root: str, answers: int) -> bool:
        """Make the calls of an operation; returns whether an answer was lost."""
        lost, ended = self.cut(Cut.ANSWERS, answers), threading.Event()
        failures = list[BaseException]()

        def make() -> None:
            try:
                for call in operation.calls(store, root):
                    repeated(call, done=operation.done)
            except BaseException as error:
                failures.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        while not lost.wait(0.01) and not ended.is_set():
            pass
        self.cut(Cut.RESET)
        self.heal()
        thread.join(PATIENCE)
        assert ended.is_set(), "a call hangs"
        if failures:
            raise failures[0]
        return lost.is_set()
