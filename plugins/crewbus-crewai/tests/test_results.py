"""Results: converted to JSON for a record, and back."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import sys
from types import SimpleNamespace

import crewai
import pytest
from crewai.tools import BaseTool, tool
from crews import installed
from pydantic import BaseModel, ConfigDict, Field
from scripted import Scripted

import crewbus
from crewbus_crewai.patched.results import CALLS, LOST, MARK, PARTS, Result


class Verdict(BaseModel):
    fine: bool


class Strict(BaseModel):
    """Takes neither its own names, nor text for a date from Python."""

    model_config = ConfigDict(strict=True, extra="forbid")
    day: dt.date = Field(alias="on")


class OneWay(BaseModel):
    """Does not take what it gives."""

    day: str = Field(validation_alias="on", serialization_alias="at")


def through(value, model=None):
    """A result as it comes back from a record."""
    return Result.kept(json.loads(json.dumps(Result.of(value, model).recorded)))


MARKED = {MARK: "model", "value": "x"}
"""A foreign dictionary that looks like ours."""


@pytest.mark.parametrize("value", ["text", "", None, True, 1.5, [1, {"a": [None]}], {"a": "b"}, {"value": 1}, MARKED])
def test_json_values_are_restored(value):
    assert through(value).restored() == value
    assert value is MARKED or Result.of(value).recorded == value  # as it is, so that edits of a fork are


class Shy:
    def __repr__(self):
        raise ValueError("no")


class Odd:
    def __repr__(self):
        return CUT


CUT = "half of a \ud800"
CIRCLE = {}
CIRCLE["itself"] = CIRCLE
DEEP = []
for _ in range(300):
    DEEP = [DEEP]
LOSSES = [
    *(("a",), {1: "a"}, {"a"}, object(), [object()], float("nan"), float("inf"), Verdict(fine=True), b"bytes"),
    *(CUT, [CUT], {CUT: 1}, CIRCLE, DEEP, 1 << 14_001, Shy(), Odd()),
]


@pytest.mark.parametrize("value", LOSSES, ids=range(len(LOSSES)))
def test_values_that_json_does_not_preserve_are_lost(value):
    kept = through(value)
    assert kept.kind == LOST
    assert kept.shown.encode()


@pytest.mark.parametrize("value", [Verdict(fine=True), Strict(on=dt.date(2026, 1, 2))])
def test_a_requested_model_is_restored(value):
    assert through(value, type(value)).restored(type(value)) == value


def test_a_model_that_cannot_read_its_own_json_is_lost():
    assert through(OneWay(on="monday"), OneWay).kind == LOST


def test_tool_calls_are_restored_as_dictionaries():
    call = SimpleNamespace(id="c1", function=SimpleNamespace(name="search", arguments='{"what": "tides"}'))
    kept = through([call])
    assert kept.kind == CALLS
    assert kept.restored() == [
        {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"what": "tides"}'}}
    ]


# Tool calls, in kickoffs


class Calling(Scripted):
    def supports_function_calling(self):
        return True


class Cut(BaseException):
    pass


def searchers(used, *script):
    """A crew of two tasks, whose model calls a tool."""

    @tool("search")
    def search(what: str) -> str:
        """Search."""
        used.append(what)
        return f"found {what}"

    llm = Calling.of(*script)
    agent = crewai.Agent(role="writer", goal="to write", backstory="It wrote.", llm=llm, tools=[search])
    tasks = [crewai.Task(description=f"part {n}", expected_output="a text", agent=agent) for n in (1, 2)]
    return llm, crewai.Crew(name="searchers", agents=[agent], tasks=tasks)


class FunctionCall(BaseModel):
    name: str
    args: dict


class Part(BaseModel):
    """What Gemini's are like: crewAI knows them by their name."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    function_call: FunctionCall
    thought_signature: bytes | None = None


@pytest.fixture(params=["a stand-in", "google's"])
def gemini(request, monkeypatch):
    """Google's types, or what stands in for them where they are not installed."""
    if request.param == "google's":
        return pytest.importorskip("google.genai.types")
    made = SimpleNamespace(Part=Part, FunctionCall=FunctionCall)
    monkeypatch.setitem(sys.modules, "google.genai.types", made)
    return importlib.import_module("google.genai.types")


def part(types):
    made = types.FunctionCall(name="search", args={"what": "tides"})
    return types.Part(function_call=made, thought_signature=b"\xff\x00signed")


def test_geminis_tool_calls_are_restored_with_signatures(gemini):
    kept = through([part(gemini)])
    assert kept.kind == PARTS
    (restored,) = kept.restored()
    assert type(restored) is gemini.Part
    assert restored == part(gemini)


FUNCTION = {"name": "search", "arguments": '{"what": "tides"}'}
CALLS_BY_FORM = {
    "an object": lambda: SimpleNamespace(id="c1", function=SimpleNamespace(**FUNCTION)),
    "an object without id": lambda: SimpleNamespace(function=SimpleNamespace(**FUNCTION)),
    "an object with None": lambda: SimpleNamespace(id=None, function=SimpleNamespace(**FUNCTION)),
    "a dictionary": lambda: {"id": "c1", "function": FUNCTION},
    "a dictionary without id": lambda: {"function": dict(FUNCTION)},
    "Gemini's": lambda: Part(function_call=FunctionCall(name="search", args={"what": "tides"})),
}


@pytest.mark.parametrize("form", CALLS_BY_FORM)
def test_a_kickoff_resumes_after_a_tool_call_and_the_next_model_call(form):
    used = []
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        called = CALLS_BY_FORM[form]()  # which lives on, so that no other has its address
        with pytest.raises(Cut):
            searchers(used, [called], "one", Cut())[1].kickoff()
        llm, crew = searchers(used, "two")
        with bus.resume(bus.store.roots()[0]):
            assert [task.raw for task in crew.kickoff().tasks_output] == ["one", "two"]
    assert used == ["tides"]
    assert len(llm.asked) == 1


def test_a_resumed_kickoff_sends_geminis_signatures(gemini):
    class Signed(Calling):
        def call(self, messages, *args, **kwargs):
            seen.extend(one for message in messages for one in message.get("raw_tool_call_parts", ()))
            return super().call(messages)

    seen, used = [], []
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(Cut):
            searchers(used, [part(gemini)], Cut())[1].kickoff()
        llm, crew = searchers(used, "one", "two")
        llm.__class__ = Signed
        with bus.resume(bus.store.roots()[0]):
            crew.kickoff()
    assert seen[0] == part(gemini)
    assert used == ["tides"]


def cut(work):
    """Do this, and no more."""
    work()
    raise Cut


# Odd tools


class Echo(BaseTool):
    """Gives what it is given."""

    name: str = "echo"
    description: str = "Gives what it is given."

    def _run(self, what=None):
        times.append(what)
        return what


times = []


@pytest.mark.parametrize("value", [CIRCLE, CUT, DEEP, 10**5000, Shy()], ids=range(5))
def test_a_tool_that_works_without_recording_works_with_it(value):
    def use():
        return Echo().run(what=value)

    times.clear()
    plain = use()
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(Cut), bus.run("odd"):
            cut(use)
        with bus.resume(bus.store.roots()[0]):
            assert type(use()) is type(plain)
    assert len(times) == 3  # what does not come back from a record is asked for again


# Models that return what the call did not ask for


class Formatted(Scripted):
    """Gives instances of its own format, as the native providers do."""

    response_format: type[BaseModel] | None = None


def test_a_model_with_a_response_format_is_not_called_again():
    def ask(*script):
        llm = Formatted.of(*script)
        llm.response_format = Verdict
        return llm.call("is it fine?")

    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        with pytest.raises(Cut), bus.run("asking"):
            cut(lambda: ask(Verdict(fine=True)))
        with bus.resume(bus.store.roots()[0]):
            assert ask() == Verdict(fine=True)
