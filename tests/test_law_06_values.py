"""Law 6 of durable runs: values come back as they were given, equal in value and type, or are refused by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
import uuid
from zoneinfo import ZoneInfo

import attrs
import pytest
from helpers import quiet_bus

import crewbus
from crewbus.records import read_export

NOON = dt.datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Zurich"))
FOLDED = dt.datetime(2026, 10, 25, 2, 30, fold=1)  # noqa: DTZ001 - a local time


class Crash(BaseException):
    """What ends a run in the middle."""


class Phase(enum.StrEnum):
    READY = "ready"


class Pair(typing.NamedTuple):
    one: int
    other: int


@crewbus.event(name="tests.law_06.Answer")
class Answer:
    text: str
    title: str | None = None
    tokens: int = 0


@crewbus.register_entity
@dataclasses.dataclass
class Renamed:
    name: str

    def __post_init__(self):
        self.name += "x"


@crewbus.register_entity
@attrs.define
class Doubled:
    n: int = attrs.field(converter=lambda value: value * 2)


def holding(annotation, value):
    """An event whose only field has that annotation, and holds that value."""
    cls = type("Holding", (), {"__annotations__": {"x": annotation}, "__module__": __name__})
    return crewbus.event(cls)(value)


LIES = [
    (str, None),
    (str, 5),
    (str, ["a"]),
    (str, b"x"),
    (int, 1.7),
    (int, "12"),
    (int, True),
    (int, None),
    (list[str], ("a",)),
    (list[str], "abc"),
    (typing.Literal["info"], "error"),
    (set[str], ["a", "a"]),
    (dt.date, NOON),
    (dict[str, int], {"a": 1.9}),
    (dict[str, int], {1: 2}),
    (float, 1),
    (float, "1.5"),
    (float, None),
    (int | str, 1.5),
    (bool, "no"),
    (bool, 0),
    (str | None, 7),
    (bytes, "text"),
    (dt.datetime, NOON),
    (dt.datetime, FOLDED),
]
TRUTHS = [
    (str, "a"),
    (str, "a\ud83d"),
    (int, 3),
    (list[str], ["a"]),
    (typing.Literal["info"], "info"),
    (dict[str, int], {"a": 1}),
    (str | None, None),
    (float, 1.5),
    (float, -0.0),
    (bool, True),
    (bytes, b"\xff"),
    (dt.date, dt.date(2026, 1, 1)),
    (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    (set[int], {1, 2}),
    (uuid.UUID, uuid.UUID(int=1)),
    (Phase, Phase.READY),
    (typing.Any, {"a": [1, None, True, 1.5]}),
]


@pytest.mark.parametrize(("annotation", "value"), LIES)
def test_law_06_a_field_that_holds_what_its_annotation_does_not_say_is_refused_by_its_name(annotation, value):
    with quiet_bus() as bus, bus.run(record=True):
        with pytest.raises(crewbus.UnserializableError, match="'x'"):
            bus.emit(holding(annotation, value))


@pytest.mark.parametrize(("annotation", "value"), TRUTHS)
def test_law_06_a_field_comes_back_equal_in_value_and_type(annotation, value):
    event = holding(annotation, value)
    with quiet_bus() as bus:
        with bus.run(id="run", record=True):
            bus.emit(event)
        back = next(one.event for one in bus.record_of("run") if type(one.event) is type(event))
    assert (type(back.x), repr(back.x)) == (type(value), repr(value))


def resumed(function):
    """What a step returns first, and when its run is resumed."""
    with quiet_bus() as bus:
        try:
            with bus.run(id="run", record=True) as run:
                first = run.step("step", function)
                raise Crash
        except Crash:
            pass
        with bus.resume("run") as run:
            return first, run.step("step", function)


def returning(annotation, value):
    def step():
        return value

    step.__annotations__["return"] = annotation
    return step


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.Any, Answer("hi")),
        (list[Answer], [Answer("x", "t")]),
        (collections.deque[int], collections.deque([1, 2])),
        (collections.OrderedDict[str, int], collections.OrderedDict(a=1)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=1)),
        (list[uuid.UUID], [uuid.UUID(int=1)]),
        (tuple[int, ...], (1,)),
        (dict[int, str], {1: "a"}),
        (typing.Any, "half an emoji \ud83d"),
        (typing.Any, {"\ud800": 1}),
    ],
)
def test_law_06_a_result_comes_back_equal_in_value_and_type(annotation, value):
    first, second = resumed(returning(annotation, value))
    assert (type(second), repr(second)) == (type(first), repr(first))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.Any, Answer("hi", tokens=1.9)),
        (typing.Any, Renamed("a")),
        (typing.Any, Doubled(3)),
        (dt.datetime, NOON),
        (dt.datetime, FOLDED),
        (list[dt.datetime], [NOON]),
        (collections.deque[int], collections.deque([1, 2], maxlen=2)),
        (typing.Any, (1,)),
        (typing.Any, Pair(1, 2)),
        (dict[str, typing.Any], {"a": (1,)}),
    ],
)
def test_law_06_a_result_that_would_come_back_as_another_is_refused(annotation, value):
    with quiet_bus() as bus, pytest.raises(crewbus.UnserializableError):
        with bus.run(record=True) as run:
            run.step("step", returning(annotation, value))


def test_law_06_a_pydantic_like_model_needs_no_registration_where_its_type_is_annotated():
    class Model:
        def __init__(self, name):
            self.name = name

        def __eq__(self, other):
            return type(other) is Model and other.name == self.name

        __hash__ = None

        def model_dump(self, mode):
            return {"name": self.name, "mode": mode}

        @classmethod
        def model_validate(cls, data):
            return cls(data["name"])

    assert resumed(returning(list[Model], [Model("a")]))[1] == [Model("a")]


def test_law_06_a_registered_type_is_written_by_its_functions_at_any_depth():
    class Point:
        def __init__(self, x):
            self.x = x

        def __eq__(self, other):
            return type(other) is Point and other.x == self.x

        __hash__ = None

    crewbus.register_entity(Point, name="tests.law_06.Point", unstructure=lambda one: one.x, structure=Point)
    assert resumed(returning(dict[str, list[Point]], {"a": [Point(1)]}))[1] == {"a": [Point(1)]}


def test_law_06_a_result_is_not_read_as_another_type_when_the_annotation_has_changed():
    with quiet_bus() as bus:
        with pytest.raises(Crash), bus.run(id="run", record=True) as run:
            run.step("step", returning(set[str], {"a"}))
            raise Crash
        with pytest.raises(crewbus.DecodeError, match=r"set\[str\].*list\[str\]"), bus.resume("run") as run:
            run.step("step", returning(list[str], ["a"]))


DAY = dt.date(2027, 2, 2)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"when": "2027-02-02"}, (DAY, Answer("hi"))),
        ({"when": DAY}, (DAY, Answer("hi"))),
        ({"ask": {"text": "edited"}}, (dt.date(2026, 1, 1), Answer("edited"))),
        ({"ask": Answer("edited")}, (dt.date(2026, 1, 1), Answer("edited"))),
        ({"when": 5}, None),
        ({"ask": {"words": "edited"}}, None),
        ({"when": {1, 2}}, None),
    ],
)
def test_law_06_an_edit_keeps_the_recorded_type(edits, expected):
    def agent(run):
        when = run.step("when", returning(dt.date, dt.date(2026, 1, 1)))
        return when, run.step("ask", returning(Answer, Answer("hi")))

    with quiet_bus() as bus:
        with bus.run(id="run", record=True) as run:
            agent(run)
        if expected is None:
            with pytest.raises(crewbus.CrewbusError):
                with bus.resume(bus.fork("run", edits=edits)) as run:
                    agent(run)
        else:
            with bus.resume(bus.fork("run", edits=edits)) as run:
                assert agent(run) == expected


def test_law_06_an_export_is_json_for_every_reader_and_loses_nothing(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    with quiet_bus() as bus:
        with bus.run(id="run", record=True) as run:
            run.step("loss", lambda: {"loss": float("inf"), "score": float("nan")})
        bus.export("run", tmp_path / "run.jsonl")
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    data = [one.data for one in read_export(tmp_path / "run.jsonl").events if one.name == "crewbus.StepFinished"]
    assert data == [b'{"name":"loss","result":{"loss":Infinity,"score":NaN},"type":null,"version":0}']
