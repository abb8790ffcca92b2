"""Law 9 of durable runs: a step that cannot be durable says so."""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

import pytest

import crewbus
from crewbus.durability import unrecorded


@crewbus.step
def search(desk: str) -> str:
    return desk


@crewbus.step
async def search_async(desk: str) -> str:
    return desk


def in_bare_thread(desk: str) -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(search, desk).result()


def async_in_bare_thread(desk: str) -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, search_async(desk)).result()


@pytest.fixture(autouse=True)
def no_other_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests let processes die in theirs: what those recorded is live for ever."""
    monkeypatch.setattr(unrecorded, "live", WeakValueDictionary())


@pytest.fixture(params=[in_bare_thread, async_in_bare_thread])
def bare(request: pytest.FixtureRequest):
    return request.param


def test_law_09_a_step_in_a_thread_without_context_warns_while_a_run_is_recorded(bare) -> None:
    with crewbus.Bus(entry_points=False) as bus, bus.run(record=True):
        with pytest.warns(crewbus.UnscopedWarning, match="step 'search.*' called outside any run"):
            assert bare("a") == "a"


def test_law_09_it_raises_if_the_bus_says_so(bare) -> None:
    with crewbus.Bus(entry_points=False, unscoped="raise") as bus, bus.run(record=True):
        with pytest.raises(crewbus.UnscopedError, match="ThreadPoolExecutor"):
            bare("a")


@pytest.mark.parametrize("end", ["finished", "failed", "not recorded", "ignored"])
def test_law_09_a_step_outside_any_run_is_just_called_when_none_is_recorded(bare, end: str) -> None:
    with (
        warnings.catch_warnings(),
        crewbus.Bus(entry_points=False, unscoped="ignore" if end == "ignored" else "warn") as bus,
    ):
        warnings.simplefilter("error")
        try:
            with bus.run(record=end != "not recorded"):
                if end in ("not recorded", "ignored"):
                    assert bare("a") == "a"
                elif end == "failed":
                    raise LookupError
        except LookupError:
            pass
        assert bare("b") == "b"


def test_law_09_a_step_in_a_thread_with_its_context_is_recorded() -> None:
    with warnings.catch_warnings(), crewbus.Bus(entry_points=False) as bus, bus.run(id="r", record=True):
        warnings.simplefilter("error")
        with crewbus.ThreadPoolExecutor(1) as pool:
            assert pool.submit(search, "a").result() == "a"
        names = [type(envelope.event).__name__ for envelope in bus.record_of("r")]
    assert "StepFinished" in names


@crewbus.step
def collect(notes: list[str], more: object = None) -> int:
    notes.append("the moon")
    return len(notes)


@crewbus.step
async def collect_async(notes: list[str]) -> int:
    notes.append("the moon")
    return len(notes)


def collect_on_a_loop(notes: list[str]) -> int:
    return asyncio.run(collect_async(notes))


@pytest.mark.parametrize("function", [collect, collect_on_a_loop])
def test_law_09_a_step_that_changes_its_arguments_warns_with_its_name(function) -> None:
    with crewbus.Bus(entry_points=False) as bus, bus.run(id="r", record=True):
        with pytest.warns(crewbus.StepWarning, match=r"step 'collect(_async)?' changed its arguments"):
            assert function([]) == 1
        assert [type(envelope.event).__name__ for envelope in bus.record_of("r")][-1] == "StepFinished"


def test_law_09_other_steps_do_not_warn() -> None:
    with warnings.catch_warnings(), crewbus.Bus(entry_points=False) as bus:
        warnings.simplefilter("error")
        with bus.run():
            collect([])  # not recorded
        with bus.run(id="r", record=True) as run:
            run.step("sum", sum, [1, 2])
            run.step("keyed", lambda notes: notes.append("x"), [], key="k")
            run.step("opaque", lambda found: found.append("x"), (iter([]), []).__getitem__(1), key="o")
