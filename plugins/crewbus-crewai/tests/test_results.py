"""Results: as a record holds them, and as they were."""

from __future__ import annotations

import json
from types import SimpleNamespace

import crewai
import pytest
from crewai.tools import tool
from crews import installed
from pydantic import BaseModel
from scripted import Scripted

import crewbus
from crewbus_crewai._results import CALLS, LOST, Result


class Verdict(BaseModel):
    fine: bool


def through(value, model=None):
    """A result as it comes back from a record."""
    return Result.kept(json.loads(json.dumps(Result.of(value, model).recorded)))


@pytest.mark.parametrize("value", ["text", "", None, True, 1.5, [1, {"a": [None]}], {"a": "b"}, {"value": 1}])
def test_what_json_holds_comes_back(value):
    assert through(value).restored() == value
    assert Result.of(value).recorded == value  # as it is, so that edits of a fork are


@pytest.mark.parametrize("value", [("a",), {1: "a"}, {"a"}, object(), [object()], float("nan"), Verdict(fine=True)])
def test_what_would_not_come_back_is_lost(value):
    assert through(value).kind == LOST


def test_what_was_asked_for_comes_back_as_the_model():
    assert through(Verdict(fine=True), Verdict).restored(Verdict) == Verdict(fine=True)


def test_tool_calls_come_back_as_dictionaries():
    call = SimpleNamespace(id="c1", function=SimpleNamespace(name="search", arguments='{"what": "tides"}'))
    kept = through([call])
    assert kept.kind == CALLS
    assert kept.restored() == [
        {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"what": "tides"}'}}
    ]


def test_a_kickoff_goes_on_behind_a_tool_call():
    class Calling(Scripted):
        def supports_function_calling(self):
            return True

    def crew(*script):
        @tool("search")
        def search(what: str) -> str:
            """Search."""
            used.append(what)
            return f"found {what}"

        llm = Calling(model="calling")
        llm._script = list(script)
        agent = crewai.Agent(role="writer", goal="to write", backstory="It wrote.", llm=llm, tools=[search])
        return crewai.Crew(
            name="calling", agents=[agent], tasks=[crewai.Task(description="it", expected_output="it", agent=agent)]
        )

    class Cut(BaseException):
        pass

    used = []
    call = SimpleNamespace(id="c1", function=SimpleNamespace(name="search", arguments='{"what": "tides"}'))
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(Cut):
            crew([call], Cut()).kickoff()
        with bus.resume(bus.store.roots()[0]):
            assert crew("done").kickoff().raw == "done"
    assert used == ["tides"]
