"""Forced interleavings: two functions in two threads, of which one runs at a time, switched at chosen lines.

`explore` plays a scenario once for each line of the chosen functions: one thread runs up to that line, then the other
runs until it ends or blocks, then the first continues. Locks are replaced while a scenario is played, so that a thread
that blocks hands over at once: no sleep and no clock decides which thread runs.
"""

from __future__ import annotations

import selectors
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count
from types import CodeType, FrameType
from typing import Any, Final, TypeAlias
from unittest import mock

from helpers import TIMEOUT

from crewbus._util import locks

Scenario: TypeAlias = Callable[[], AbstractContextManager[tuple[Callable[[], Any], Callable[[], Any]]]]
"""Sets up what two functions share, yields the functions, and asserts what holds once both have returned."""

_allocate: Final = threading._allocate_lock  # type: ignore[attr-defined]
_RLock: Final = threading.RLock
_join: Final = threading.Thread.join
_select: Final = selectors.DefaultSelector.select
_parties: Final[dict[int, Party]] = {}
"""By the identifier of their thread, while they are played."""


class Party:
    """One of the two threads."""

    def __init__(self, play: Play | Driver, function: Callable[[], Any]) -> None:
        self.play = play
        self.state = "waiting"
        """"waiting" for its turn, "running", "blocked" outside our control, or "done"."""
        self.error: BaseException | None = None
        self._function = function
        self._turn = _allocate()
        self._turn.acquire()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        _parties[threading.get_ident()] = self
        self._turn.acquire()
        try:
            with self.play.traced():
                self._function()
        except BaseException as error:
            self.error = error
        finally:
            del _parties[threading.get_ident()]
            self.play.release(self, "done")

    def run(self) -> None:
        """Let it run; called under the play's mutex."""
        self.state = "running"
        self._turn.release()

    def pause(self) -> None:
        """Wait for the turn, after the other one got it."""
        self._turn.acquire()

    def block(self, wait: Callable[[], Any]) -> Any:
        """Make a call that may block, and let the other one run meanwhile."""
        self.play.release(self, "blocked")
        try:
            return wait()
        finally:
            if not self.play.resumes(self):
                self.pause()


class Play:
    """Two parties, and after how many points each switch comes: the turns alternate until one ends or blocks."""

    def __init__(self, functions: Iterable[Callable[[], Any]], codes: frozenset[CodeType], switches: Iterable[int]):
        self._codes = codes
        self._switches = iter(switches)
        self._left = next(self._switches, None)
        self._mutex = _allocate()
        self.reached: list[str] = []
        """Where the switches came."""
        self.parties = [Party(self, function) for function in functions]

    def run(self) -> None:
        """Play to the end. Raises what a party raised, and `TimeoutError` for one that hangs."""
        for party in self.parties:
            party.thread.start()
        with self._mutex:
            self.parties[0].run()
        for party in self.parties:
            _join(party.thread, TIMEOUT)
            if party.thread.is_alive():
                raise TimeoutError(f"a thread hangs: {[party.state for party in self.parties]}")
        for party in self.parties:
            if party.error is not None:
                raise party.error

    def reach(self, party: Party, code: CodeType, line: int) -> None:
        """Switch if this is the point for it."""
        if self._left is None:
            return
        if self._left:
            self._left -= 1
            return
        self._left = next(self._switches, None)
        self.reached.append(f"{code.co_qualname if sys.version_info >= (3, 11) else code.co_name}:{line}")
        with self._mutex:
            other = self._other(party)
            if other.state != "waiting":
                return
            party.state = "waiting"
            other.run()
        party.pause()

    def release(self, party: Party, state: str) -> None:
        """Note that ``party`` is blocked or done, and let the other one run if it can."""
        with self._mutex:
            party.state = state
            other = self._other(party)
            if other.state == "waiting":
                other.run()

    def resumes(self, party: Party) -> bool:
        """Whether ``party``, which was blocked, may run at once; else it waits for its turn."""
        with self._mutex:
            free = self._other(party).state != "running"
            party.state = "running" if free else "waiting"
            return free

    def _other(self, party: Party) -> Party:
        return self.parties[self.parties[0] is party]

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Call `reach` at each line of the chosen functions that this thread comes to."""
        if sys.version_info >= (3, 12):  # `_monitored` sees every thread
            yield
            return
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code not in self._codes:
            return None
        if event == "line":
            _reach(frame.f_code, frame.f_lineno)
        return self._trace


def _reach(code: CodeType, line: int) -> None:
    party = _parties.get(threading.get_ident())
    if party is not None and party.state == "running":
        party.play.reach(party, code, line)


@contextmanager
def _monitored(codes: frozenset[CodeType]) -> Iterator[None]:
    if sys.version_info < (3, 12):
        yield
        return
    monitoring = sys.monitoring
    tool, line = monitoring.DEBUGGER_ID, monitoring.events.LINE
    monitoring.use_tool_id(tool, "interleave")
    monitoring.register_callback(tool, line, _reach)
    try:
        for code in codes:
            monitoring.set_local_events(tool, code, line)
        yield
    finally:
        for code in codes:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, line, None)
        monitoring.free_tool_id(tool)


class Driver:
    """Any number of parties, of which the test says which one makes its next step.

    Each gets a function that ends a step: it returns when the next one may begin.
    """

    def __init__(self, programs: Iterable[Callable[[Callable[[], None]], Any]]) -> None:
        self._changed = threading.Condition(_RLock())
        self.parties: list[Party] = []
        for i, program in enumerate(programs):
            party = Party(self, partial(program, partial(self._end_step, i)))
            self.parties.append(party)
            party.thread.start()

    def step(self, i: int) -> str:
        """Let one make its next step, and return how it ended: "ready" for another, "blocked", or "done"."""
        party = self.parties[i]
        with self._changed:
            if not self._changed.wait_for(lambda: party.state == "waiting", TIMEOUT):
                raise TimeoutError(f"party {i} is {party.state}, and nothing wakes it")
            party.run()
            if not self._changed.wait_for(lambda: party.state != "running", TIMEOUT):
                raise TimeoutError(f"party {i} hangs")
        if party.error is not None:
            raise party.error
        return {"waiting": "ready"}.get(party.state, party.state)

    def _end_step(self, i: int) -> None:
        self.release(self.parties[i], "waiting")
        self.parties[i].pause()

    def release(self, party: Party, state: str) -> None:
        """Note that its step has ended."""
        with self._changed:
            party.state = state
            self._changed.notify_all()

    def resumes(self, party: Party) -> bool:
        """Whether one that was blocked may continue at once: never, it waits for its next step."""
        self.release(party, "waiting")
        return False

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Lines are of no interest here."""
        yield

    def reach(self, party: Party, code: CodeType, line: int) -> None:
        """Lines are of no interest here."""


# What blocks


def _blocking(wait: Callable[[], Any]) -> Any:
    party = _parties.get(threading.get_ident())
    return wait() if party is None or party.state != "running" else party.block(wait)


class _Lock:
    """A lock that hands over when it blocks one of the parties."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._lock = make()
        self.release = self._lock.release
        for name in ("locked", "_is_owned", "_release_save", "_at_fork_reinit"):
            if hasattr(self._lock, name):
                setattr(self, name, getattr(self._lock, name))
        if hasattr(self._lock, "_acquire_restore"):
            self._acquire_restore = self._restore

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(False):
            return True
        return bool(blocking and _blocking(partial(self._lock.acquire, True, timeout)))

    def _restore(self, state: Any) -> None:
        _blocking(partial(self._lock._acquire_restore, state))

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


def _joining(thread: threading.Thread, timeout: float | None = None) -> None:
    _blocking(partial(_join, thread, timeout))


def _selecting(selector: Any, timeout: float | None = None) -> Any:
    if timeout is not None and timeout <= 0:
        return _select(selector, timeout)
    return _blocking(partial(_select, selector, timeout))


@contextmanager
def watched() -> Iterator[None]:
    """Replace the locks that are made meanwhile, and what else blocks."""
    with ExitStack() as stack:
        for owner, name, new in (
            (threading, "Lock", partial(_Lock, _allocate)),
            (threading, "_allocate_lock", partial(_Lock, _allocate)),
            (threading, "RLock", partial(_Lock, _RLock)),
            (locks, "_Lock", partial(_Lock, _RLock)),
            (threading.Thread, "join", _joining),
            (selectors.DefaultSelector, "select", _selecting),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield


# Exploring


def _codes_of(what: Any) -> Iterator[CodeType]:
    """The code of a function, or of each function that a class defines."""
    for one in vars(what).values() if isinstance(what, type) else [what]:
        getter = getattr(one, "fget", one)  # of a property
        code = getattr(getattr(getter, "__func__", getter), "__code__", None)
        if code is not None:
            yield code


def play(scenario: Scenario, codes: frozenset[CodeType], order: tuple[int, int], switches: tuple[int, ...]) -> int:
    """Play ``scenario`` once; returns how many of the switches were reached."""
    with watched(), scenario() as functions, _monitored(codes):
        played = Play([functions[i] for i in order], codes, switches)
        try:
            played.run()
        except BaseException as error:
            error.add_note(f"order {order}, switched at {played.reached}")
            raise
    return len(played.reached)


def explore(scenario: Scenario, functions: Iterable[Any], switches: int = 1) -> int:
    """Play ``scenario`` once for each ``switches`` lines at which the threads can be switched.

    ``functions`` are those whose lines count; a class stands for each function that it defines. Both threads are the
    first one in turn. Returns how many interleavings there were.
    """
    codes = frozenset(code for one in functions for code in _codes_of(one))
    return sum(_explore(scenario, codes, order, (), switches) for order in ((0, 1), (1, 0)))


def _explore(
    scenario: Scenario, codes: frozenset[CodeType], order: tuple[int, int], chosen: tuple[int, ...], more: int
) -> int:
    made = 0
    for point in count():
        now = (*chosen, point)
        try:
            reached = play(scenario, codes, order, now)
        except BaseException as error:
            error.add_note(f"switches {now}")
            raise
        made += 1
        if reached < len(now):
            return made
        if more > 1:
            made += _explore(scenario, codes, order, now, more - 1)
    raise AssertionError
