"""Law 8 of durable runs: the unknown is rejected."""

from __future__ import annotations

import pytest

import crewbus
from crewbus.stores import MemoryStore


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


calls: list[int] = []


@crewbus.step
def charge() -> str:
    calls.append(1)
    return "receipt"


def agent(bus: crewbus.Bus, *, crashes: bool) -> None:
    charge()
    bus.runs[0].checkpoint("charged")
    if crashes:
        raise Crash


def as_newer(source: MemoryStore, name: str) -> MemoryStore:
    """A copy of the store, in which events of the type ``name`` have a version that this release does not know."""
    store = MemoryStore()
    for root in source.roots():
        epoch = store.begin(root)
        for event in source.read(root):
            store.append(root, epoch, event._replace(version=event.version + 1) if event.name == name else event)
        (store.finish if source.info(root).sealed else store.release)(root, epoch)
    return store


@pytest.mark.parametrize(
    "name", ["StepFinished", "StepStarted", "Retracted", "RunResumed", "RunStarted", "CheckpointSaved"]
)
def test_law_08_a_landmark_of_a_newer_release_keeps_a_run_from_being_resumed(name: str) -> None:
    source = MemoryStore()
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(source)
        with pytest.raises(Crash), bus.run(id="r"):
            agent(bus, crashes=True)
        with pytest.raises(Crash), bus.resume("r"):
            bus.chunk("again")
            with pytest.raises(ValueError, match="busy"), bus.runs[0].attempt():
                raise ValueError("busy")
            agent(bus, crashes=True)
    calls.clear()
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(as_newer(source, f"crewbus.{name}"))
        with pytest.raises(crewbus.StoreVersionError, match=f"crewbus.{name} version .* upgrade"), bus.resume("r"):
            agent(bus, crashes=False)
        assert calls == []
        assert bus.runs == []


def test_law_08_a_record_that_a_newer_release_wrote_can_be_read() -> None:
    source = MemoryStore()
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(source)
        with bus.run(id="r"):
            agent(bus, crashes=False)
        bus.flush()
        bus.enable_recording(as_newer(source, "crewbus.StepFinished"))
        kinds = [type(envelope.event).__name__ for envelope in bus.record_of("r")]
    assert kinds == ["RunStarted", "StepStarted", "UnknownEvent", "CheckpointSaved", "RunFinished"]
