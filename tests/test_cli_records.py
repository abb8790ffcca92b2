"""The command on records: runs, show, tail, export, fork, diff, replay, prune; called in this process."""

from __future__ import annotations

import io
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Cli
from helpers import Noted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifecycle_helpers import Caller, until
from plugin_helpers import plugin

import crewbus
from crewbus.cli.run_ids import short_id
from crewbus.records.export import Branch, read_export, write_export
from crewbus.stores import StoredEvent

HOSTILE = "\x1b[2Jbad\n\x07"


class Kept(crewbus.MemoryStore):
    """Survives the buses that record to it, as a file would."""

    def close(self) -> None:
        """Stay as it is."""


class Records(Cli):
    """The command, each time on a bus of its own that records to the same store."""

    store: Kept
    plugins: list[Any]
    buses: list[crewbus.Bus]

    def new_bus(self) -> crewbus.Bus:
        """A bus of the built-in plugins and `plugins`, recording to `store`."""
        bus = crewbus.Bus(self.plugins, entry_points=False)
        bus.enable_recording(self.store)
        self.buses.append(bus)
        return bus

    def open_bus(self) -> crewbus.Bus:
        """Each command runs on a new bus."""
        return self.new_bus()

    def record(self, function: Callable[[crewbus.Bus], object], name: str = "news", **options: Any) -> str:
        """Call ``function`` in a recorded run; returns the run's id."""
        with self.new_bus() as bus, bus.run(name, **options) as run:
            function(bus)
        return run.id

    def interrupted(self, name: str = "news", *chunks: str) -> str:
        """A run whose process died after these chunks; returns its id."""
        with self.new_bus() as bus:
            run = bus.run(name)
            run.start()
            for text in chunks:
                run.chunk(text)
            self.store.release(run.id, 1)
            return run.id

    @property
    def lines(self) -> list[list[str]]:
        """The words of each line of standard output."""
        return [line.split() for line in self.out.splitlines()]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = Records(tmp_path, capsys)
    command.store, command.plugins, command.buses = Kept(), [], []
    known = set(sys.modules)
    yield command
    for bus in command.buses:
        bus.close()
    for name in sys.modules.keys() - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]  # another test may have a module of that name


def research(bus: crewbus.Bus) -> None:
    """Emits a bit of everything that a tree shows."""
    with bus.call("model"):
        bus.chunk("hello ")
        bus.chunk("world")
    with bus.run("inner") as inner:
        for wanted in (False, True):
            try:
                with inner.attempt():
                    bus.chunk("draft")
                    if not wanted:
                        raise ValueError("not yet")
            except ValueError:
                continue
    bus.emit(Noted("aside"))


# runs


def test_runs_are_listed_newest_first(cli: Records) -> None:
    first = cli.record(research)
    second = cli.interrupted("other")
    assert cli("runs") == 0
    head, *rows = cli.lines
    assert head == ["run", "name", "state", "started", "duration", "events"]
    assert [row[:3] for row in rows] == [
        [short_id(second), "other", "interrupted"],
        [short_id(first), "news", "finished"],
    ]
    assert rows[1][-1] == str(cli.store.info(first).last + 1)


def test_runs_as_json_have_all_fields(cli: Records) -> None:
    run_id = cli.record(research, tags={"topic": "sky"})
    assert cli("runs", "--json") == 0
    (info,) = json.loads(cli.out)
    assert (info["id"], info["name"], info["state"], info["tags"]) == (run_id, "news", "finished", {"topic": "sky"})
    assert info["started"] <= info["ended"]


def test_runs_can_be_limited_and_filtered_by_state(cli: Records) -> None:
    ids = [cli.record(lambda bus: None) for _ in range(3)]
    gone = cli.interrupted()
    assert cli("runs", "--limit", "2") == 0
    assert [row[0] for row in cli.lines[1:]] == [short_id(gone), short_id(ids[2])]
    assert cli("runs", "--state", "finished", "--limit", "1") == 0
    assert [row[0] for row in cli.lines[1:]] == [short_id(ids[2])]
    assert cli("runs", "--state", "failed") == 0
    assert (cli.out, cli.err) == ("", "no recorded run matches\n")
    assert cli("runs", "--state", "failed", "--state", "interrupted") == 0
    assert [row[0] for row in cli.lines[1:]] == [short_id(gone)]


def test_runs_can_be_filtered_by_name_tag_and_age(cli: Records) -> None:
    one = cli.record(research, tags={"thread": "7", "user": "=a=b"})
    two = cli.record(research, tags={"thread": "8"})
    other = cli.interrupted("other")

    def listed(*options: str) -> list[str]:
        assert cli("runs", *options, "--json") == 0
        return [info["id"] for info in json.loads(cli.out)]

    assert listed("--name", "news") == [two, one]
    assert listed("--name", "news", "--tag", "thread=7") == listed("--tag", "user==a=b") == [one]
    assert listed("--tag", "thread=7", "--tag", "thread=8") == [two]
    assert listed("--since", "1h") == [other, two, one]
    assert listed("--since", "0s") == listed("--name", "none") == []
    assert cli("runs", "--tag", "thread") == 2
    assert "a tag is KEY=VALUE; got 'thread'" in cli.err


def test_runs_suggests_what_to_do_if_nothing_is_recorded(cli: Records) -> None:
    assert cli("runs") == 0
    assert cli.out == ""
    assert "No runs in memory" in cli.err
    assert "crewbus-sqlite" in cli.err
    assert cli("runs", "--json") == 0
    assert json.loads(cli.out) == []


def test_store_names_another_store(cli: Records) -> None:
    other = Kept()
    cli.plugins = [plugin(crewbus_open_store=lambda url: other if url == "other:" else None)]
    mine, cli.store = cli.store, other
    run_id = cli.record(research)
    cli.store = mine
    assert cli("runs", "--store", "other:") == 0
    assert cli.lines[1][0] == short_id(run_id)
    assert cli("runs", "--store", "nowhere:") == 2
    assert "no plugin opens the store 'nowhere:'" in cli.err


# RUN


def test_run_is_an_id_a_unique_prefix_or_latest(cli: Records) -> None:
    cli.record(research, id="aa1")
    cli.record(research, id="aa2")
    cli.record(research, id="b")
    for text, run_id in [("aa1", "aa1"), ("b", "b"), ("latest", "b")]:
        assert cli("show", text, "--json") == 0
        assert cli.summary["id"] == run_id


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("aa", "2 runs have ids that begin or end with 'aa': aa1-long, aa2-long"),
        ("aa1-lnog", "no run 'aa1-lnog' in "),
        ("aa1-lnog", "did you mean aa1-long"),
        ("zzz", "the newest are aa2-long, aa1-long"),
        ("", "no run '' in "),
    ],
)
def test_an_unknown_run_is_an_error_with_suggestions(cli: Records, text: str, why: str) -> None:
    cli.record(research, id="aa1-long")
    cli.record(research, id="aa2-long")
    assert cli("show", text) == 2
    assert why in cli.err
    assert cli.out == ""


def test_latest_is_an_error_if_nothing_is_recorded(cli: Records) -> None:
    assert cli("show", "latest") == 2
    assert "No runs in " in cli.err


# show


def test_show_is_a_tree_with_times_and_bars(cli: Records) -> None:
    run_id = cli.record(research)
    assert cli("show", run_id) == 0
    assert cli.out.startswith("news finished after ")
    head, *rows = cli.out[cli.out.index("what ") :].splitlines()
    assert head.split() == ["what", "state", "start", "duration", "details"]
    assert [row[: head.index("state")].rstrip() for row in rows] == [
        "run news", "  call model", "  run inner", "    attempt 1", "    attempt 2",
    ]  # fmt: skip
    assert "2 chunks, 11 characters" in rows[1]
    assert "retracted" in rows[3]
    assert "1 chunk retracted; ValueError: not yet" in rows[3]
    assert "1 chunk, 5 characters" in rows[4]
    assert "1 other event" in rows[0]
    assert all(sum(row.count(mark) for mark in "#.|") >= 24 for row in rows), "each has a bar"


def test_show_as_json_lists_the_tree_in_order(cli: Records) -> None:
    run_id = cli.record(research)
    assert cli("show", run_id, "--json") == 0
    nodes = cli.summary["tree"]
    assert [(node["kind"], node["name"], node["depth"], node["state"]) for node in nodes] == [
        ("run", "news", 0, "finished"),
        ("call", "model", 1, "finished"),
        ("run", "inner", 1, "finished"),
        ("attempt", "1", 2, "retracted"),
        ("attempt", "2", 2, "finished"),
    ]
    assert [node["chunks"] for node in nodes] == [0, 2, 0, 0, 1]
    assert all(node["seconds"] >= 0 for node in nodes)


def test_a_nested_run_is_shown_by_itself(cli: Records) -> None:
    inner = []

    def work(bus: crewbus.Bus) -> None:
        with bus.run("inner") as run:
            bus.chunk("x")
        inner.append(run.id)

    cli.record(work)
    assert cli("show", inner[0], "--json") == 0
    assert [(node["name"], node["depth"]) for node in cli.summary["tree"]] == [("inner", 0)]
    assert cli("tail", inner[0], "--follow", "--json") == 0
    assert {json.loads(line)["run_id"] for line in cli.out.splitlines()} == {inner[0]}


def test_open_scopes_of_an_interrupted_run_are_shown_as_interrupted(cli: Records) -> None:
    run_id = cli.interrupted("news", "a")
    assert cli("show", run_id, "--json") == 0
    assert [node["state"] for node in cli.summary["tree"]] == ["interrupted"]


def test_control_characters_are_escaped(cli: Records) -> None:
    def work(bus: crewbus.Bus) -> None:
        bus.chunk(HOSTILE)
        with bus.call(HOSTILE):
            bus.emit(Noted(HOSTILE))

    run_id = cli.record(work, HOSTILE, tags={HOSTILE: HOSTILE}, id=f"id{HOSTILE}")
    for argv in (["runs"], ["show", run_id], ["tail", run_id], ["show", f"{HOSTILE}!"], ["prune", "--keep", "0"]):
        cli(*argv)
        written = (cli.out + cli.err).replace("\n", "")
        assert written
        assert written.isprintable(), argv


# What a tree makes of times and numbers that no clock shows


def stored(seq: int, event: str, when: float = 0.0, parent: str | None = "r:0", **fields: Any) -> StoredEvent:
    return StoredEvent("r", seq, parent, when, None, 1, f"crewbus.{event}", 1, json.dumps(fields).encode())


def tree(*events: StoredEvent) -> list[tuple[Any, ...]]:
    from crewbus.records import Timeline

    with crewbus.Bus(entry_points=False) as bus:
        timeline = Timeline(events, events, bus.recording.decode)
    top = timeline.run("r")
    assert top is not None
    return [
        (entry.node.kind, entry.name, "void" if entry.void else entry.state, round(entry.end, 3))
        for _, entry in top.walk()
    ]


def test_attempts_at_a_step_are_counted_and_pauses_are_left_out() -> None:
    found = tree(
        stored(0, "RunStarted", 100.0, None, name="r"),
        stored(1, "StepStarted", 101.0, name="write", identity="w"),
        stored(2, "Chunk", 102.0, "r:1", text="abc"),
        stored(3, "RunResumed", 9000.0, at=2, epoch=2),
        stored(4, "Retracted", 9000.0, since=1, parents=["r:1"]),
        stored(5, "StepStarted", 9001.0, name="write", identity="w"),
        stored(6, "StepFinished", 9002.0, "r:5", name="write"),
        stored(7, "RunFinished", 9003.0),
    )
    assert found == [
        ("run", "r", "finished", 5.0),
        ("step", "write", "interrupted", 2.0),
        ("step", "write", "finished", 4.0),
    ]


def test_what_came_after_the_checkpoint_of_a_resume_is_void() -> None:
    found = tree(
        stored(0, "RunStarted", 0.0, None, name="r"),
        stored(1, "CheckpointSaved", 1.0, name="c"),
        stored(2, "StepStarted", 2.0, name="old"),
        stored(3, "StepFinished", 3.0, "r:2", name="old"),
        stored(4, "RunFailed", 4.0, error="E", message="m"),
        stored(5, "RunResumed", 4.0, at=1, epoch=2, checkpoint="c"),
        stored(6, "StepStarted", 5.0, name="new"),
    )
    assert found == [
        ("run", "r", "open", 5.0),
        ("checkpoint", "c", "saved", 1.0),
        ("step", "old", "void", 3.0),
        ("step", "new", "open", 5.0),
    ]


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_record_with_invalid_times_is_shown(cli: Records, at: float) -> None:
    epoch = cli.store.begin("r")
    cli.store.append("r", epoch, stored(0, "RunStarted", at, None, name="r"))
    cli.store.append("r", epoch, stored(1, "CheckpointSaved", at, name="c"))
    cli.store.append("r", epoch, stored(2, "RunFinished", at))
    cli.store.finish("r", epoch)
    for command in ("runs", "show", "tail"):
        assert cli(command, *(["r"] if command != "runs" else [])) == 0
        assert cli.out


def test_a_tree_of_any_depth_is_shown(cli: Records) -> None:
    epoch, deep = cli.store.begin("r"), 3000
    cli.store.append("r", epoch, stored(0, "RunStarted", 0.0, None, name="r"))
    for seq in range(1, deep):
        cli.store.append("r", epoch, stored(seq, "CallStarted", 0.0, f"r:{seq - 1}", name="c"))
    cli.store.finish("r", epoch)
    assert cli("show", "r", "--json") == 0
    assert cli.summary["tree"][-1]["depth"] == deep - 1
    assert cli("show", "r") == 0
    assert cli("tail", "r") == 0


NAMES = [f"crewbus.{name}" for name in (
    "RunStarted", "RunFinished", "RunFailed", "RunCancelled", "RunResumed", "RunForked", "StepStarted", "StepFinished",
    "StepFailed", "CheckpointSaved", "EntitySaved", "CallStarted", "CallFinished", "CallFailed", "AttemptStarted",
    "Chunk", "Retracted", "Truncated",
)]  # fmt: skip
FIELDS = {
    "name": st.text(), "text": st.text(), "tags": st.dictionaries(st.text(), st.text()), "error": st.text(),
    "message": st.text(), "reason": st.text(), "identity": st.sampled_from("ab"), "epoch": st.integers(),
    "at": st.integers(-3, 12), "since": st.integers(), "number": st.integers(), "of": st.text(),
    "parents": st.lists(st.integers(-1, 12).map(lambda seq: f"r:{seq}")), "entities": st.just({}),
    "type": st.text(), "version": st.integers(), "size": st.integers(), "data": st.text(), "key": st.text(),
}  # fmt: skip
EVENTS = st.tuples(
    st.sampled_from([*NAMES, "acme.Unknown"]),
    st.one_of(st.fixed_dictionaries(FIELDS), st.fixed_dictionaries({}, optional=FIELDS), st.integers()),
    st.one_of(st.none(), st.integers(-1, 12).map(lambda seq: f"r:{seq}"), st.text()),
    st.floats(),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENTS, max_size=12))
def test_promise_12_no_record_is_more_than_an_error_to_the_command(cli: Records, events: list[Any]) -> None:
    cli.store = Kept()
    epoch = cli.store.begin("r")
    for seq, (name, data, parent, when) in enumerate([(NAMES[0], {"name": "r"}, None, 0.0), *events]):
        cli.store.append("r", epoch, StoredEvent("r", seq, parent, when, None, 1, name, 1, json.dumps(data).encode()))
    cli.store.finish("r", epoch)
    for argv in (["runs"], ["show", "r"], ["show", "r", "--json"], ["tail", "r"], ["tail", "r", "-f"], ["export", "r"]):
        assert cli(*argv) in (0, 2)
        assert cli.out or cli.err.startswith("crewbus: error: ")


# tail


def test_tail_prints_an_event_on_each_line(cli: Records) -> None:
    run_id = cli.record(research)
    assert cli("tail", run_id) == 0
    assert [row[0] for row in cli.lines] == [str(seq) for seq in range(cli.store.info(run_id).last + 1)]
    assert cli.lines[0][2:] == ["news", "RunStarted", 'name="news"']
    assert cli.lines[2][2:] == ["news/model", "Chunk", 'text="hello', '"']
    assert cli.out.endswith("news  RunFinished\n")


def test_tail_as_json_is_one_object_on_each_line(cli: Records) -> None:
    run_id = cli.record(research)
    assert cli("tail", run_id, "--json") == 0
    events = [json.loads(line) for line in cli.out.splitlines()]
    assert [event["seq"] for event in events] == [*range(len(events))]
    assert "".join(e["event"]["text"] for e in events if e["name"] == "crewbus.Chunk") == "hello worlddraftdraft"


def test_tail_follows_a_run_to_its_end(cli: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crewbus.cli.commands.tail.POLL_INTERVAL", 0.002)
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(cli.store)
        with bus.run("live") as run:
            from crewbus.cli import main

            follower = Caller(partial(main, bus=cli.new_bus()), ["tail", run.id, "--follow"])
            for number in range(3):
                bus.chunk(f"chunk{number}")
                until(lambda number=number: f"chunk{number}" in out.getvalue())  # type: ignore[misc]
        assert follower.outcome() == 0
    assert out.getvalue().endswith("live  RunFinished\n")


def test_following_ends_when_no_process_executes_the_run(cli: Records) -> None:
    run_id = cli.interrupted("news", "a")
    assert cli("tail", run_id, "--follow", "--json") == 0
    names = [json.loads(line)["name"] for line in cli.out.splitlines()]
    assert names == ["crewbus.RunStarted", "crewbus.Chunk", "crewbus.RunInterrupted"]


# export


def test_an_export_is_read_back_unchanged(cli: Records) -> None:
    run_id = cli.record(research, tags={"topic": "sky"})
    assert cli("export", run_id, "--jsonl", "-o", "out.jsonl") == 0
    assert f"wrote {cli.store.info(run_id).last + 1} events of run {run_id} to out.jsonl" in cli.err
    export = read_export("out.jsonl")
    assert export.run_id == run_id
    assert export.info["tags"] == {"topic": "sky"}
    assert export.events == list(cli.store.read(run_id))
    assert cli("export", run_id) == 0
    assert cli.out == Path("out.jsonl").read_text()


def test_an_export_of_a_nested_run_is_its_part_of_the_record(cli: Records) -> None:
    run_id = cli.record(research)
    inner = next(event.run_id for event in cli.store.read(run_id) if event.run_id != run_id)
    assert [event.run_id for event in Branch(cli.store, inner).read()] == [inner] * 9


def test_an_unwritable_file_is_an_error(cli: Records) -> None:
    run_id = cli.record(research)
    assert cli("export", run_id, "-o", "missing/out.jsonl") == 2
    assert "missing/out.jsonl: No such file or directory" in cli.err


@pytest.fixture
def exported(cli: Records) -> Path:
    cli.record(research)
    cli("export", "latest", "-o", "out.jsonl")
    return Path("out.jsonl")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[:-1], "out.jsonl is truncated: it should have 16 events, and has 15"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "out.jsonl:17: not JSON"),
        (lambda lines: lines[1:], "out.jsonl:1: not an export"),
        (lambda lines: [], "out.jsonl:1: not JSON"),
        (lambda lines: ["[1]"], "out.jsonl:1: expected a JSON object, not list"),
        (lambda lines: [lines[0], '{"seq": 1}', *lines[2:]], "out.jsonl:2: 'run_id' is missing"),
        (lambda lines: [lines[0], lines[1].replace('"seq":0', '"seq":"0"'), *lines[2:]], "out.jsonl:2: 'seq'"),
        (lambda lines: [lines[0], "[" * 100_000, *lines[2:]], "out.jsonl:2: not JSON"),
    ],
)
def test_an_invalid_export_is_an_error_that_names_the_line(exported: Path, change: Any, why: str) -> None:
    exported.write_text("\n".join(change(exported.read_text().splitlines())) + "\n")
    with pytest.raises(crewbus.RecordingError) as caught:
        read_export(exported)
    assert why in str(caught.value)


def test_an_export_of_a_newer_release_is_an_error(exported: Path) -> None:
    exported.write_text(exported.read_text().replace('{"crewbus":1,', '{"crewbus":2,', 1))
    with pytest.raises(crewbus.RecordingError, match="version 2; this release of crewbus reads 1"):
        read_export(exported)


def test_promise_12_a_mutilated_export_gives_an_error_or_its_events(exported: Path) -> None:
    whole = exported.read_bytes()
    for at in range(0, len(whole), 7):
        exported.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            assert len(read_export(exported).events) == 16
        except crewbus.RecordingError:
            continue


def test_events_recorded_during_an_export_are_not_in_it(cli: Records) -> None:
    class Growing(io.StringIO):
        def write(self, text: str) -> int:
            bus.chunk("more")
            return super().write(text)

    with cli.new_bus() as bus, bus.run() as run:
        bus.chunk("first")
        out = Growing()
        assert write_export(out, cli.store, run.id, {}) == 2
    head, *events = out.getvalue().splitlines()
    assert json.loads(head)["events"] == len(events) == 2


# fork, diff, replay, prune


def stepwise(bus: crewbus.Bus) -> None:
    """Two steps, and a checkpoint between them."""
    run = crewbus.current_run()
    assert run is not None
    run.step("research", lambda: "facts")
    run.checkpoint("after-research")
    run.step("write", lambda: "text")


def test_fork_prints_the_id_of_a_run_that_shares_the_beginning(cli: Records) -> None:
    run_id = cli.record(stepwise)
    before = list(cli.store.read(run_id))
    assert cli("fork", "latest", "--at", "after-research", "--edit", 'research="other"') == 0
    forked = cli.out.strip()
    assert cli.store.info(forked).parent == run_id
    assert list(cli.store.read(run_id)) == before
    assert cli("fork", run_id, "--json") == 0
    assert cli.summary["of"] == run_id
    assert cli.summary["at"] == before[-2].seq, "all but that it finished"
    assert cli("runs") == 0
    assert cli.lines[0][-2:] == ["fork", "of"]
    assert cli.lines[2][0] == short_id(forked)
    assert cli.lines[2][-3] == short_id(run_id)
    assert cli("show", forked) == 0
    assert f"fork of  {run_id} at " in cli.out


def test_an_export_of_a_fork_names_no_other_run(cli: Records) -> None:
    run_id = cli.interrupted("news", "a")
    with cli.new_bus() as bus, bus.resume(run_id):
        bus.chunk("a")
        bus.chunk("b")
    assert cli("fork", run_id) == 0
    forked = cli.out.strip()
    assert cli("export", forked, "-o", "fork.jsonl") == 0
    head, events = Path("fork.jsonl").read_text().split("\n", 1)
    assert json.loads(head)["parent"] == run_id
    assert events.count(run_id) == 1, "RunForked says it"
    with cli.new_bus() as bus:
        assert [bus.recording.decode(event).event for event in read_export("fork.jsonl").events] == [
            envelope.event for envelope in bus.record_of(forked)
        ]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ("research", "--edit 'research' is not STEP=JSON"),
        ("=1", "--edit '=1' is not STEP=JSON"),
        ("research=other", "--edit research: not JSON"),
        ("nobody=1", "nobody"),
    ],
)
def test_an_invalid_edit_is_an_error(cli: Records, edit: str, why: str) -> None:
    cli.record(stepwise)
    assert cli("fork", "latest", "--edit", edit) == 2
    assert why in cli.err
    assert len(cli.store.roots()) == 1


def test_a_step_is_edited_once(cli: Records) -> None:
    cli.record(stepwise)
    assert cli("fork", "latest", "--edit", "research=1", "--edit", "research=2") == 2
    assert "--edit research is given twice" in cli.err


def test_diff_shows_the_first_difference(cli: Records) -> None:
    def other(bus: crewbus.Bus) -> None:
        run = crewbus.current_run()
        assert run is not None
        run.step("research", lambda: "rumours")

    cli.record(stepwise, id="a")
    cli.record(stepwise, id="b")
    cli.record(other, id="c")
    assert cli("diff", "a", "b") == 0
    assert cli.out == "the runs are equal\n"
    assert cli("diff", "a", "b", "--json") == 0
    assert json.loads(cli.out) is None
    assert cli("diff", "a", "c") == 1
    assert "facts" in cli.out
    assert "rumours" in cli.out
    assert cli("diff", "a", "c", "--json") == 1
    assert isinstance(json.loads(cli.out), dict)


def test_replay_delivers_events_to_the_plugins_again(cli: Records) -> None:
    run_id = cli.record(research)
    cli.write(
        "audit.py",
        """\
        import crewbus
        seen = []
        class Audit:
            @crewbus.hookimpl
            def crewbus_emit(self, envelope):
                seen.append((envelope.seq, envelope.replayed))
        """,
    )
    assert cli("replay", "latest", "--plugin", "audit.py:Audit") == 0
    last = cli.store.info(run_id).last
    assert sys.modules.pop("audit").seen == [(seq, True) for seq in range(last + 1)]
    assert cli.err == f"replayed {last + 1} events of run {run_id}\n"
    assert cli.store.info(run_id).last == last
    assert cli("replay", "latest", "--plugin", "audit.py:Adit") == 2
    assert "did you mean Audit" in cli.err


def test_prune_deletes_and_lists_old_runs(cli: Records) -> None:
    ids = [cli.record(stepwise) for _ in range(3)]
    assert cli("prune", "--keep", "1", "--dry-run") == 0
    assert {row[0] for row in cli.lines[1:]} == {*map(short_id, ids[:2])}
    assert cli.err == "would delete 2 runs\n"
    assert cli.store.roots() == ids
    assert cli("prune", "--keep", "1", "--older-than", "1d", "--json") == 0
    assert json.loads(cli.out) == []
    assert cli("prune", "--keep", "1", "--json") == 0
    assert {*json.loads(cli.out)} == {*ids[:2]}
    assert cli.store.roots() == ids[2:]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ([], "say which runs to delete: --keep N, --older-than AGE, or both"),
        (["--older-than", "30"], "an age is a number followed by s, m, h, d or w, such as 30d; got '30'"),
        (["--keep", "-1"], "an integer of at least 0 is required; got '-1'"),
    ],
)
def test_invalid_options_of_prune_are_errors(cli: Records, argv: list[str], why: str) -> None:
    assert cli("prune", *argv) == 2
    assert why in cli.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("45m", 2700), ("12h", 43200), ("1.5d", 129600), ("2w", 1209600)]
)
def test_ages(text: str, seconds: float) -> None:
    from crewbus.cli.formatting import parse_age

    assert parse_age(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"), (0.0001, "<1 ms"), (0.003, "3 ms"), (0.9996, "1.0 s"), (59.9, "59.9 s"),
        (59.96, "1.0 min"), (90.0, "1.5 min"), (5400.0, "1.5 h"), (216000.0, "2.5 d"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    from crewbus._util import format_duration

    assert format_duration(seconds) == text


# resume, where it can't (what it can is in test_cli_resume.py)

BEGUN = {"crewbus.target": "agents:agent", "crewbus.arguments": '{"args": [], "kwargs": {}}', "crewbus.directory": "."}


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({}, "was not started by 'crewbus run': resume it from its own program, with bus.resume('r')"),
        ({**BEGUN, "crewbus.target": "agents:nobody"}, "agents has no 'nobody'"),
        ({**BEGUN, "crewbus.target": "missing:agent"}, "there is no module 'missing'"),
        ({**BEGUN, "crewbus.directory": "gone"}, "run r was started in gone, which cannot be entered: "),
        ({**BEGUN, "crewbus.directory": "\0"}, "which cannot be entered: "),
        ({**BEGUN, "crewbus.arguments": "[]"}, "run r: its tag crewbus.arguments does not hold arguments"),
        ({**BEGUN, "crewbus.arguments": "{"}, "run r: its tag crewbus.arguments does not hold arguments"),
        (
            {**BEGUN, "crewbus.arguments": '{"args": [1], "kwargs": {}}'},
            "run r: agent(): too many positional arguments",
        ),
    ],
)
def test_a_run_whose_target_cannot_be_called_is_not_resumed(cli: Records, tags: dict[str, str], why: str) -> None:
    cli.write("agents.py", "def agent(): ...")
    with pytest.raises(ZeroDivisionError):
        cli.record(lambda bus: 1 // 0, id="r", tags=tags)
    before = cli.store.info("r")
    assert cli("resume", "r") == 2
    assert why in cli.err
    assert cli.store.info("r") == before
    sys.modules.pop("agents", None)


def test_all_warns_of_runs_that_cannot_be_resumed(cli: Records) -> None:
    run_id = cli.interrupted()
    assert cli("resume", "--all") == 0
    assert cli.err.startswith(f"crewbus: warning: run {run_id} was not started by 'crewbus run'")
    assert cli.err.endswith("there is nothing to resume\n")


def test_all_leaves_a_run_alone_that_is_stuck(cli: Records) -> None:
    run_id = cli.interrupted()
    while not cli.store.info(run_id).is_stuck:
        cli.store.release(run_id, cli.store.acquire(run_id))
    assert cli("resume", "--all") == 0
    assert f"run {run_id} was taken over again and again without getting on: resume it by its id" in cli.err
    assert cli.err.endswith("there is nothing to resume\n")


def test_all_leaves_a_run_alone_that_is_not_due_until_a_message_arrives(cli: Records) -> None:
    with cli.new_bus() as bus, pytest.raises(crewbus.RunSuspendedError), bus.run("news", id="r") as run:
        run.suspend("asks", until=math.inf)
        run.check()
    assert cli("resume", "--all") == 0
    assert cli.err == "1 run suspended until later: left as they are\nthere is nothing to resume\n"
    cli.store.post("r", "approval", b"1")
    assert cli("resume", "--all") == 0
    assert "run r was not started by 'crewbus run'" in cli.err


def test_a_run_is_resumed_from_a_checkpoint(cli: Records) -> None:
    cli.write(
        "agents.py",
        """\
        import crewbus
        made = []
        def agent():
            run = crewbus.current_run()
            run.step("early", made.append, "early")
            run.checkpoint("middle")
            run.step("late", made.append, "late")
            if made == ["early", "late"]:
                raise ValueError("not yet")
        """,
    )
    assert cli("run", "agents:agent") == 1
    assert cli("resume", "latest", "--at", "nowhere") == 2
    assert "has no checkpoint 'nowhere'; there are middle" in cli.err
    assert cli("resume", "latest", "--at", "middle") == 0
    assert "from checkpoint 'middle'" in cli.err
    assert sys.modules.pop("agents").made == ["early", "late", "late"]
    assert cli("show", "latest", "--json") == 0
    assert [(node["name"], node["state"]) for node in cli.summary["tree"] if node["kind"] != "checkpoint"] == [
        ("agent", "finished"), ("early", "finished"), ("late", "void"), ("late", "finished"),
    ]  # fmt: skip


# Help


@pytest.mark.parametrize(
    "command", ["runs", "show", "tail", "resume", "cancel", "fork", "diff", "replay", "export", "prune"]
)
def test_the_help_has_examples_that_parse(cli: Records, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crewbus.cli import CommandLine, add_built_in_commands

    assert cli(command, "--help") == 0
    assert max(map(len, cli.out.splitlines())) <= 110
    examples = cli.out[cli.out.index("examples:") :].splitlines()[1:]
    assert examples
    command_line = CommandLine()
    add_built_in_commands(command_line)
    for example in examples:
        words = shlex.split(example.replace("$(", "").replace(")", ""))
        ours = words[1 : words.index("|")] if "|" in words else words[1:]
        assert words[0] == "crewbus"
        if "crewbus" not in ours:  # one in another
            command_line.parser.parse_args(ours)
