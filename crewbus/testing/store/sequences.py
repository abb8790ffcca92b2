"""The contract of a store: in any order of calls it answers as the model does. Hypothesis shrinks those that fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from crewbus.stores import LANDMARKS, STATES, Cap, Claim, LogFilter, Store
from crewbus.testing.store.case import PATIENCE, StoreCase, shares_work
from crewbus.testing.store.model import Model, all_logs, first_events, stored, write

NAMES: Final = "abc"
ENDINGS: Final = ("crewbus.RunFailed", "crewbus.RunFinished/", "crewbus.RunResumed", "crewbus.RunFinished")
SETTINGS: Final = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=45,
    report_multiple_bugs=False,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
WORK_SETTINGS: Final = settings(SETTINGS, max_examples=25)

names: Final = st.sampled_from(NAMES)
logs: Final = st.runner().flatmap(lambda machine: st.sampled_from(list(machine.model.logs)))
"""The id of a log that is there."""
dues: Final = st.sampled_from([None, None, 1.0, 1e12, math.inf])
"""Until when a log waits: not at all, until a time that has passed or is to come, or for a message alone."""
claims: Final = st.builds(
    Claim,
    limit=st.integers(1, 3),
    tags=st.sampled_from([{}, {}, {"queue": frozenset("x")}, {"queue": frozenset("xy"), "key": frozenset("p")}]),
    caps=st.sampled_from([(), (Cap("key", 1),), (Cap("queue", 2), Cap("key", 1))]),
)
steps_back: Final = st.sampled_from([0, 0, 0, 1])
"""By how much an epoch is too old."""
with_logs: Final = precondition(lambda machine: bool(machine.model.logs))


class StoreMachine(RuleBasedStateMachine):
    """Makes each call on a store and on the model, and compares the outcomes and all that can be read then."""

    def __init__(self, store: Store, close: Callable[[], object]) -> None:
        super().__init__()
        self.store = store
        self.model = Model()
        self.shares_work = shares_work(store)
        self.close = close

    @rule(root=names)
    def begin(self, root: str) -> None:
        """Begin a log, which may be there already."""
        self._compare(lambda store: store.begin(root))

    @with_logs
    @rule(root=logs, back=steps_back, shift=st.sampled_from([0, 0, 0, -1, 1]), count=st.integers(1, 4))
    def append(self, root: str, back: int, shift: int, count: int) -> None:
        """Append events at the end, or repeat the last number, or leave a gap; perhaps in an old epoch.

        At some numbers the end or resume of a run follows, which is nested if its name ends with a slash.
        """
        start, epoch = max(0, self._end(root) + shift), self._epoch(root, back)
        self._compare(lambda store: write(store, root, epoch, start, count))
        if start % 3 == 1:
            name, slash, _ = ENDINGS[start // 3 % len(ENDINGS)].partition("/")
            event = stored(self._end(root), f"{root}/nested" if slash else root, b"{}", name)
            self._compare(lambda store: store.append(root, epoch, event))

    @with_logs
    @rule(root=logs, back=steps_back)
    def finish(self, root: str, back: int) -> None:
        """Seal a log."""
        log = self.model.logs[root]
        if log.held or self._epoch(root, back) < log.epoch:
            self._compare(lambda store: store.finish(root, self._epoch(root, back)))

    @rule(root=names)
    def acquire(self, root: str) -> None:
        """Take a log, which may be held, or not be there."""
        self._compare(lambda store: store.acquire(root))

    @with_logs
    @rule(root=logs)
    def take_over(self, root: str) -> None:
        """Take a log from its holder."""
        self._compare(lambda store: _take_over(store, root))

    @with_logs
    @rule(root=logs, back=steps_back)
    def release(self, root: str, back: int) -> None:
        """Release a log; a fenced holder has nothing to release."""
        self._compare(lambda store: store.release(root, self._epoch(root, back)))

    @rule(root=names, at=st.integers(-1, 12), fork=names)
    def fork(self, root: str, at: int, fork: str) -> None:
        """Fork a log. Where two errors would be right, a free id leaves one."""
        fork_id = fork if 0 <= at < self._end(root) else "free"
        self._compare(lambda store: store.fork(root, at, fork_id))

    @rule(root=names)
    def drop(self, root: str) -> None:
        """Drop a log, which may be held, forked or not be there."""
        self._compare(lambda store: store.drop(root))

    @invariant()
    def shows_the_same(self) -> None:
        """The store shows the logs, runs and landmarks that the model has."""
        expected, found = all_logs(self.model), all_logs(self.store)
        assert list(found) == list(expected)
        assert found == expected
        for root in NAMES:
            assert self.store.root_of(f"{root}/nested") == self.model.root_of(f"{root}/nested")
        for states in (None, *({state} for state in STATES)):
            query = LogFilter(None if states is None else frozenset(states))
            assert self._listed(self.store, query) == self._listed(self.model, query)
        for root, seen in found.items():
            assert self.store.parts(root) == self.model.parts(root)
            assert list(self.store.landmarks(root)) == [event for event in seen.events if event.name in LANDMARKS]

    def _listed(self, store: Store, query: LogFilter) -> list[tuple[object, ...]]:
        """The summaries that a store finds, without what only it knows of a holder."""
        found = list[tuple[object, ...]]()
        for one in store.find(query):
            info = one.info._replace(holder=None, until=None)
            if not self.shares_work:
                info = info._replace(stalls=0, due=None)
            found.append((*one[1:], one.state, info))
        return found

    def teardown(self) -> None:
        """Close the store."""
        self.close()

    def _end(self, root: str) -> int:
        log = self.model.logs.get(root)
        return len(log.events) if log is not None else 0

    def _epoch(self, root: str, back: int) -> int:
        epoch = self.model.logs[root].epoch
        return epoch - back if epoch > 1 else epoch

    def _compare(self, call: Callable[[Store], object]) -> None:
        """Make a call on both; an error of the store may be more specific than the model's."""
        expected, found = _outcome(self.model, call), _outcome(self.store, call)
        if isinstance(expected, type) and isinstance(found, type):
            assert issubclass(found, expected)
        else:
            assert found == expected


class WorkMachine(StoreMachine):
    """Also makes the calls by which processes share work."""

    @with_logs
    @rule(root=logs, until=dues)
    def release_until(self, root: str, until: float | None) -> None:
        """Release a log until a time."""
        self._compare(lambda store: store.release(root, self._epoch(root, 0), until))

    @rule(root=names, count=st.integers(1, 3), queue=st.sampled_from("xy"), key=st.sampled_from("pq"), until=dues)
    def create(self, root: str, count: int, queue: str, key: str, until: float | None) -> None:
        """Create a log without a holder, which may be there already."""
        events = first_events(root, count, queue=queue, key=key)
        self._compare(lambda store: store.create(root, events, until))

    @rule(claim=claims)
    def claim(self, claim: Claim) -> None:
        """Take logs that nobody holds."""
        self._compare(lambda store: store.claim(claim))

    @rule(root=names, channel=st.sampled_from("uv"), key=st.sampled_from([None, "k", "l"]))
    def post(self, root: str, channel: str, key: str | None) -> None:
        """Put a message into a mailbox, which may have one with that key; the log may be sealed or not be there."""
        self._compare(lambda store: store.post(root, channel, b"%d" % self._end(root), key))


def _take_over(store: Store, root_id: str) -> int:
    store.revoke(root_id)
    return store.acquire(root_id)


def _outcome(store: Store, call: Callable[[Store], object]) -> object:
    """What the call returns, or the class of what it raises, or of what flushing raises then."""
    try:
        outcome = call(store)
        store.flush(PATIENCE)
    except Exception as error:
        return type(error)
    return outcome


class SequenceContract(StoreCase):
    """What a store does with calls in any order."""

    def test_any_calls_in_any_order(self) -> None:
        """Each call returns or raises what the model does, and leaves the logs as the model has them."""
        self._run(StoreMachine)

    def test_any_calls_that_share_work_in_any_order(self) -> None:
        """Also those that create and claim logs, and that post messages to them."""
        self.new_sharing_work()
        self._run(WorkMachine, WORK_SETTINGS)

    def _run(self, kind: type[StoreMachine], with_settings: settings | None = None) -> None:
        folder, numbers = self.path, itertools.count()

        def machine() -> StoreMachine:
            self.path = folder / str(next(numbers))
            self.path.mkdir()
            return kind(self.new(), self.close_all)

        run_state_machine_as_test(machine, settings=with_settings or SETTINGS)  # type: ignore[arg-type] # documented to take a function
