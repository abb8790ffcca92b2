"""Code swaps: every reference reaches the wrapper, the functions keep their identity, and reverting leaves no trace."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import traceback
import types

import pytest

from crewbus_litellm.code_swap import CodeSwap, targets


def make_functions(factor):
    """Functions like litellm's: with closure variables and both kinds of defaults."""

    def plain(value, more=1, *, most=0):
        return value * factor + more + most

    async def asynchronous(value, more=1, *, most=0):
        return value * factor + more + most

    return plain, asynchronous


class Counting:
    """A wrapper that records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, original, args, kwargs):
        self.calls.append((args, dict(kwargs)))
        return original(*args, **kwargs)


@pytest.fixture
def functions():
    return make_functions(10)


def test_references_taken_before_reach_the_wrapper(functions):
    plain, _ = functions
    early, counting = functools.partial(plain, 2), Counting()
    swap = CodeSwap(plain, counting)
    swap.apply()
    assert (early(), early(most=5), plain(3, 4)) == (21, 26, 34)
    assert counting.calls == [((2,), {}), ((2,), {"most": 5}), ((3, 4), {})]
    swap.revert()
    assert (early(), len(counting.calls)) == (21, 3)


def test_an_async_function_stays_async(functions):
    _, asynchronous = functions
    counting = Counting()
    swap = CodeSwap(asynchronous, counting)
    swap.apply()
    assert inspect.iscoroutinefunction(asynchronous)
    assert asyncio.run(asynchronous(2)) == 21
    assert len(counting.calls) == 1
    swap.revert()
    assert asyncio.run(asynchronous(2)) == 21


@pytest.mark.parametrize("which", [0, 1])
def test_the_visible_attributes_of_the_function_stay(functions, which):
    function = functions[which]

    def visible():
        names = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__closure__")
        return [getattr(function, name) for name in names] + [function.__code__.co_name]

    code, before = function.__code__, visible()
    swap = CodeSwap(function, Counting())
    swap.apply()
    assert visible() == before
    swap.revert()
    assert function.__code__ is code


def test_the_frame_of_a_swapped_function_can_be_inspected(functions):
    """As debuggers, pytest and loggers do: closure variables included."""
    plain, _ = functions
    seen = []

    def inspecting(original, args, kwargs):
        seen.append(dict(sys._getframe(2).f_locals))
        return original(*args, **kwargs)

    swap = CodeSwap(plain, inspecting)
    swap.apply()
    assert plain(1) == 11
    swap.revert()
    assert seen[0]["args"] == (1,)
    assert seen[0]["factor"] == 10


def test_an_exception_is_that_of_the_function(functions):
    plain, _ = functions
    swap = CodeSwap(plain, Counting())
    swap.apply()
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument: 'value'") as raised:
        plain()
    assert "code swapped by crewbus-litellm" in "".join(traceback.format_exception(raised.value))
    swap.revert()


def test_a_swap_below_another_is_disabled_when_reverted(functions):
    plain, _ = functions
    inner, outer = Counting(), Counting()
    first, second = CodeSwap(plain, inner), CodeSwap(plain, outer)
    first.apply()
    second.apply()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (1, 1)
    first.revert()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (1, 2)
    first.apply()  # now on top of the other
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (2, 3)
    first.revert()
    second.revert()
    assert plain(1) == 11
    assert (len(inner.calls), len(outer.calls)) == (2, 3)


def test_a_swap_can_be_applied_again(functions):
    plain, _ = functions
    counting, code, known = Counting(), plain.__code__, len(targets)
    swap = CodeSwap(plain, counting)
    for times in range(1, 4):
        swap.apply()
        swap.apply()
        assert plain(1) == 11
        assert len(counting.calls) == times
        swap.revert()
        assert plain.__code__ is code
    assert len(targets) == known + 1


def test_a_call_in_progress_survives_the_revert(functions):
    plain, _ = functions
    swap = CodeSwap(plain, lambda original, args, kwargs: (swap.revert(), original(*args, **kwargs))[1])
    swap.apply()
    in_progress = types.FunctionType(plain.__code__, plain.__globals__, closure=plain.__closure__)
    assert (plain(1), in_progress(1)) == (11, 11)
