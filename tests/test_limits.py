"""What bounds a record, and what it outlives: large events, other versions of its types."""

from __future__ import annotations

import json

import attrs
import pytest
from helpers import Noted
from recorded_helpers import found, names, text_of

import crewbus
from crewbus import Chunk, Truncated, UnknownEvent

BOUND = 2000


def noted_of(size):
    """An event whose JSON has so many bytes."""
    return Noted("x" * (size - len('{"text":""}')))


# Large events


def test_an_event_may_have_as_many_bytes_as_the_bound(disk):
    with disk.bus(max_event_bytes=BOUND) as bus:
        with bus.run(id="run") as run:
            run.emit(noted_of(BOUND))
            with pytest.raises(crewbus.OversizedEventError) as refused:
                run.emit(noted_of(BOUND + 1))
            run.emit(Noted("next"))
        assert "tests.Noted: 2001 bytes of JSON" in str(refused.value)
        assert "more than the 2000 " in str(refused.value)
        assert names(bus, "run") == ["RunStarted", "Noted", "Noted", "RunFinished"]
        assert [one.seq for one in bus.record_of("run")] == [0, 1, 2, 3]


def test_a_refused_event_reaches_no_listener(bus):
    bus.enable_recording(max_event_bytes=BOUND)
    received = []
    bus.on(object, lambda envelope: received.append(type(envelope.event)))
    with bus.run(id="run") as run, bus.subscribe("run") as stream:
        with pytest.raises(crewbus.RecordingError):
            run.chunk("x" * BOUND)
        run.chunk("y")
        assert next(stream).event == Chunk("y")
    assert received == [crewbus.RunStarted, Chunk, crewbus.RunFinished]


def test_bytes_are_counted_as_they_are_written(bus):
    bus.enable_recording(max_event_bytes=1024)
    with bus.run() as run:
        run.emit(Noted("x" * 900))
        with pytest.raises(crewbus.OversizedEventError):
            run.emit(Noted("\0" * 200))


@pytest.mark.parametrize("oversized", ["refuse", "truncate"])
def test_what_a_run_is_resumed_by_is_never_truncated(disk, oversized):
    tries = []

    def large():
        tries.append(1)
        return "x" * BOUND if len(tries) == 1 else "small"

    with disk.bus(max_event_bytes=BOUND, oversized=oversized) as bus, bus.run(id="run") as run:
        with pytest.raises(crewbus.OversizedEventError, match=r"crewbus\.StepFinished: \d+ bytes"):
            run.step("large", large)
        assert run.step("large", large) == "small"
        with pytest.raises(crewbus.OversizedEventError, match=r"crewbus\.CheckpointSaved"):
            run.checkpoint("x" * BOUND)
        disk.crash()
    with disk.bus() as bus:
        with bus.resume("run") as run:
            with pytest.raises(crewbus.OversizedEventError, match=r"crewbus\.StepFinished: \d+ bytes"):
                run.step("large", large)  # the code handled it, so it is an outcome
            assert run.step("large", large) == "small"
        assert found(bus, "run", Truncated) == []


def test_an_event_is_truncated_with_a_mark(disk):
    received = []
    with disk.bus(max_event_bytes=BOUND, oversized="truncate") as bus:
        bus.on(Noted, received.append)
        with bus.run(id="run") as run:
            run.emit(noted_of(BOUND))
            run.emit(large := noted_of(5000), source="me")
        whole, cut = list(bus.record_of("run"))[1:3]
    assert [one.event for one in received] == [noted_of(BOUND), large]
    assert whole.event == noted_of(BOUND)
    assert (cut.event.name, cut.event.version, cut.event.size) == ("tests.Noted", 1, 5000)
    assert '{"text":"' + large.text == cut.event.data + large.text[len(cut.event.data) - 9 :]
    assert (cut.source, cut.seq) == ("me", 2)
    assert len(cut.event.data) == 1024


def test_a_truncated_event_counts_when_the_run_is_resumed(disk):
    def play(run):
        run.emit(noted_of(5000))
        run.chunk("a")
        run.step("s", lambda: None)

    with disk.bus(max_event_bytes=BOUND, oversized="truncate") as bus, bus.run(id="run") as run:
        play(run)
        disk.crash()
    with disk.bus(max_event_bytes=BOUND, oversized="truncate") as bus:
        with bus.resume("run") as run:
            play(run)
        assert text_of(bus, "run") == "a"
        assert len(found(bus, "run", Truncated)) == 1


def test_a_follower_gets_a_chunk_that_was_truncated(bus):
    bus.enable_recording(max_event_bytes=BOUND, oversized="truncate")
    with bus.run(id="run") as run:
        run.chunk("x" * 5000)
        run.chunk("y")
    with bus.subscribe("run", after="start") as stream:
        frames = [envelope.seq for envelope in stream]
    assert frames == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_event_bytes": 1023}, "max_event_bytes=1023: at least 1024"),
        ({"max_event_bytes": -1}, "at least 1024"),
        ({"oversized": "drop"}, "oversized='drop': choose 'refuse' or 'truncate'"),
        ({"durability": "none"}, "durability='none': choose 'async' or 'sync'"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(bus, options, wrong):
    bus.enable_recording(max_event_bytes=BOUND)
    with pytest.raises(crewbus.InputError, match=wrong):
        bus.enable_recording(**options)
    with bus.run() as run, pytest.raises(crewbus.OversizedEventError):
        run.emit(noted_of(BOUND + 1))


# Other versions of types


def versions(name, fields, register):
    """A class that had other fields in each release: registers the one of a release, and returns it."""

    def of(version, upgrades=None):
        made = attrs.make_class(name, fields[version])
        made.__module__, made.__qualname__ = "tests.versions", name
        made.__annotations__ = dict.fromkeys(fields[version], str)
        return register(made, name=f"tests.versions.{name}", version=version, upgrades=upgrades)

    return of


TITLES = {1: ["title"], 2: ["title", "by"], 3: ["heading", "by"]}
UPGRADES = {
    1: lambda data: {**data, "by": "unknown"},
    2: lambda data: {"heading": data["title"], "by": data["by"]},
}


@pytest.fixture(params=["event", "entity"])
def article(request):
    register = {"event": crewbus.register_event, "entity": crewbus.register_entity}[request.param]
    return versions(f"Article{request.param}", TITLES, register)


@pytest.mark.parametrize("older", [1, 2])
def test_a_result_of_an_older_type_is_read_as_the_newer(disk, article, older):
    old = article(older)
    with disk.bus() as bus, bus.run(id="run") as run:
        run.step("write", lambda: old(*TITLES[older]))
        disk.crash()
    new = article(3, UPGRADES)
    with disk.bus() as bus, bus.resume("run") as run:
        result = run.step("write", lambda: None)
    assert (type(result), result.heading, result.by) == (new, "title", "unknown" if older == 1 else "by")


def test_a_result_of_a_newer_type_is_refused_by_name(disk, article):
    new = article(2)
    with disk.bus() as bus, bus.run(id="run") as run:
        run.step("write", lambda: new("a", "b"))
        disk.crash()
    article(1)
    with disk.bus() as bus:
        with pytest.raises(crewbus.DecodeError, match=r"Article\w+ version 2 is registered as version 1 here"):
            with bus.resume("run") as run:
                run.step("write", lambda: None)
    article(2)
    with disk.bus() as bus, bus.resume("run") as run:
        assert run.step("write", lambda: None).by == "b"


def test_an_upgrade_that_fails_is_an_error_that_names_the_type(disk, article):
    old = article(1)
    with disk.bus() as bus, bus.run(id="run") as run:
        run.step("write", lambda: old("a"))
        disk.crash()
    article(2, {1: lambda data: data["missing"]})
    with disk.bus() as bus:
        with pytest.raises(crewbus.DecodeError, match=r"Article\w+ version 1: KeyError"):
            with bus.resume("run") as run:
                run.step("write", lambda: None)


def test_an_entity_of_an_older_type_is_read_as_the_newer(disk):
    crew = versions("Crew", TITLES, crewbus.register_entity)
    old = crew(1)
    with disk.bus() as bus, bus.run(id="run") as run:
        run.track("crew", old("a"))
        run.checkpoint("x")
    new = crew(3, UPGRADES)
    with disk.bus() as bus:
        kept = bus.records.checkpoints("run")[0].entity("crew")
    assert (type(kept), kept.heading, kept.by) == (new, "a", "unknown")


def test_an_event_of_an_older_type_is_redelivered_as_the_newer(disk):
    event = versions("Said", TITLES, crewbus.register_event)
    old = event(1)
    with disk.bus() as bus, bus.run(id="run") as run:
        run.emit(old("a"))
    new = event(3, UPGRADES)
    received = []
    with disk.bus() as bus:
        bus.on(new, received.append)
        bus.replay("run")
    assert [(one.event.heading, one.event.by) for one in received] == [("a", "unknown")]


@pytest.mark.parametrize(("name", "version"), [("tests.versions.NobodyKnows", 1), ("tests.Noted", 99)])
def test_an_event_of_a_type_that_is_not_known_is_kept_as_it_is(bus, name, version):
    data = json.dumps({"text": "x", "more": [1]})
    with bus.run(id="run") as run:
        run.emit(UnknownEvent(name, version, data))
        run.step("s", lambda: None)
    (stored,) = [event for event in bus.store.read("run") if event.name == name]
    assert (stored.version, stored.data) == (version, data.encode())
    assert found(bus, "run", UnknownEvent)[0].event == UnknownEvent(name, version, data)
    received = []
    bus.on(UnknownEvent, received.append)
    bus.replay("run")
    assert [one.event.data for one in received] == [data]
    fork = bus.fork("run")
    with bus.resume(fork) as run:
        assert run.step("s", lambda: "again") is None
