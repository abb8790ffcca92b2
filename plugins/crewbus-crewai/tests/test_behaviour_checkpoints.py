"""crewAI's documented checkpoints, with and without the plugin."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from behaviour import agent, answer, crew, crewai, listening
from behaviour_checkpoints import LOCATION, config, one_by_one, saved

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory of one's own, which the tests are in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpointed(*tags, **options):
    """The checkpoints of a crew that was kicked off, one after each task."""
    with one_by_one():
        crew(*tags, checkpoint=config(), **options).kickoff()
    return saved()


def calls():
    """A concurrent call of a model."""
    return listening(crewai().LLMCallStartedEvent)


# Writing


def test_true_writes_a_checkpoint_after_each_task_to_the_default_folder():
    with one_by_one():
        crew("a", "b", checkpoint=True).kickoff()
    first, second = saved(".checkpoints")
    assert Path(first.path).parent == Path(".checkpoints/main")
    assert (first.outputs, second.outputs) == ([answer("a"), None], [answer("a"), answer("b")])
    assert (first.parent, second.parent) == ("none", first.id)
    assert (first.branch, first.data["trigger"]) == ("main", "task_completed")


def test_without_a_config_no_checkpoint_is_written():
    crew("a").kickoff()
    assert not Path(".checkpoints").exists()


def test_a_checkpoint_holds_the_events_until_then():
    first, second = checkpointed("a", "b")
    for kind in ("crew_kickoff_started", "task_started", "agent_execution_started", "llm_call_completed"):
        assert kind in first.events
    assert first.events.count("task_completed") == 1
    assert second.events.count("task_completed") == 2
    assert second.events[: len(first.events)] == first.events


@pytest.mark.parametrize(
    ("on_events", "triggers"),
    [
        (["crew_kickoff_completed"], ["crew_kickoff_completed"]),
        (["task_started", "crew_kickoff_completed"], ["crew_kickoff_completed", "task_started", "task_started"]),
    ],
)
def test_the_configured_events_trigger_checkpoints(on_events, triggers):
    with one_by_one():
        crew("a", "b", checkpoint=config(on_events=on_events)).kickoff()
    assert sorted(one.data["trigger"] for one in saved()) == triggers


def test_a_star_is_every_event_of_the_crew_its_tasks_and_agents():
    with one_by_one():
        crew("a", checkpoint=config(on_events=["*"])).kickoff()
    triggers = {one.data["trigger"] for one in saved()}
    assert {"crew_kickoff_started", "task_started", "agent_execution_completed", "crew_kickoff_completed"} <= triggers


def test_only_the_newest_are_kept():
    with one_by_one(), listening(crewai().CheckpointPrunedEvent) as pruned:
        crew("a", "b", "c", checkpoint=config(max_checkpoints=1)).kickoff()
    (last,) = saved()
    assert last.outputs == [answer("a"), answer("b"), answer("c")]
    assert [event.removed_count for event in pruned] == [0, 1, 1]


def test_an_agent_may_opt_out():
    made = crew("a", "b", checkpoint=config())
    made.agents[0].checkpoint = False
    with one_by_one():
        made.kickoff()
    (only,) = saved()
    assert only.outputs == [answer("a"), answer("b")]


def test_an_agent_may_opt_in():
    made = crew("a", "b")
    made.agents[0].checkpoint = config()
    with one_by_one():
        made.kickoff()
    (only,) = saved()
    assert only.data["trigger"] == "task_completed"


def test_listeners_receive_an_event_for_each_checkpoint():
    with one_by_one(), listening(crewai().CheckpointStartedEvent, crewai().CheckpointCompletedEvent) as heard:
        crew("a", checkpoint=config()).kickoff()
    (only,) = saved()
    by_type = {event.type: event for event in heard}
    started, completed = by_type["checkpoint_started"], by_type["checkpoint_completed"]
    assert (started.location, started.provider, started.trigger) == (LOCATION, "JsonProvider", "task_completed")
    assert (completed.location, completed.checkpoint_id, completed.branch) == (only.path, only.id, "main")
    assert completed.task_name == "a"


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_crew(directory):
    (directory / "file").write_text("not a directory")
    with listening(crewai().CheckpointFailedEvent) as failed, one_by_one():
        assert crew("a", checkpoint=config(location="file")).kickoff().raw == answer("a")
    (event,) = failed
    assert event.location == "file"
    assert event.error


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_may_write_one(kind):
    paths = []

    def write(source, event, state):
        paths.append(state.checkpoint(LOCATION))

    async def write_async(source, event, state):
        paths.append(await state.acheckpoint(LOCATION))

    with listening(crewai().LLMCallCompletedEvent, to=write if kind == "sync" else write_async), one_by_one():
        crew("a").kickoff()
    (only,) = saved()
    assert paths == [only.path]
    assert "llm_call_started" in only.events


def test_an_async_crew_writes_too():
    with one_by_one():
        asyncio.run(crew("a", "b", checkpoint=config()).akickoff())
    assert [one.outputs for one in saved()] == [[answer("a"), None], [answer("a"), answer("b")]]


def test_a_custom_provider_is_used():
    written = []

    class Counting(crewai().JsonProvider):
        def checkpoint(self, data, location, *, parent_id=None, branch="main"):
            written.append(parent_id)
            return super().checkpoint(data, location, parent_id=parent_id, branch=branch)

    with one_by_one():
        crew("a", "b", checkpoint=config(provider=Counting())).kickoff()
    first, _ = saved()
    assert written == [None, first.id]


# Resuming


def test_a_kickoff_from_a_checkpoint_skips_what_is_done():
    first, _, _ = checkpointed("a", "b", "c")
    with calls() as asked, one_by_one():
        output = crew("a", "b", "c").kickoff(from_checkpoint=config(restore_from=first.path, location="resumed"))
    assert [task.raw for task in output.tasks_output] == [answer("a"), answer("b"), answer("c")]
    assert [event.agent_role for event in asked] == ["writer of b", "writer of c"]
    second, third = saved("resumed")
    assert (second.parent, third.parent) == (first.id, second.id)
    assert second.outputs == [answer("a"), answer("b"), None]


def test_a_crew_is_restored_by_its_class():
    _, second, _ = checkpointed("a", "b", "c")
    restored = crewai().Crew.from_checkpoint(config(restore_from=second.path))
    with calls() as asked:
        assert restored.kickoff().raw == answer("c")
    assert [event.agent_role for event in asked] == ["writer of c"]


@pytest.mark.parametrize("method", ["kickoff_async", "akickoff"])
def test_a_crew_is_resumed_on_a_loop(method):
    first, _ = checkpointed("a", "b")

    async def main():
        return await getattr(crew("a", "b"), method)(from_checkpoint=config(restore_from=first.path))

    with calls() as asked:
        output = asyncio.run(main())
    assert [task.raw for task in output.tasks_output] == [answer("a"), answer("b")]
    assert len(asked) == 1


def test_a_failed_crew_continues_from_its_checkpoint():
    made = crew("a", "b", checkpoint=config())
    made.tasks[1].description += "FAIL=1"
    made.agents[1].llm.stream = True
    with one_by_one(), pytest.raises(Exception, match="peer closed connection"):
        made.kickoff()
    (only,) = saved()
    restored = crewai().Crew.from_checkpoint(config(restore_from=only.path))
    restored.tasks[1].description = "RUN=b"
    with calls() as asked:
        output = restored.kickoff()
    assert [task.raw for task in output.tasks_output] == [answer("a"), answer("b")]
    assert len(asked) == 1


def test_inputs_are_restored():
    with one_by_one():
        crew("{x}", "{y}", checkpoint=config()).kickoff(inputs={"x": "tides", "y": "moons"})
    first, _ = saved()
    restored = crewai().Crew.from_checkpoint(config(restore_from=first.path))
    assert restored.kickoff(inputs={"x": "tides", "y": "moons"}).raw == answer("moons")


def test_listeners_receive_an_event_for_a_restoration():
    first, _ = checkpointed("a", "b")
    kinds = [crewai().CheckpointRestoreStartedEvent, crewai().CheckpointRestoreCompletedEvent]
    with listening(*kinds, crewai().CheckpointRestoreFailedEvent) as heard:
        crewai().Crew.from_checkpoint(config(restore_from=first.path))
        with pytest.raises(FileNotFoundError):
            crewai().Crew.from_checkpoint(config(restore_from="nowhere.json"))
    by_type = {event.type: event for event in heard}
    completed = by_type["checkpoint_restore_completed"]
    assert (completed.location, completed.checkpoint_id, completed.branch) == (first.path, first.id, "main")
    assert by_type["checkpoint_restore_failed"].location == "nowhere.json"
    assert len(heard) == 4


def test_a_restored_state_has_the_events_of_the_checkpoint():
    first, _ = checkpointed("a", "b")
    state = crewai().RuntimeState.from_checkpoint(config(restore_from=first.path), context={"from_checkpoint": True})
    nodes = state.event_record.all_nodes()
    assert sorted(node.event.type for node in nodes) == sorted(first.events)
    (task,) = [node for node in nodes if node.event.type == "task_completed"]
    started = state.event_record.get(task.event.started_event_id).event
    assert (started.type, started.task_name) == ("task_started", "a")
    assert started.event_id in task.neighbors("started")


# Forking


def test_a_fork_has_a_branch_of_its_own():
    first, _, _ = checkpointed("a", "b", "c")
    kinds = [crewai().CheckpointForkStartedEvent, crewai().CheckpointForkCompletedEvent]
    with listening(*kinds) as heard:
        forked = crewai().Crew.fork(config(restore_from=first.path), branch="bolder")
    with calls() as asked, one_by_one():
        assert forked.kickoff().raw == answer("c")
    assert len(asked) == 2
    assert [(event.branch, event.parent_branch, event.parent_checkpoint_id) for event in heard] == 2 * [
        ("bolder", "main", first.id)
    ]
    old, new = saved(f"{LOCATION}/main"), saved(f"{LOCATION}/bolder")
    assert len(old) == 3
    assert [one.branch for one in new] == ["bolder", "bolder"]
    assert new[0].parent == first.id


def test_forks_without_a_name_do_not_collide():
    first, _ = checkpointed("a", "b")
    for _ in range(2):
        with one_by_one():
            crewai().Crew.fork(config(restore_from=first.path)).kickoff()
    branches = {one.branch for one in saved()} - {"main"}
    assert len(branches) == 2
    assert all(branch.startswith(f"fork/{first.id}") for branch in branches)


def test_a_branch_stays_inside_its_folder():
    first, _ = checkpointed("a", "b")
    forked = crewai().Crew.fork(config(restore_from=first.path), branch="../../away")
    with listening(crewai().CheckpointFailedEvent) as failed, one_by_one():
        forked.kickoff()
    (event,) = failed
    assert "escapes" in event.error
    assert len(saved()) == 2


# Flows and agents


def counting_flow(done):
    class Counting(crewai().Flow):
        @crewai().start()
        def one(self):
            done.append("one")
            self.state["count"] = 1
            return "first"

        @crewai().listen(one)
        def two(self, before):
            done.append("two")
            self.state["count"] += 1
            return f"{before} second"

        @crewai().listen(two)
        def three(self, before):
            done.append("three")
            self.state["count"] += 1
            return f"{before} third"

    return Counting


def checkpointed_flow():
    """A class of flows, and the checkpoints of one that was kicked off, one after each method."""
    kind = counting_flow([])
    with one_by_one():
        flow = kind(checkpoint=config(on_events=["method_execution_finished"]))
        assert flow.kickoff() == "first second third"
    found = saved()
    assert [len(one.entity["checkpoint_completed_methods"]) for one in found] == [1, 2, 3]
    return flow, found


def test_a_resumed_flow_skips_the_completed_methods():
    _, (first, second, _) = checkpointed_flow()
    for checkpoint, rest in ((first, ["two", "three"]), (second, ["three"])):
        done = []
        flow = counting_flow(done).from_checkpoint(config(restore_from=checkpoint.path))
        flow.kickoff()
        assert (done, flow.state["count"]) == (rest, 3)


def test_a_flow_is_resumed_by_its_kickoff():
    _, (first, _, _) = checkpointed_flow()
    done = []
    flow = counting_flow(done)()
    assert flow.kickoff(from_checkpoint=config(restore_from=first.path)) == "first second third"
    assert done == ["two", "three"]
    with pytest.raises(ValueError, match="Cannot combine"):
        flow.kickoff(from_checkpoint=config(), restore_from_state_id="x")


def test_a_forked_flow_has_its_own_id():
    flow, (_, second, _) = checkpointed_flow()
    forked = counting_flow([]).fork(config(restore_from=second.path), branch="other")
    assert forked.state["id"] != flow.state["id"]
    assert forked.state["count"] == 2
    assert forked.kickoff().endswith("third")


def test_an_agent_is_checkpointed_and_restored():
    made = agent(checkpoint=config(on_events=["lite_agent_execution_completed"]))
    with one_by_one():
        assert made.kickoff("RUN=a").raw == answer("a")
    only = saved()[0]
    assert only.data["trigger"] == "lite_agent_execution_completed"
    restored = crewai().Agent.from_checkpoint(config(restore_from=only.path))
    assert (restored.id, restored.role) == (made.id, "writer")
    forked = crewai().Agent.fork(config(restore_from=only.path), branch="other")
    assert forked.role == "writer"


# SQLite


def test_a_database_holds_checkpoints_to_resume_and_fork_from(either_way):
    if either_way is None and sqlite3.sqlite_version_info < (3, 45):
        pytest.skip(f"crewAI's SqliteProvider needs SQLite 3.45, not {sqlite3.sqlite_version}")
    database = "checkpoints.db"
    with one_by_one(), listening(crewai().CheckpointCompletedEvent) as heard:
        crew("a", "b", checkpoint=config(location=database, provider=crewai().SqliteProvider())).kickoff()
    first = min(heard, key=lambda event: event.emission_sequence)
    assert first.location == f"{database}#{first.checkpoint_id}"
    with calls() as asked:
        output = crew("a", "b").kickoff(from_checkpoint=config(restore_from=first.location))
        assert crewai().Crew.fork(config(restore_from=first.location)).kickoff().raw == answer("b")
    assert [task.raw for task in output.tasks_output] == [answer("a"), answer("b")]
    assert len(asked) == 2


def test_an_invalid_database_does_not_stop_the_crew(directory):
    (directory / "checkpoints.db").write_text("no database")
    with listening(crewai().CheckpointFailedEvent) as failed, one_by_one():
        made = crew("a", checkpoint=config(location="checkpoints.db", provider=crewai().SqliteProvider()))
        assert made.kickoff().raw == answer("a")
    (event,) = failed
    assert (event.provider, event.location) == ("SqliteProvider", "checkpoints.db")
