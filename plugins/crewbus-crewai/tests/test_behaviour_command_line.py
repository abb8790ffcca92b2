"""crewAI's command line for checkpoints, as documented for 1.15, with and without the plugin."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest
from behaviour import answer, crew, crewai, listening
from behaviour_checkpoints import LOCATION, config, one_by_one, saved

pytest_plugins = ["behaviour_fixtures"]
pytestmark = [pytest.mark.usefixtures("either_way"), pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")]


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory of one's own, which the tests are in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoints():
    """Those of a crew of two tasks: one after each."""
    with one_by_one():
        crew("a", "b", checkpoint=config()).kickoff()
    return saved()


@pytest.fixture
def begun():
    """The checkpoint of a crew of two tasks that had just begun.

    Behind the first task crewAI 1.15.30 keeps the agent's executor too, which is a flow, and resumes that here.
    """
    with one_by_one():
        crew("a", "b", checkpoint=config(on_events=["crew_kickoff_started"])).kickoff()
    (only,) = saved()
    return only


def command(*arguments):
    """What ``crewai checkpoint`` prints."""
    from click.testing import CliRunner
    from crewai_cli.cli import crewai as crewai_cli

    result = CliRunner().invoke(crewai_cli, ["checkpoint", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_has_a_line_for_each(checkpoints):
    head, *lines = command("list", LOCATION).strip().splitlines()
    assert head == f"Found 2 checkpoint(s) in {LOCATION}"
    newest, oldest = [line.split() for line in lines if line]
    for checkpoint, line, done in zip(checkpoints, (oldest, newest), (1, 2), strict=True):
        assert line[0] == Path(checkpoint.path).name
        assert "task_completed" in line
        assert f"crew:a+b [{done}/2 tasks]" in " ".join(line)


def test_list_says_where_there_are_none():
    Path("empty").mkdir()
    assert command("list", "empty") == "No checkpoints found in empty\n"
    assert command("list", "nowhere") == "Not a directory or SQLite database: nowhere\n"


def test_info_shows_one_or_the_latest(checkpoints):
    first, second = checkpoints
    shown = command("info", first.path)
    for line in (f"Source:  {first.path}", f"Events:  {len(first.events)}", "Trigger: task_completed", "Branch:  main"):
        assert line in shown.splitlines()
    assert "Tasks: 1/2 completed" in shown
    assert "1. [done] RUN=a" in shown
    assert "2. [pending] RUN=b" in shown
    shown = command("info", LOCATION)
    assert f"Latest checkpoint: {Path(second.path).name}" in shown
    assert f"Parent:  {first.id}" in shown
    assert "Tasks: 2/2 completed" in shown
    assert command("info", "nowhere.json") == "Not found: nowhere.json\n"


def test_the_default_folder_is_searched():
    with one_by_one():
        crew("a", checkpoint=True).kickoff()
    assert "Found 1 checkpoint(s) in ./.checkpoints" in command("list")
    assert "Tasks: 1/1 completed" in command("info")


def test_resume_continues(begun):
    for chosen in ([], [begun.id]):
        with listening(crewai().LLMCallStartedEvent) as asked:
            shown = command("--location", LOCATION, "resume", *chosen)
        assert f"Resuming from: {Path(begun.path).name}" in shown
        assert shown.rstrip().endswith(f"Result: {answer('b')}")
        assert len(asked) == 2
    assert command("--location", LOCATION, "resume", "missing") == "Checkpoint not found: missing\n"


def test_diff_shows_the_work_between_two_checkpoints(checkpoints):
    first, second = checkpoints
    lines = [line.strip() for line in command("--location", LOCATION, "diff", first.id, second.id).splitlines()]
    assert lines[:2] == [f"--- {Path(first.path).name}", f"+++ {Path(second.path).name}"]
    assert lines[lines.index("Events:") :][1:3] == [f"- {len(first.events)}", f"+ {len(second.events)}"]
    assert "status: pending -> done" in lines
    assert f"+ {answer('b')}" in lines


def test_prune_drops_the_oldest(checkpoints):
    _, second = checkpoints
    assert command("--location", LOCATION, "prune", "--keep", "1", "--dry-run").startswith("Would prune from 2")
    assert len(saved()) == 2
    assert command("--location", LOCATION, "prune", "--older-than", "1h") == f"Pruned 0 checkpoint(s) from {LOCATION}\n"
    assert command("--location", LOCATION, "prune", "--keep", "1") == f"Pruned 1 checkpoint(s) from {LOCATION}\n"
    assert [one.id for one in saved()] == [second.id]


@pytest.mark.parametrize(("key", "word"), [("e", "Resuming"), ("f", "Forking")])
def test_the_browser_resumes_and_forks(begun, monkeypatch, key, word):
    from crewai_cli.checkpoint_tui import CheckpointTUI

    async def choose(pilot):
        await pilot.press("down", "down")  # from the branch to the checkpoint in it
        await pilot.press(key)

    headless = partialmethod(CheckpointTUI.run_async, headless=True, size=(120, 40), auto_pilot=choose)
    monkeypatch.setattr(CheckpointTUI, "run_async", headless)
    with listening(crewai().CheckpointForkCompletedEvent) as forks:
        shown = command("--location", LOCATION)
    assert f"{word} from: {begun.path}" in shown
    assert shown.rstrip().endswith(f"Result: {answer('b')}")
    assert [event.parent_checkpoint_id for event in forks] == ([begun.id] if key == "f" else [])
