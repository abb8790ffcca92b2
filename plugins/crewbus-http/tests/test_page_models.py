"""What the page shows, before it is rendered: lists, timelines, folds, windows, comparisons, fleet and store."""

import contextlib
import sys

import pytest

import crewbus
from crewbus_http.page.comparison import compare
from crewbus_http.page.event_table import WINDOW, event_line, event_window
from crewbus_http.page.fleet import survey
from crewbus_http.page.folding import SHOWN, Fold, lines
from crewbus_http.page.query import RunQuery, age
from crewbus_http.page.run_list import run_page
from crewbus_http.page.storage import Prune, measure, try_prune
from crewbus_http.page.streamed import StreamedText
from crewbus_http.page.text import duration, moment, money, one_line, visible
from crewbus_http.page.timeline import Timeline, model_of
from crewbus_workers import enqueue, worker, workflow


@pytest.fixture
def bus():
    with crewbus.Bus() as bus:
        bus.enable_recording("memory:")
        yield bus


def timeline_of(bus, run_id, upto=sys.maxsize):
    record = bus.record_of(run_id)
    return Timeline.read(record.decoded, record.stored(), upto)


def shape(timeline):
    return [f"{'  ' * depth}{row.kind} {row.name} {row.state}" for depth, row in timeline.root.walk()]


@crewbus.step
def research(topic):
    return f"about {topic}"


@crewbus.step
def write(topic):
    with crewbus.current_bus().call("gpt-5", kind="model", attributes={"model": "gpt-5"}) as call:
        crewbus.chunk("Tides ")
        crewbus.chunk("rise.")
        call.finish(usage={"input_tokens": 9, "output_tokens": 2}, cost=0.5)
    return topic


# Texts


def test_what_a_browser_would_reorder_or_hide_is_spelled_out():
    assert visible("a\u202eb\x00c\nd\te") == "a⟨U+202E⟩b⟨U+0000⟩c\nd\te"
    assert visible("\u2066x\u2069") == "⟨U+2066⟩x⟨U+2069⟩"
    assert visible("naïve 日本 עברית 👩‍💻") == "naïve 日本 עברית 👩‍💻"


def test_one_line_is_bounded_whatever_the_text():
    assert one_line("a\n  b\x1b[0m") == "a b⟨U+001B⟩[0m"
    assert len(one_line("x" * 10_000_000)) == 300
    assert one_line("x " * 1000).endswith("…")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12 ms"), (0.9999, "1.0 s"), (90, "1.5 min"), (7200, "2.0 h"), (864000, "10.0 d")]
)
def test_durations_have_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_a_time_that_there_is_not_is_no_error():
    assert (moment(0), moment(1e300), moment(float("nan")), moment(None)) == ("1970-01-01 00:00:00Z", "?", "?", "")


def test_small_amounts_keep_their_digits():
    assert (money(0.0012), money(12.5), money(None)) == ("$0.0012", "$12.50", "")


# The list and its URL


def test_a_query_is_read_from_a_url_and_written_back():
    query = RunQuery.parse(
        [("state", "failed"), ("state", "running"), ("tag", "a=1 b=2"), ("since", "2d"), ("name", "")]
    )
    assert query == RunQuery(("failed", "running"), "", {"a": "1", "b": "2"}, "2d")
    assert query.url() == "?state=failed&state=running&tag=a%3D1&tag=b%3D2&since=2d"
    assert query.url(name="x&y", states=()) == "?name=x%26y&tag=a%3D1&tag=b%3D2&since=2d"
    assert RunQuery().url() == ""


@pytest.mark.parametrize("pair", [("state", "odd"), ("since", "x"), ("since", "1" * 400 + "d"), ("tag", "novalue")])
def test_a_query_that_cant_be_meant_is_refused(pair):
    with pytest.raises(crewbus.InputError):
        RunQuery.parse([pair])


def test_ages_are_read():
    assert [age(text) for text in ("10s", "45m", "12h", "2w", "1.5d")] == [10, 2700, 43200, 1209600, 129600]


def test_pages_of_the_list_follow_each_other_without_gap_or_repetition(bus):
    for number in range(25):
        with bus.run("even" if number % 2 == 0 else "odd", id=f"run-{number}"):
            pass
    seen, cursor = [], ""
    while cursor is not None:
        page = run_page(bus, RunQuery(after=cursor), size=10)
        seen += [info.id for info in page.runs]
        cursor = page.next
    assert seen == [f"run-{number}" for number in reversed(range(25))]
    odd = run_page(bus, RunQuery(name="odd"), size=10)
    assert [info.name for info in odd.runs] == ["odd"] * 10
    assert len(run_page(bus, RunQuery(name="odd", after=odd.next), size=10).runs) == 2


def test_a_page_goes_on_after_a_run_that_no_longer_matches(bus):
    for number in range(4):
        with bus.run(id=f"run-{number}"):
            pass
    with bus.run(id="live"):
        page = run_page(bus, RunQuery(states=("finished",), after="live"), size=2)
        assert [info.id for info in page.runs] == ["run-3", "run-2"]


def test_a_run_that_is_deleted_while_the_list_is_read_is_left_out(bus, monkeypatch):
    for number in range(4):
        with bus.run(id=f"run-{number}"):
            pass
    info = bus.records.info

    def deleting(run_id):
        if run_id == "run-3":
            bus.store.drop(run_id)
        return info(run_id)

    monkeypatch.setattr(bus.records, "info", deleting)
    page = run_page(bus, RunQuery(), size=2)
    assert ([one.id for one in page.runs], page.next) == (["run-2"], "run-2")


def test_a_cursor_that_is_gone_is_refused(bus):
    with pytest.raises(crewbus.RunNotFoundError, match="does not go on"):
        run_page(bus, RunQuery(after="gone"))


# The timeline


def test_a_run_is_a_row_for_each_scope(bus):
    with bus.run("newsroom", id="r"):
        research("tides")
        with bus.run("writer"):
            write("tides")
        crewbus.current_run().checkpoint("end")
    timeline = timeline_of(bus, "r")
    assert shape(timeline) == [
        "run newsroom finished",
        "  step research finished",
        "  run writer finished",
        "    step write finished",
        "      call gpt-5 finished",
        "  checkpoint end saved",
    ]
    call = next(row for row in timeline.rows() if row.kind == "call")
    assert (model_of(call), call.text.whole(), call.spent.cost, call.spent.input_tokens) == (
        "gpt-5",
        "Tides rise.",
        0.5,
        9,
    )
    assert (timeline.root.spent.output_tokens, timeline.root.spent.cost) == (2, 0.5)
    assert [row.result for row in timeline.rows() if row.kind == "step"] == ["about tides", "tides"]
    assert [row.label for row in call.path()] == ["newsroom", "writer", "write", "gpt-5"]


def test_a_run_can_be_seen_as_of_each_of_its_events(bus):
    with bus.run("newsroom", id="r"):
        research("tides")
        write("tides")
    whole = timeline_of(bus, "r")
    assert shape(timeline_of(bus, "r", 1)) == ["run newsroom open", "  step research open"]
    assert shape(timeline_of(bus, "r", 2)) == ["run newsroom open", "  step research finished"]
    for upto in range(whole.last + 1):
        part = timeline_of(bus, "r", upto)
        assert part.last == upto
        assert {row.seq for row in part.rows()} == {row.seq for row in whole.rows() if row.seq <= upto}
    texts = [sum(row.text.characters for row in timeline_of(bus, "r", upto).rows()) for upto in range(4, 8)]
    assert texts == sorted(texts)
    assert texts[-1] == len("Tides rise.")


def test_a_timeline_that_grows_is_the_one_that_was_read_at_once(bus):
    with bus.run("newsroom", id="r"):
        research("tides")
        write("tides")
    record = bus.record_of("r")
    grown = Timeline(record.decoded)
    for stored in record.stored():
        grown.add(stored)
        assert shape(grown) == shape(timeline_of(bus, "r", stored.seq))


def test_what_a_failed_attempt_streamed_is_kept_as_retracted(bus):
    with bus.run("newsroom", id="r") as run, bus.call("gpt-5"):
        with contextlib.suppress(ValueError), run.attempt():
            bus.chunk("wrong")
            raise ValueError("no")
        with run.attempt():
            bus.chunk("right")
    timeline = timeline_of(bus, "r")
    tries = [row for row in timeline.rows() if row.kind == "attempt"]
    assert [(row.label, row.state) for row in tries] == [("attempt 1", "retracted"), ("attempt 2", "finished")]
    assert [[(one.text, one.is_retracted) for one in row.text.passages(99)] for row in tries] == [
        [("wrong", True)],
        [("right", False)],
    ]


def test_an_error_is_located_where_it_began(bus):
    @crewbus.step
    def search():
        with crewbus.current_bus().call("tool"):
            raise TimeoutError("no answer")

    with pytest.raises(TimeoutError), bus.run("newsroom", id="r"), bus.run("researcher"):
        search()
    timeline = timeline_of(bus, "r")
    assert [row.label for row in timeline.culprit.path()] == ["newsroom", "researcher", "search", "tool"]
    assert timeline.culprit.error == "TimeoutError: no answer"


def test_a_run_that_succeeded_has_no_culprit(bus):
    with bus.run(id="r"):
        with contextlib.suppress(ValueError), bus.call("tool"):
            raise ValueError("handled")
    assert timeline_of(bus, "r").culprit is None


def test_a_resumed_run_shows_what_was_interrupted_and_the_tries(bus):
    failing = [ValueError("first"), None]

    @crewbus.step
    def flaky():
        error = failing.pop(0)
        if error is not None:
            raise error
        return "ok"

    def work():
        research("tides")
        flaky()

    with pytest.raises(ValueError, match="first"), bus.run("newsroom", id="r"):
        work()
    with bus.resume("r"):
        work()
    timeline = timeline_of(bus, "r")
    assert [(row.label, row.state) for row in timeline.rows()] == [
        ("newsroom", "finished"),
        ("research", "finished"),
        ("flaky", "failed"),
        ("flaky", "finished"),
    ]
    assert [row.attempt for row in timeline.rows() if row.label == "flaky"] == [1, 2]
    assert [change.what for change in timeline.changes] == ["resumed"]


def test_what_a_resume_from_a_checkpoint_discards_is_void(bus):
    def work(fails):
        research("one")
        crewbus.current_run().checkpoint("middle")
        research("two")
        if fails:
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"), bus.run("newsroom", id="r"):
        work(fails=True)
    with bus.resume("r", "middle"):
        work(fails=False)
    states = [(row.name, row.state, row.attempt) for row in timeline_of(bus, "r").rows()]
    assert states == [
        ("newsroom", "finished", 1),
        ("research", "finished", 1),
        ("middle", "saved", 1),
        ("research", "void", 1),
        ("research", "finished", 1),
    ]


def test_a_fork_shows_the_edited_step(bus):
    with bus.run("newsroom", id="r"):
        research("tides")
        write("tides")
    step = next(row for row in timeline_of(bus, "r").rows() if row.name == "research")
    fork = bus.fork("r", edits={step.step_name: "something else"})
    timeline = timeline_of(bus, fork)
    assert [(row.name, row.result, row.is_edited) for row in timeline.rows() if row.kind == "step"] == [
        ("research", "about tides", False),
        ("research", "something else", True),
    ]
    assert [change.what for change in timeline.changes] == ["forked"]


def test_an_event_that_cant_be_decoded_is_counted(bus):
    def decode(stored):
        raise crewbus.DecodeError("hostile")

    with bus.run("newsroom", id="r"):
        research("tides")
    timeline = Timeline.read(decode, bus.record_of("r").stored(), sys.maxsize)
    assert (timeline.unreadable, timeline.root) == (4, None)


# Streamed text


def test_passages_are_bounded_and_say_what_they_leave_out():
    text = StreamedText()
    for number in range(10):
        text.add(number, "x" * 1_000_000, "text")
    text.add(10, "thought", "reasoning")
    last, thought = text.passages(100)
    assert (len(last.text), last.left_out, thought.text) == (93, 9_999_907, "thought")
    text.retract(5)
    assert (text.characters, text.retracted, text.chunks, len(text.whole())) == (5_000_000, 6, 11, 5_000_000)


# Folding


def test_equal_steps_are_folded_and_unfolded_page_by_page(bus):
    with bus.run("newsroom", id="r"):
        for number in range(250):
            research(number)
        write("tides")
    top = timeline_of(bus, "r").root
    shown = [line for _, line in lines(top)]
    assert [line.label for line in shown] == ["newsroom", "research, 250 times", "write", "gpt-5"]
    fold = shown[1]
    assert isinstance(fold, Fold)
    opened = {fold.seq}
    shown = [line for _, line in lines(top, opened)]
    assert len(shown) < 2 * SHOWN + 10
    opened |= {line.seq for line in shown if isinstance(line, Fold)}
    shown = [line for _, line in lines(top, opened)]
    opened |= {line.seq for line in shown if isinstance(line, Fold)}
    labels = [line.label for _, line in lines(top, opened)]
    assert labels == ["newsroom", *["research"] * 250, "write", "gpt-5"]


def test_what_differs_is_not_folded(bus):
    with bus.run("newsroom", id="r"):
        for number in range(6):
            research(number)
            if number == 2:
                with contextlib.suppress(ValueError), bus.call("tool"):
                    raise ValueError("odd one")
    labels = [line.label for _, line in lines(timeline_of(bus, "r").root)]
    assert labels == ["newsroom", *["research"] * 3, "tool", *["research"] * 3]


def test_a_long_scope_is_cut_however_its_rows_differ(bus):
    with bus.run("newsroom", id="r"):
        for number in range(300):
            with bus.call(f"tool {number}"):
                pass
    top = timeline_of(bus, "r").root
    shown = [line for _, line in lines(top)]
    assert (len(shown), shown[-1].label) == (SHOWN + 2, "200 more")
    assert len([*lines(top, {shown[-1].seq})]) == 2 * SHOWN + 2


# Events


def test_a_window_of_events_reads_no_more_than_it_shows(bus):
    with bus.run("newsroom", id="r"):
        for number in range(3 * WINDOW):
            bus.chunk(str(number))
    record = bus.record_of("r")
    window = event_window(record, WINDOW, 3 * WINDOW + 1)
    assert (window.lines[0].seq, len(window.lines), window.before, window.after) == (WINDOW, WINDOW, 0, 2 * WINDOW)
    last = event_window(record, 9999, 3 * WINDOW + 1)
    assert ([line.name for line in last.lines], last.after) == (["RunFinished"], None)
    assert event_window(record, -5, 3 * WINDOW + 1).before is None


def test_an_event_is_one_line_whatever_it_holds(bus):
    with bus.run("newsroom", id="r"):
        bus.chunk("<script>\u202e" + "x" * 1_000_000)
    line = event_line(bus.store.event("r", 1))
    assert len(line.fields) <= 300
    assert "\u202e" not in line.fields
    not_json = crewbus.StoredEvent("r", 1, None, 0.0, None, 1, "odd", 1, b"\xff\x00")
    assert event_line(not_json).fields == 'data="\\\\xff\\u0000"'


# Comparison


def test_two_runs_are_compared_from_their_first_difference(bus):
    for run_id, topic in (("a", "tides"), ("b", "moons"), ("c", "tides")):
        with bus.run("newsroom", id=run_id):
            with bus.call("search"):
                bus.chunk("same")
                bus.chunk(topic)
    found = compare(bus, "a", "b")
    assert found.scope == ["run", "call search"]
    assert [(one.name, one.one, one.other) for one in found.fields if one.differs] == [("text", "tides", "moons")]
    assert [side.following[0].seq for side in (found.one, found.other)] == [3, 3]
    assert compare(bus, "a", "c").is_equal


def test_a_run_that_ends_earlier_differs_by_what_it_lacks(bus):
    for run_id, count in (("a", 1), ("b", 2)):
        with bus.run("newsroom", id=run_id), bus.call("search"):
            for _ in range(count):
                bus.chunk("x")
    found = compare(bus, "a", "b")
    assert not found.is_equal
    assert any(field.differs for field in found.fields)


# The fleet and the store


def test_the_fleet_shows_queues_and_holders(bus):
    @workflow(name="page-fleet", version=3)
    def fleet():
        return None

    queued = enqueue(bus, fleet, queue="slow")
    later = enqueue(bus, fleet, queue="slow", delay=3600)
    with bus.run("mine", id="live"):
        found = survey(bus)
    assert found.counts == {"queued": 2, "running": 1}
    assert (found.queues["slow"].waiting, found.queues["slow"].later) == (1, 1)
    [holder] = found.holders.values()
    assert ([held.id for held in holder.runs], holder.versions) == (["live"], {"mine": 1})
    assert {queued, later}.isdisjoint(held.id for held in found.stuck + found.interrupted)


def test_the_fleet_names_what_another_worker_takes_next(bus):
    with contextlib.suppress(crewbus.Suspended, crewbus.RunSuspendedError), bus.run("deployed", id="r") as run:
        run.suspend("deploy")
        run.check()
    assert survey(bus).counts == {"suspended": 1}


def test_a_store_is_measured_and_a_prune_tried(bus):
    for number in range(3):
        with bus.run(id=f"run-{number}"):
            pass
    found = measure(bus)
    assert (found.runs, found.events, found.states["finished"]) == (3, 6, 3)
    tried = try_prune(bus, Prune.parse({"keep": "1"}))
    assert (tried.count, [info.id for info in tried.runs]) == (2, ["run-1", "run-0"])
    assert measure(bus).runs == 3
    assert Prune("1").run(bus, dry_run=False) == ["run-1", "run-0"]


@pytest.mark.parametrize("prune", [Prune("-1"), Prune("1.5"), Prune("9" * 4000), Prune(older_than="soon")])
def test_a_prune_that_cant_be_meant_is_refused(bus, prune):
    with pytest.raises(crewbus.InputError):
        prune.run(bus, dry_run=True)


def test_a_worker_executes_what_the_page_lists(bus):
    @workflow(name="page-listed")
    def listed():
        return research("tides")

    run_id = enqueue(bus, listed)
    with worker(bus):
        assert bus.result(run_id, timeout=60) == "about tides"
    assert run_page(bus, RunQuery(tags={"crewbus.workflow": "page-listed@1"})).runs[0].state == "finished"
