"""Promise 2: an interrupt at any point of an emission leaves no gap, and no difference between record and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from interrupts import Interrupt, at_each_point
from lifecycle_helpers import PATIENCE

import crewbus
from crewbus import Chunk, Envelope
from crewbus.dispatch import dispatcher
from crewbus.scopes import tree

Act = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@crewbus.event
class Note:
    text: str


class Alarm(TimeoutError):
    """What the signal handler of a time limit raises."""


@contextmanager
def opened(**options: Any) -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore", **options) as bus:
        yield bus


def chunk(bus: crewbus.Bus, run: crewbus.Run) -> None:
    bus.chunk("interrupted")


def chunk_in_a_call(bus: crewbus.Bus, run: crewbus.Run) -> None:
    with bus.call("model", callbacks=[lambda envelope: None]):
        bus.chunk("interrupted")


def chunk_in_attempts(bus: crewbus.Bus, run: crewbus.Run) -> None:
    for number in range(2):
        with suppress(ConnectionError), run.attempt():
            bus.chunk("interrupted")
            if number == 0:
                raise ConnectionError


def nest(bus: crewbus.Bus, run: crewbus.Run) -> None:
    with bus.run("nested"):
        bus.chunk("interrupted")


def step(bus: crewbus.Bus, run: crewbus.Run) -> None:
    run.step("step", chunk, bus, run)


def emit(bus: crewbus.Bus, run: crewbus.Run) -> None:
    bus.emit(Note("interrupted"))


ACTIONS = [chunk, chunk_in_a_call, chunk_in_attempts, nest, step]


@pytest.mark.parametrize("error", [Interrupt, Alarm])
@pytest.mark.parametrize("action", ACTIONS)
def test_promise_02_an_interrupted_emission_leaves_no_gap_in_the_record(
    action: Callable[[crewbus.Bus, crewbus.Run], None], error: type[BaseException]
) -> None:
    def play(interrupt: Act) -> None:
        run = bus.run()
        stream = bus.subscribe(run.id)
        with run:
            bus.chunk("before")
            with suppress(error, crewbus.CrewbusError):
                interrupt(lambda: action(bus, run))
            run.emit(Note("after"))
            run.chunk("after")
        record = list(bus.record_of(run.id))
        assert [envelope.seq for envelope in record] == list(range(len(record)))
        assert Note("after") in [envelope.event for envelope in record]
        assert isinstance(record[-1].event, crewbus.RunFinished)
        recorded = [e.seq for e in record if isinstance(e.event, (Chunk, crewbus.Retracted)) or e is record[-1]]
        assert [frame.seq for frame in stream] == recorded

    with opened() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        assert at_each_point(play, error=error) > 20


@pytest.mark.parametrize("slow", ["block", "coalesce", "drop"])
@pytest.mark.parametrize("action", ACTIONS)
def test_promise_02_an_interrupted_emission_leaves_no_gap_in_the_streams(
    action: Callable[[crewbus.Bus, crewbus.Run], None], slow: Any
) -> None:
    """A transport sees each frame once, in order, and so does the consumer."""
    routed: list[Envelope] = []

    class Transport:
        @crewbus.hookimpl(trylast=True)
        def crewbus_stream_chunk(self, envelope: Envelope) -> None:
            routed.append(envelope)

    def play(interrupt: Act) -> None:
        routed.clear()
        run = bus.run()
        stream = bus.subscribe(run.id, slow=slow)
        with run:
            bus.chunk("before")
            with suppress(Interrupt):
                interrupt(lambda: action(bus, run))
            last = run.emit(Note("after"))
            run.chunk("after")
        assert last is not None
        frames = list(stream)
        ended = [frame for frame in frames if isinstance(frame.event, crewbus.RunEnded)]
        assert ended == frames[-1:]
        assert ended[0].seq == last.seq + 2
        seqs = [frame.seq for frame in frames]
        assert seqs == sorted(set(seqs))
        if slow != "coalesce" and action is not nest:
            assert seqs == [envelope.seq for envelope in routed]

    with opened(plugins=[Transport()]) as bus:
        assert at_each_point(play) > 10


def test_promise_02_an_emission_interrupted_before_its_delivery_takes_no_number() -> None:
    """Where nothing keeps an order, so that it takes no lock."""
    used: list[int] = []

    def play(interrupt: Act) -> None:
        used.clear()
        run = bus.run()
        with run:
            with suppress(Interrupt):
                interrupt(lambda: bus.emit(Note("interrupted")))
            bus.emit(Note("after"))
        assert used == list(range(len(used)))

    with opened() as bus:
        bus.on(object, lambda envelope: used.append(envelope.seq))
        assert at_each_point(play, dispatcher.__file__, tree.__file__, "<attrs generated") > 3


@pytest.mark.parametrize("recorded", [False, True])
def test_promise_10_a_run_interrupted_while_it_starts_or_ends_ends_its_streams(recorded: bool) -> None:
    """Each stream ends with a terminal frame, or waits on where the run never started."""

    def play(interrupt: Act) -> None:
        run = bus.run()
        stream = bus.subscribe(run.id)

        def work() -> None:
            with run:
                bus.chunk("text")

        with suppress(Interrupt):
            interrupt(work)
        assert bus.runs == []
        assert crewbus.current_run() is None
        assert run.state != "running"
        source: Any = stream.source
        if source.run is not None or source.ended:
            frames = list(stream)
            assert isinstance(frames[-1].event, crewbus.RunEnded)
        if recorded and bus.store.root_of(run.id) is not None:
            record = list(bus.record_of(run.id))
            assert [envelope.seq for envelope in record] == list(range(len(record)))
            assert bus.store.info(run.id).sealed or not record  # the log may just have begun
        bus.submit(bus.chunk, "no lock is held").result(PATIENCE)

    with opened() as bus:
        if recorded:
            bus.enable_recording(crewbus.MemoryStore())
        assert at_each_point(play) > 50
