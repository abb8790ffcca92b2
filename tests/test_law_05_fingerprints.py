"""Law 5 of durable runs: arguments are identified by value and type, alike in every process, or refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import os
import pathlib
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from typing import Any, NamedTuple

import attrs
import pytest
from helpers import TIMEOUT
from hypothesis import given
from hypothesis import strategies as st
from recorded_helpers import found

import crewbus
from crewbus.serialization import canonical
from crewbus.serialization.fingerprint import OpaqueError


class Colour(enum.Enum):
    RED = 1
    CRIMSON = RED
    GREEN = 2


class Level(enum.IntEnum):
    RED = 1


class Might(enum.Flag):
    READ = 1
    WRITE = 2


class Name(str):
    pass


class Odd(str):
    def __str__(self) -> str:
        return "odd"


class Pair(NamedTuple):
    x: int
    y: int


class Crew(list[int]):
    pass


class Titled(dict[str, int]):
    title = ""

    def items(self) -> Any:
        raise ValueError("not now")


class Numbered(int):
    __slots__ = ()


@attrs.define
class Spot:
    x: int
    cache: object = attrs.field(default=None, eq=False)


@attrs.define(eq=False)
class Unequal:
    x: int


@dataclasses.dataclass
class Point:
    x: int
    lock: object = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class Listed(list[int]):
    x: int


@crewbus.event(name="tests.fingerprints.Seen")
class Seen:
    x: int


class Agent:
    def __init__(self, role: str) -> None:
        self.role = role

    def act(self) -> None: ...

    @classmethod
    def made(cls) -> None: ...


class Priced:
    def __init__(self, price: object) -> None:
        self.price = price


crewbus.register_entity(
    Priced, name="tests.fingerprints.Seen", structure=Priced, unstructure=lambda priced: priced.price
)


def titled(title: str) -> Titled:
    found = Titled(a=1)
    found.title = title
    return found


def function() -> None: ...


UTC, BERLIN = dt.UTC, zoneinfo.ZoneInfo("Europe/Berlin")
HOUR = dt.datetime(2026, 10, 25, 2, 30, tzinfo=UTC).replace(tzinfo=None)
DIFFERENT: list[Any] = [
    None, "None", True, 1, 1.0, "1", b"1", bytearray(b"1"), 1 + 0j, decimal.Decimal(1), fractions.Fraction(1),
    Numbered(1),
    False, 0, 0.0, -0.0, 0j, complex(-0.0, 0), complex(0, -0.0), float("nan"), float("inf"), decimal.Decimal("NaN"),
    decimal.Decimal("1.0"), 10**20, 1e20, 2**14001, ["int", hex(2**14001)], ("int", hex(2**14001)), 2**14001 + 1,
    (), [], {}, set(), frozenset(), collections.deque(), collections.deque(maxlen=1), collections.OrderedDict(),
    collections.defaultdict(list), collections.defaultdict(dict), types.MappingProxyType({}), types.SimpleNamespace(),
    (1, 2), [1, 2], {1, 2}, frozenset({1, 2}), {1: 2}, [[1, 2]], [(1, 2)], Pair(1, 2), Crew([1, 2]), [2, 1], range(1,
    2),
    slice(1, 2), collections.deque([1, 2]), {True: 2}, {1.0: 2}, {"1": 2}, {"a": 1}, [["a", 1]], ["dict", ["a", 1]],
    titled(""), titled("x"), collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1),
    b"ab", ["bytes", "6162"], "ab", Name("ab"), Odd("ab"), Name("odd"), "odd", "\ud83d\ude00", "\U0001f600", "\ud800",
    Colour.RED, Colour.GREEN, Level.RED, Might.READ, Might.READ | Might.WRITE, Might(0), "RED", ["enum", "Colour",
    "RED"],
    Spot(1), Unequal(1), Point(1), Seen(1), Priced(1), Priced([1]), Listed(1), {"x": 1},
    pathlib.PurePosixPath("x"), pathlib.PureWindowsPath("x"), pathlib.Path("x"), "x", ["PurePosixPath", "x"],
    dt.date(2026, 10, 25), HOUR.replace(hour=0, minute=0), dt.time(2), dt.time(2, fold=1), dt.time(2, tzinfo=UTC),
    "2026-10-25",
    HOUR, HOUR.replace(fold=1), HOUR.replace(tzinfo=UTC), HOUR.replace(tzinfo=BERLIN), HOUR.replace(fold=1,
    tzinfo=BERLIN),
    HOUR.replace(tzinfo=dt.timezone(dt.timedelta(0), "Z")), HOUR.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    dt.timedelta(1), dt.timedelta(hours=1), UTC, BERLIN, uuid.UUID(int=1), str(uuid.UUID(int=1)),
    len, sum, function, canonical, Agent, Spot, int, str.upper, "a".upper, "b".upper, list[int], list[str],
    int | None,
    Agent.made, functools.partial(function), functools.partial(function, 1), functools.partial(function, x=1),
    Spot(1).__eq__, json, types, ..., ValueError(), ValueError(1), KeyError(1), OSError(1, "x"),
    OSError(1, "x", "file"),
]  # fmt: skip


def form(value: Any) -> str:
    return json.dumps(canonical(value), ensure_ascii=False)


def test_law_05_values_that_differ_in_value_or_type_have_different_fingerprints() -> None:
    forms: dict[str, Any] = {}
    for value in DIFFERENT:
        assert form(value) not in forms, (value, forms[form(value)])
        forms[form(value)] = value


SAME: dict[str, tuple[Any, Any]] = {
    "dicts in another order": ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
    "sets in another order": ({"x", "y", None, 1}, {1, None, "y", "x"}),
    "surrogates in a set": ({"\ud83d\ude00", "\U0001f600"}, {"\U0001f600", "\ud83d\ude00"}),
    "an alias of a member": (Colour.RED, Colour.CRIMSON),
    "fields that do not count": (Spot(1, object()), Spot(1, [])),
    "and of a dataclass": (Point(1, threading.Lock()), Point(1)),
    "methods of equal objects": (Spot(1).__repr__, Spot(1).__repr__),
    "nan": ([float("nan")], [float("nan")]),
    "exceptions": (ValueError("x", [1]), ValueError("x", [1])),
    "zones": (zoneinfo.ZoneInfo.no_cache("Europe/Berlin"), BERLIN),
}


@pytest.mark.parametrize("what", SAME)
def test_law_05_equal_values_have_the_same_fingerprint(what: str) -> None:
    one, other = SAME[what]
    assert form(one) == form(other)


SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 2.0,
    float("inf")]) | st.text("1aN\ud800", max_size=2)
    | st.binary(max_size=1) | st.sampled_from([Colour.RED, Level.RED, Name("a"), Numbered(1), dt.date(2026, 1, 1),
    10**20, 1e20])
)  # fmt: skip
KEYS = SCALARS | st.tuples(SCALARS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=2)
        | st.sets(KEYS, max_size=2)
        | st.frozensets(KEYS, max_size=2)
        | st.lists(st.sampled_from(["list", "tuple", "dict", "set", "bytes", "int", "enum"]) | inner, max_size=3)
        | inner.map(Spot)
        | inner.map(Point)
    ),
    max_leaves=6,
)


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal in value and type, written without regard to their forms."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(is_equal(a, b) for b in other) for a in one)
    if isinstance(one, dict):
        return is_equal(set(one), set(other)) and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, Spot | Point):
        return is_equal(one.x, other.x)
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


@given(VALUES, VALUES)
def test_law_05_fingerprints_are_equal_if_and_only_if_values_are(one: Any, other: Any) -> None:
    assert (form(one) == form(other)) == is_equal(one, other)
    assert form(one) == form(json.loads("0") or one)


def closure() -> Any:
    return lambda: None


def local() -> type:
    class Local:
        pass

    return Local


def cycle(kind: str) -> Any:
    found: Any = {"self": None} if kind == "dict" else [None]
    found["self" if kind == "dict" else 0] = found
    return found


def deep() -> Any:
    found: list[Any] = []
    for _ in range(500):
        found = [found]
    return found


class Shy:
    def __getattribute__(self, name: str) -> Any:
        raise ValueError("not now")


OPAQUE = {
    "a plain object": (Agent("critic"), "a Agent has no fingerprint"),
    "in a list": ([1, {"a": Agent("critic")}], "a Agent has no fingerprint"),
    "a method of one": (Agent("critic").act, "a Agent has no fingerprint"),
    "a lambda": (closure(), "is not defined at the level of a module"),
    "a local class": (local(), "is not defined at the level of a module"),
    "a lock": (threading.Lock(), "has no fingerprint"),
    "a generator": ((n for n in []), "has no fingerprint"),
    "a list in itself": (cycle("list"), "it contains itself"),
    "a dict in itself": (cycle("dict"), "it contains itself"),
    "a deep list": (deep(), "it nests deeper than 200 levels"),
}


@pytest.mark.parametrize("what", OPAQUE)
def test_law_05_what_has_no_fingerprint_is_refused_and_says_why(what: str) -> None:
    value, why = OPAQUE[what]
    with pytest.raises(OpaqueError, match=why):
        canonical(value)


@pytest.mark.parametrize("what", [*OPAQUE, "shy"])
def test_law_05_a_step_with_such_an_argument_needs_a_key(bus: crewbus.Bus, what: str) -> None:
    value = OPAQUE[what][0] if what in OPAQUE else Shy()
    with bus.run(id="run") as run:
        with pytest.raises(crewbus.StepError, match=r"step 'take'.*'value', a .*\(.*\)\. Give the step a key="):
            run.step("take", lambda value: None, value)
        assert run.step("take", lambda value: 1, value, key="this") == 1
    assert len(found(bus, "run", crewbus.StepStarted)) == 1


def test_law_05_fingerprints_are_the_same_in_every_process() -> None:
    source = (
        "import json, pathlib, enum\n"
        "from crewbus.serialization import canonical\n"
        "value = [{'x', 'y', 1, None, (1, 'b')}, {'b': 1, 'a': {2, 3.0}}, frozenset('größer'), len]\n"
        "print(json.dumps(canonical(value)))\n"
    )

    def printed(seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", source], env=env, check=True, capture_output=True, text=True, timeout=TIMEOUT
        )
        return done.stdout

    assert len({printed(seed) for seed in ("0", "1", "2")}) == 1


def test_law_05_a_script_has_the_fingerprints_of_its_module(tmp_path: Any) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        "import enum, attrs\n"
        "from crewbus.serialization import canonical\n"
        "class Colour(enum.Enum): RED = 1\n"
        "@attrs.define\n"
        "class Spot: x: int\n"
        "def function(): pass\n"
        "print(canonical([Colour.RED, Spot(1), function, Spot]))\n"
    )
    ways = ([str(script)], ["-m", "agent"], ["-c", "import agent"])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    printed = {
        subprocess.run(
            [sys.executable, *way], env=env, check=True, capture_output=True, text=True, timeout=TIMEOUT
        ).stdout
        for way in ways
    }
    assert len(printed) == 1
    assert "__main__" not in printed.pop()
