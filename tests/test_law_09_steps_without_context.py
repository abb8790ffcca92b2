"""Law 9 of durable runs: a step that cannot be durable says so."""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import crewbus


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
