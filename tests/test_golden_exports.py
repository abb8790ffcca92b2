"""The exports of former releases, which every later one reads: what was recorded, and how it continues."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import Noted, quiet_bus
from recorded_helpers import found, text_of

import crewbus
from crewbus.records.export import read_export
from crewbus.testing import replayed

GOLDEN = Path(__file__).with_name("golden")
RELEASES = sorted(GOLDEN.glob("export-*"))
RESUMABLE = RELEASES[1:]
"""Those that tell steps apart as today."""
RETRACTED = {"export-1": ("resumed", "anew")}
"""What a resume retracted in earlier releases: the text directly in a run."""
TEXTS = {"finished": "xysaid. attempted. ", "failed": "beyond", "resumed": "beyondanew", "forked": ""}


def load(path):
    spec = importlib.util.spec_from_file_location("golden_exports", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load(GOLDEN / "make.py")
interrupted = load(GOLDEN / "interrupted.py")

RESULTS = [
    {"a": [1, None, 1.5, True, "ü"]}, "xx", "yy", make.Crew(["a"]), "größergrößer", [[]], "rested",
]  # fmt: skip


@pytest.fixture(params=RELEASES, ids=lambda folder: folder.name)
def release(request):
    return request.param


@pytest.fixture(params=RESUMABLE, ids=lambda folder: folder.name)
def resumable(request):
    return request.param


def kept(path, store=None):
    """A store that has an export as a record, and the id of its run."""
    export = read_export(path)
    store = store or crewbus.MemoryStore()
    epoch = store.begin(export.run_id)
    for event in export.events:
        store.append(export.run_id, epoch, event)
    store.release(export.run_id, epoch)
    return store, export.run_id


@pytest.mark.parametrize("name", TEXTS)
def test_each_event_is_read(release, name):
    store, run_id = kept(release / f"{name}.jsonl")
    with quiet_bus() as bus:
        bus.recording.use_store(store)
        record = list(bus.record_of(run_id))
        assert [one.seq for one in record] == list(range(len(record)))
        assert not [one for one in record if isinstance(one.event, crewbus.UnknownEvent)]
        assert text_of(bus, run_id) == dict([RETRACTED.get(release.name, ("", ""))]).get(name, TEXTS[name])
        assert bus.replay(run_id) == len(record)


def test_events_read_as_they_were_emitted(release):
    store, run_id = kept(release / "finished.jsonl")
    with quiet_bus() as bus:
        bus.recording.use_store(store)
        asked = found(bus, run_id, make.Asked)[0]
        assert (asked.event, asked.source) == (make.Asked("größer 🦀\0?", {"a": [1, -2]}), "Crew")
        ended = found(bus, run_id, crewbus.CallFinished)[0].event
        assert ended == crewbus.CallFinished("said. ", {"output_tokens": 2}, 0.25)
        first, second = bus.records.checkpoints(run_id)
        assert [first.entity("golden.Crew"), second.entity("golden.Crew")] == [make.Crew([]), make.Crew(["b"])]
        assert dict(found(bus, run_id, crewbus.RunStarted)[0].event.tags) == {"tenant": "a"}


def test_a_finished_run_replays_its_result(resumable):
    called = []
    with quiet_bus() as bus:
        bus.on(crewbus.StepStarted, lambda envelope: called.append(envelope.event.name))
        with replayed(resumable / "finished.jsonl", bus=bus) as run:
            assert make.work(run, make.Crew()) == RESULTS
    assert called == []


def test_a_failed_run_resumes(resumable):
    with replayed(resumable / "failed.jsonl") as run:
        assert run.step("plain", lambda: "called again") == 1
        assert run.step("next", lambda: 2) == 2


def test_a_resumed_run_resumes_again(resumable):
    with replayed(resumable / "resumed.jsonl") as run:
        assert run.step("plain", lambda: "called again") == 1
        assert run.chunk("anew").replayed
        assert run.step("more", lambda: "called again") == 2


def test_a_fork_resumes(resumable):
    with replayed(resumable / "forked.jsonl") as run:
        run.emit(make.Asked("größer 🦀\0?"))
        run.chunk("so: ", "reasoning")
        assert run.step("plain", lambda: "called again") == "edited"
        assert not run.emit(Noted()).replayed


@pytest.mark.parametrize("crashes", [0, 1])
@pytest.mark.parametrize("fails", [True, False])
def test_law_02_an_interrupted_attempt_continues(resumable, fails, crashes):
    """Its retraction covers what the earlier release recorded in it too, where ids do not show what they are in."""

    def after():
        if fails:
            raise ConnectionError

    def crash():
        store.flush()
        store.dead = True
        raise interrupted.Gone

    store, run_id = kept(resumable / "interrupted.jsonl", interrupted.Mortal())
    ends = [(crash, int), (int, after)][-1 - crashes :]
    for in_the_step, at_the_end in ends:
        store.dead = False
        with suppress(interrupted.Gone), quiet_bus() as bus:
            bus.enable_recording(store)
            with bus.resume(run_id) as run:
                interrupted.work(run, in_the_step, at_the_end)
    with quiet_bus() as bus:
        bus.recording.use_store(store)
        assert text_of(bus, run_id) == ("after" if fails else "attempt call nested done open after")
        assert [one.seq for one in bus.record_of(run_id).roots()] == [0]  # each other parent is an id in the record


@pytest.mark.parametrize("name", ["failed", "forked"])
def test_law_05_a_record_that_tells_steps_apart_otherwise_is_not_resumed(name):
    store, run_id = kept(RELEASES[0] / f"{name}.jsonl")
    with quiet_bus() as bus:
        bus.enable_recording(store)
        with pytest.raises(crewbus.StoreVersionError, match=r"recorded by an earlier release.*shown, exported"):
            with bus.resume(run_id):
                pass
        assert bus.records.info(run_id).state == "failed" if name == "failed" else "interrupted"


def test_golden_exports_exist():
    assert RELEASES
