"""Gates: all calls go through them, the functions stay what they are, and nothing of them remains."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import traceback
import types

import pytest

from crewbus_litellm._gate import Gate, leads


def made(factor):
    """Functions as litellm's are: closing over variables, wrapped, with defaults of both kinds."""

    def plain(value, more=1, *, most=0):
        return value * factor + more + most

    async def waiting(value, more=1, *, most=0):
        return value * factor + more + most

    return plain, waiting


class Passed:
    """A lead that counts."""

    def __init__(self):
        self.calls = []

    def __call__(self, stock, args, kwargs):
        self.calls.append((args, dict(kwargs)))
        return stock(*args, **kwargs)


@pytest.fixture
def functions():
    return made(10)


def test_whoever_has_the_function_goes_through_the_gate(functions):
    plain, _ = functions
    early, passed = functools.partial(plain, 2), Passed()
    gate = Gate(plain, passed)
    gate.place()
    assert (early(), early(most=5), plain(3, 4)) == (21, 26, 34)
    assert passed.calls == [((2,), {}), ((2,), {"most": 5}), ((3, 4), {})]
    gate.remove()
    assert (early(), len(passed.calls)) == (21, 3)


def test_an_asynchronous_function_stays_one(functions):
    _, waiting = functions
    passed = Passed()
    gate = Gate(waiting, passed)
    gate.place()
    assert inspect.iscoroutinefunction(waiting)
    assert asyncio.run(waiting(2)) == 21
    assert len(passed.calls) == 1
    gate.remove()
    assert asyncio.run(waiting(2)) == 21


@pytest.mark.parametrize("which", [0, 1])
def test_what_can_be_seen_of_the_function_stays(functions, which):
    function = functions[which]

    def visible():
        names = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__closure__")
        return [getattr(function, name) for name in names] + [function.__code__.co_name]

    code, before = function.__code__, visible()
    gate = Gate(function, Passed())
    gate.place()
    assert visible() == before
    gate.remove()
    assert function.__code__ is code


def test_the_frame_of_a_gate_can_be_looked_at(functions):
    """As debuggers, pytest and loggers do: closed-over variables included."""
    plain, _ = functions
    seen = []

    def look(stock, args, kwargs):
        seen.append(dict(sys._getframe(2).f_locals))
        return stock(*args, **kwargs)

    gate = Gate(plain, look)
    gate.place()
    assert plain(1) == 11
    gate.remove()
    assert seen[0]["args"] == (1,)
    assert seen[0]["factor"] == 10


def test_an_exception_is_the_functions_own(functions):
    plain, _ = functions
    gate = Gate(plain, Passed())
    gate.place()
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument: 'value'") as raised:
        plain()
    assert "gate of crewbus-litellm" in "".join(traceback.format_exception(raised.value))
    gate.remove()


def test_a_gate_that_another_stands_before_lets_all_pass_once_removed(functions):
    plain, _ = functions
    inner, outer = Passed(), Passed()
    first, second = Gate(plain, inner), Gate(plain, outer)
    first.place()
    second.place()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (1, 1)
    first.remove()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (1, 2)
    first.place()  # before the other now
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (2, 3)
    first.remove()
    second.remove()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (2, 3)


def test_a_gate_is_placed_again_and_again(functions):
    plain, _ = functions
    passed, code, known = Passed(), plain.__code__, len(leads)
    gate = Gate(plain, passed)
    for times in range(1, 4):
        gate.place()
        gate.place()
        assert plain(1) == 11
        assert len(passed.calls) == times
        gate.remove()
        assert plain.__code__ is code
    assert len(leads) == known + 1


def test_a_thread_that_is_in_the_gate_when_it_is_removed(functions):
    plain, _ = functions
    gate = Gate(plain, lambda stock, args, kwargs: (gate.remove(), stock(*args, **kwargs))[1])
    gate.place()
    passing = types.FunctionType(plain.__code__, plain.__globals__, closure=plain.__closure__)
    assert (plain(1), passing(1)) == (11, 11)
