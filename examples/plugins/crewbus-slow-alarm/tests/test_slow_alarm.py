"""A consumer that falls behind is reported once for each: a full buffer, dropped frames, a failed stream."""

from __future__ import annotations

import logging
import threading

import pytest

import crewbus
from crewbus_slow_alarm import FellBehind

pytestmark = pytest.mark.crewbus(plugins=["slow_alarm"])
FULL, LOST = "its buffer is nearly full", "frames are dropped"


def press(bus, pages, **options):
    """Stream so many chunks to a watcher that does not read."""
    with bus.subscribe("press", bound=4, **options), bus.run(id="press"):
        for page in range(pages):
            bus.chunk(f"page {page} ", kind=str(page))


@pytest.mark.parametrize(
    ("slow", "pages", "reported"),
    [
        ("drop", 2, []),
        ("drop", 3, [FULL]),
        ("drop", 9, [FULL, LOST]),
        ("block", 3, [FULL]),
        ("coalesce", 3, [FULL]),
        ("fail", 3, [FULL]),
    ],
)
def test_what_is_reported(bus, captured_events, caplog, slow, pages, reported):
    press(bus, pages, slow=slow)
    assert captured_events.of(FellBehind) == [FellBehind("a stream of run press", what) for what in reported]
    assert caplog.record_tuples == [
        ("crewbus.slow_alarm", logging.WARNING, f"a stream of run press falls behind: {what}") for what in reported
    ]


def test_a_stream_that_was_failed(bus, captured_events):
    press(bus, 9, slow="fail")
    full, failed = captured_events.of(FellBehind)
    assert full.what == FULL
    assert "slow='fail'" in failed.what


def test_a_stream_of_the_run_around(bus, captured_events):
    with bus.subscribe("outer", bound=4, slow="drop"), bus.run(id="outer"), bus.run(id="inner"):
        for _ in range(9):
            bus.chunk("x")
    assert captured_events.of(FellBehind) == [FellBehind("a stream of run outer", what) for what in (FULL, LOST)]


def test_each_consumer_is_reported_separately(bus, captured_events):
    with bus.subscribe("r", bound=4, slow="drop"), bus.subscribe("r", bound=100, slow="drop"), bus.run(id="r"):
        for _ in range(9):
            bus.chunk("x")
    assert len(captured_events.of(FellBehind)) == 2


def test_a_consumer_that_keeps_up_is_not_reported(bus, captured_events):
    with bus.run(id="r"), bus.subscribe("r", bound=4) as watching:
        for _ in range(20):
            bus.chunk("x")
            assert next(watching).event.text == "x"
    assert captured_events.of(FellBehind) == []


def test_the_owner_of_a_stream_that_holds_its_emitter_up(bus, captured_events):
    """It is reported before the emitter waits, so that the report arrives while the emitter is blocked."""
    reported = threading.Event()
    bus.on(FellBehind, lambda _: reported.set())

    def agent():
        for _ in range(50):
            crewbus.chunk("x")

    with bus.stream(agent, options=crewbus.StreamOptions(bound=4)) as stream:
        assert reported.wait(10)
        assert stream.text() == "x" * 50
    assert {event.what for event in captured_events.of(FellBehind)} == {FULL}


def test_a_background_handler(bus, captured_events):
    """It is reported when the handler continues, with the number of events discarded since."""
    busy, go_on = threading.Event(), threading.Event()

    def archive(envelope):
        busy.set()
        assert go_on.wait(60)

    bus.on(crewbus.Chunk, archive, background=True)

    async def main():
        with bus.run():
            for _ in range(2100):  # on a loop, whose thread never waits
                bus.chunk("x")

    import asyncio

    asyncio.run(main())
    assert busy.wait(10)
    go_on.set()
    bus.flush()
    (event,) = captured_events.of(FellBehind)
    assert "archive" in event.consumer
    assert "discarded" in event.what


def test_it_is_no_part_of_a_record(bus, recorded_run):
    """What is slow today need not be so when the run is resumed."""

    def agent():
        watching = bus.subscribe(crewbus.current_run().id, bound=2, slow="drop")
        for _ in range(9):
            crewbus.chunk("x")
        watching.close()

    reported = []
    bus.on(FellBehind, reported.append)
    done = recorded_run(agent)
    assert [envelope.run_id for envelope in reported] == [None, None]
    assert FellBehind not in {type(event) for event in done.events}


def test_nothing_is_kept_of_a_run_that_is_over(bus):
    import gc
    import weakref

    with bus.subscribe("r", bound=2, slow="drop") as watching, bus.run(id="r") as run:
        for _ in range(9):
            bus.chunk("x")
    gone = weakref.ref(run)
    del watching, run
    gc.collect()
    assert gone() is None
