"""Buffers: one consumer's bounded queue of a run's frames, and how its two sides wake each other.

Everything here happens under the lock of the run's tree, which the emitter holds anyway. So frames are in the order of
their numbers, and no wake-up is lost between a check and a wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from crewbus._util import generation, reentrant_lock, running_loop
from crewbus.events import Chunk, Dropped, Envelope, Retracted, RunEnded, RunInterrupted
from crewbus.exceptions import BusClosedError, ConsumptionError, CrewbusError, RunNotFoundError, SlowConsumer
from crewbus.scopes import Deferring, Run, execution_id, threads, wait_for_room
from crewbus.streams import absence
from crewbus.streams.merging import drop, merge, without_retracted
from crewbus.streams.options import Slow, checked_policy
from crewbus.streams.stream import CLOSED_BUS, INHERITED, SECOND_CONSUMER
from crewbus.streams.waker import LoopWaker, waker_of

if TYPE_CHECKING:
    import asyncio

    from crewbus.scopes import Tree

_MIN_DROP_BOUND: Final = 8  # a buffer that drops has room for as many retractions, however small its bound
_LONG: Final = 0.005  # seconds after which the loop of a consumer that never waits gives other tasks a turn
_MOST_AT_ONCE: Final = 64  # frames that it gets at once, between two looks at the clock


def _release(wakeup: threading.Lock) -> None:
    wakeup.release()


class Buffer:
    """A bounded queue of frames between a run's emitters and one consumer."""

    __slots__ = (
        "__weakref__", "_at_once", "absorb", "armed", "born", "bound", "closed", "consumer", "deadline", "ended",
        "failure", "frames", "held", "lock", "looked", "loop_thread", "most", "room", "run", "run_id", "since", "slow",
        "token", "tree", "waiters", "waiting_emitters", "wake", "waker",
    )  # fmt: skip

    def __init__(self, run_id: str, bound: int, slow: Slow, deadline: float | None = None) -> None:
        checked_policy(bound, slow)
        self.born = generation.number
        self.run_id = run_id
        self.bound = bound
        self.slow = slow
        self.room = self._room()
        """With fewer frames than this, the next is appended without further checks; 0 if each needs them."""
        self.looked: float | None = None
        """When (monotonic) an emitter first found that a ``for`` loop did not come for many frames; None: it did."""
        self.deadline = deadline
        """When (monotonic) the wait for the start of the run ends; None: never, or it has started."""
        self.tree: Tree | None = None
        """What its run shares with its root; None until the run has started."""
        self.lock = reentrant_lock()
        """The lock of that tree; until the run has started, one of its own."""
        self.run: Run | None = None
        self.frames: list[Envelope] = []
        self.held = 0
        """How many frames the consumer took last: they count towards the bound until it takes more."""
        self.ended = False
        """Whether the run has ended, so that no frame follows."""
        self.closed = False
        """Whether the consumer left or failed, so that no more frames are taken."""
        self.failure: CrewbusError | None = None
        self.wake: Callable[[Any], object] | None = None
        """Wakes the consumer when called with `token`; None while it does not wait."""
        self.token: Any = None
        self.armed = False
        """Whether `token` is a future that the consumer's task has not asked for yet: the last frames that it took
        were all there were, so the next one wakes it."""
        self.waker: LoopWaker | None = None
        self.waiters: list[Callable[[], object]] | None = None
        self.waiting_emitters = 0
        """How many emitters wait, or are about to: the frame of each does not count towards twice the bound."""
        self.consumer: object = execution_id()
        """The thread or task that consumes; at first the one that made the buffer."""
        self.loop_thread: object = None
        """The thread of the consumer's event loop, if it has one."""
        self.absorb: Callable[[list[Envelope]], object] | None = None
        """What gets all frames at once in place of the consumer, who only wants the run's result. It must not hold
        the stream, which holds this buffer."""
        self._at_once = min((bound + 1) // 2, _MOST_AT_ONCE)
        self.most = 1
        """How many frames the consumer's task gets at once: fewer, the longer it keeps its event loop."""
        self.since: float | None = None
        """When (monotonic) it last got frames without having waited; 0: after a wait; None: it has not since."""

    @property
    def waiting(self) -> int:
        """How many frames the consumer has not processed."""
        return len(self.frames) + self.held

    @property
    def left_out(self) -> int:
        """How many frames were dropped since the consumer last took any."""
        return sum(frame.event.count for frame in self.frames[-1:] if isinstance(frame.event, Dropped))

    @property
    def after(self) -> None:
        """A buffer continues from no cursor."""
        return None

    @property
    def record(self) -> tuple[float, int] | None:
        """When the record of the root run began, and its epoch; None if it is not recorded."""
        return self.tree.record if self.tree is not None else None

    # The emitter's side

    def attach(self, run: Run) -> None:
        """Receive the frames of ``run`` from now on."""
        with Deferring(self.lock), self.lock, run.tree.lock:
            if self.ended:
                return
            self.tree, self.lock = run.tree, run.tree.lock
            self.deadline = None
            if run.ended and run.state != "new":
                self.ended = True
            elif not self.closed:
                self.run = run
                run.add_sink(self)
            self._wake_consumer()

    def end_with(self, end: Envelope) -> None:
        """Hold only the terminal frame of a run that ended before; unless the run has begun again meanwhile."""
        with Deferring(self.lock), self.lock:
            if self.run is None and not (self.closed or self.frames):
                self.frames.append(end)
                self.end()

    def push(self, run: Run, envelope: Envelope) -> None:
        """Take the next frame, which ``run`` emitted; called under the lock."""
        frames = self.frames
        if len(frames) + self.held < self.room:
            frames.append(envelope)
        else:
            self._push_near_bound(run, envelope)
        wake = self.wake
        if wake is not None:  # as `_wake_consumer`
            self.wake = None
            wake(self.token)

    def push_once(self, run: Run, envelope: Envelope) -> None:
        """As `push`, after an interrupt that may have come in the middle of it."""
        if not any(last is envelope or last.seq == envelope.seq for last in self.frames[-1:]):
            self.push(run, envelope)
        self._wake_consumer()

    def _push_near_bound(self, run: Run, envelope: Envelope) -> None:
        event = envelope.event
        room = self.bound - len(self.frames) - self.held
        if self.closed:
            self._detach()
        elif self.absorb is not None:
            self.absorb([envelope])
        elif (count := len(self.frames) + self.held) < self._room():
            self.frames.append(envelope)
            self.room = min(2 * count, self._room())
            self.looked = absence.look(self)
        elif isinstance(event, RunEnded) or room > 1:
            if not (self.slow == "coalesce" and merge(self.frames, envelope, self._boundary())):
                self.frames.append(envelope)
        elif self.slow in ("drop", "fail") and room > 0:
            self.frames.append(envelope)
        elif self.slow == "fail":
            self._fail(f"{self.bound} frames were waiting, and slow='fail'")
        elif self.slow == "drop" and isinstance(event, Chunk):
            drop(self.frames, envelope, self._boundary())
            run.tree.dropped += 1
        elif self.slow == "drop" and isinstance(event, Retracted):
            self._retract(run, envelope, event)
        elif not (self.slow == "coalesce" and merge(self.frames, envelope, self._boundary())):
            self._overfill(run, envelope)

    def _retract(self, run: Run, envelope: Envelope, event: Retracted) -> None:
        """Remove what is retracted; push the retraction only if the consumer may have seen some of it."""
        consumer_saw = not self.frames or event.since <= self.frames[0].seq
        self.frames = without_retracted(self.frames, event)
        if consumer_saw:
            self._overfill(run, envelope)

    def _boundary(self) -> int:
        return self.tree.boundary if self.tree is not None else -1

    def _overfill(self, run: Run, envelope: Envelope) -> None:
        self.frames.append(envelope)
        if self.slow != "drop" and running_loop() is None:
            self.waiting_emitters += 1
            threads.state.defer(partial(self._wait_for_room, run))
        else:
            self._check_limit()

    def _check_limit(self) -> None:
        most = 2 * (self.bound if self.slow != "drop" else max(self.bound, _MIN_DROP_BOUND))
        if self.waiting - self.waiting_emitters >= most:
            self._fail(
                f"{most} frames were waiting, twice its bound, and their emitter could not wait. An async emitter "
                "waits in 'await bus.achunk(...)', 'await bus.aemit(...)' or 'await bus.drain()'"
            )

    def _fail(self, why: str) -> None:
        self.failure = SlowConsumer(f"the stream failed: {why}; consume faster, or raise its bound")
        self._detach()
        self._wake_consumer()

    def end(self) -> None:
        """Take no more frames, since the run has ended; called under the lock."""
        self.ended = True
        self.run = None
        self._wake_consumer()
        self._wake_waiters()

    def interrupt(self) -> None:
        """End: the bus is closed. The waiting frames are followed by `RunInterrupted`; without a run, by an error."""
        self._under_lock(self._interrupt)

    def _interrupt(self) -> None:
        if self.closed or self.ended:
            return
        run = self.run
        if run is None:
            self.failure = BusClosedError(f"the bus was closed, and run {self.run_id} had not started")
            self._detach()
        else:
            last = run.tree.renumber() - 1
            self.frames.append(Envelope(RunInterrupted(CLOSED_BUS), run.id, last, run.start_id, time()))
            run.remove_sink(self)
            self.end()
        self._wake_consumer()

    def _wait_for_room(self, emitter: Run) -> None:
        """Block while the buffer is full, if the emitter may wait."""
        try:
            wait_for_room(self, emitter, emitter.host)
        finally:
            with Deferring(self.lock), self.lock:
                self.waiting_emitters -= 1
                if not (self.has_room() or emitter.is_stopped()):
                    self._check_limit()

    def releasers(self) -> list[object]:
        """Which thread or task consumes, and the thread of its loop: while that is blocked, the task does nothing."""
        return [self.consumer] if self.loop_thread is None else [self.consumer, self.loop_thread]

    def is_full(self, wake: Callable[[], object]) -> bool:
        """Whether emitters wait for the consumer; ``wake`` is then called once it has made room."""
        with Deferring(self.lock), self.lock:
            if self.has_room():
                return False
            self.looked = absence.look(self)
            if self.waiters is None:
                self.waiters = []
            if wake not in self.waiters:
                self.waiters.append(wake)
            return True

    def has_room(self) -> bool:
        """Whether no emitter waits for the consumer."""
        return self.closed or self.ended or self.slow in ("drop", "fail") or self.waiting < self.bound

    # The consumer's side

    def take(self, deadline: float | None = None) -> list[Envelope]:
        """Wait for at least one frame; empty at the end, or once ``deadline`` (monotonic) has passed."""
        wakeup = None
        try:
            while not self._is_inherited_end():
                lock = self.lock
                with Deferring(lock), lock:
                    if lock is not self.lock:
                        continue
                    if self.wake is not None and self.token is not wakeup:
                        raise ConsumptionError(SECOND_CONSUMER)
                    self._consume_here()
                    batch = self._swap((self.bound + 1) // 2)
                    if batch or self.ended or self.closed:
                        if not self.closed:
                            self.looked, self.room = None, min(self._room(), absence.MANY)
                        return batch
                    if wakeup is None:
                        wakeup = threading.Lock()
                        wakeup.acquire()
                    self.token, self.wake = wakeup, _release
                if not wakeup.acquire(timeout=self._time_left(deadline)) and self._is_too_late(deadline):
                    return []
            return []
        finally:
            if wakeup is not None and self.token is wakeup:
                self.wake = self.token = None

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the running ``loop`` on which the consumer calls `poll`."""
        self.waker = waker_of(loop)
        self._consume_here()
        self.loop_thread = threads.state

    def _consume_here(self) -> None:
        self.consumer, self.loop_thread = execution_id(), None
        if self.absorb is not None:
            with Deferring(self.lock), self.lock:
                self.absorb = None
                self.room = self._room()

    def _room(self) -> int:
        return self.bound - 1 if self.slow != "coalesce" else 0

    def pass_all_to(self, absorb: Callable[[list[Envelope]], object]) -> None:
        """Pass what is there and what follows to ``absorb``, under the lock, until the consumer takes frames again."""
        self._under_lock(partial(self._pass_all_to, absorb))

    def _pass_all_to(self, absorb: Callable[[list[Envelope]], object]) -> None:
        if not self.closed:
            self.absorb, self.room, self.held = absorb, 0, 0
            frames, self.frames = self.frames, []
            absorb(frames)
            self._wake_waiters()

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        """As `take`, for an asyncio task: the frames, or a future of its loop to await before the next call."""
        if self.born != generation.number and self._is_inherited_end():
            return []
        if self.armed:
            self.armed = False
            future = self.token
            if self.wake is not None:  # without the lock: if a frame comes meanwhile, it completes the future
                self.held, self.since = 0, None
                return future  # type: ignore[no-any-return]
        lock, waker = self.lock, self.waker
        assert waker is not None
        state = threads.state
        outer = state.lock
        try:  # as `with Deferring(lock), lock`, at half the cost; acquired inside: an interrupt may follow at once
            state.lock = lock
            lock.acquire()
            if self.frames or self.ended or self.closed:
                return self._take_some(waker)
            if self.wake is not None and not self.token.done():
                raise ConsumptionError(SECOND_CONSUMER)
            self.held = 0
            self.since = None
            if self.waiters is not None:
                self._wake_waiters()
            future = self.token = waker.future()
            self.wake = waker.wake
            if lock is not self.lock:  # the run started
                waker.wake(future)
        finally:
            state.lock = outer
            try:  # noqa: SIM105 - suppress() costs time on the hot path
                lock.release()
            except RuntimeError:  # an interrupt ended the wait for it
                pass
            if state.deferred is not None and not state.holds_lock():
                state.make_deferred()
        if self.deadline is not None:
            self._limit(future, waker.loop)
        return future

    def _take_some(self, waker: LoopWaker) -> list[Envelope] | asyncio.Future[None]:
        """The next frames; or let the loop's other tasks run first, if the consumer has kept it for long."""
        since = self.since
        if since is None:
            self.since = 0.0
        else:
            now = monotonic()
            if since and now - since > _LONG:
                self.since, self.most = None, 1
                return waker.next_turn()
            self.since = now
        if self.most < self._at_once:
            self.most = min(2 * self.most, self._at_once)
        batch = self._swap(self.most)
        if not (self.frames or self.ended or self.closed) and self.held < self.bound:
            # With room left no emitter waits, so the next poll has nothing to do, and needs no lock.
            self.token, self.wake, self.armed = waker.future(), waker.wake, True
        return batch

    def _limit(self, future: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        def expire() -> None:
            try:
                self._is_too_late(None)
            except RunNotFoundError as error:
                if not future.done():
                    future.set_exception(error)

        timer = loop.call_later(self._time_left(None), expire)
        future.add_done_callback(lambda _: timer.cancel())

    def _swap(self, most: int) -> list[Envelope]:
        frames = self.frames
        if len(frames) <= most or self.ended:
            batch, self.frames = frames, []
        else:
            batch, self.frames = frames[:most], frames[most:]
        self.held = len(batch)
        if self.waiters is not None and self.has_room():
            self._wake_waiters()
        return batch

    def _time_left(self, deadline: float | None) -> float:
        limits = [limit for limit in (self.deadline, deadline) if limit is not None]
        return max(0.0, min(limits) - monotonic()) if limits else -1

    def _is_too_late(self, deadline: float | None) -> bool:
        """Whether ``deadline`` has passed. Raises `RunNotFoundError` if the run had to start before now."""
        now = monotonic()
        if self.deadline is not None and now >= self.deadline:
            raise RunNotFoundError(f"no run {self.run_id} started in the time given; it may have ended before")
        return deadline is not None and now >= deadline

    def close(self) -> None:
        """Take no more frames, keep none, and wake blocked emitters."""
        self._under_lock(self._close)

    def _close(self) -> None:
        self.frames = []
        self._detach()
        self._wake_consumer()

    def _under_lock(self, act: Callable[[], None]) -> None:
        """Call ``act`` under the lock, which is another one once the run has started."""
        while not self._is_inherited():
            lock = self.lock
            with Deferring(lock), lock:
                if lock is self.lock:
                    act()
                    return

    def _is_inherited_end(self) -> bool:
        """Whether this is a forked child, and the run had ended in its parent. Raises `ConsumptionError` if not."""
        if self._is_inherited() and not (self.closed or (self.ended and not self.frames)):
            raise ConsumptionError(INHERITED)
        return self._is_inherited()

    def _is_inherited(self) -> bool:
        # In a forked child, a thread that does not exist there may hold the lock.
        return self.born != generation.number

    def abandon(self) -> None:
        """As `close`, for a finaliser, which takes no lock: the next push detaches the buffer."""
        self.closed = True
        self.room = 0
        self.frames = []

    def _detach(self) -> None:
        self.closed = True
        self.held = self.room = 0
        run, self.run = self.run, None
        if run is not None:
            run.remove_sink(self)
        self._wake_waiters()

    def _wake_consumer(self) -> None:
        wake, token = self.wake, self.token
        if wake is not None:
            self.wake = self.token = None
            wake(token)

    def _wake_waiters(self) -> None:
        waiters, self.waiters = self.waiters, None
        for wake in waiters or ():
            wake()
