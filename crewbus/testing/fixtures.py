"""The pytest plugin: fixtures for the tests of plugins and of what is built on a bus.

It is imported wherever pytest runs in an environment with crewbus, so it imports nothing but what it is made of: the
rest of crewbus loads with the first fixture that is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

import crewbus
from crewbus import testing

if TYPE_CHECKING:
    from crewbus.testing import CapturedEvents, LeakCheck, RunRecorder

MARKER: Final = "crewbus"
ENVIRONMENT: Final = ("CREWBUS_PLUGINS", "CREWBUS_BLOCK", "CREWBUS_STORE")
"""The variables that a bus reads."""
LOOP: Final = "_function_scoped_runner"
"""The fixture of pytest-asyncio that has the loop of one test."""
CHECK: Final = pytest.StashKey["LeakCheck"]()
"""Where a test keeps what is to look at it."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**arguments): what the fixture 'bus' gives to crewbus.Bus, such as plugins=[...]; entry_points=True "
        "loads every installed plugin, plugins=['name'] one of them",
    )


@pytest.fixture
def bus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[crewbus.Bus]:
    """A `crewbus.Bus` of the built-in plugins alone, strict, that nothing of the environment reaches.

    It is closed after the test. ``@pytest.mark.crewbus(plugins=[...], ...)`` gives it other arguments:
    ``entry_points=True`` loads every installed plugin, ``plugins=["acme"]`` only that one.
    """
    if "no_leaks" in request.fixturenames:
        request.getfixturevalue("no_leaks")  # set up before the bus, it looks once that is closed
    _keep_loop_open(request)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    made = crewbus.Bus(**_arguments(request.node))
    yield made
    _close(made)


@pytest.fixture
def captured_events(bus: crewbus.Bus) -> Iterator[CapturedEvents]:
    """The envelopes that are observed on `bus` during the test: a `crewbus.testing.CapturedEvents`."""
    captured = testing.CapturedEvents(bus)
    yield captured
    captured.close()


@pytest.fixture
def recorded_run(bus: crewbus.Bus) -> Iterator[RunRecorder]:
    """Calls a function in a run that is recorded in memory on `bus`: a `crewbus.testing.RunRecorder`.

    ``done = recorded_run(function, *args)`` is a `crewbus.testing.RecordedRun`.
    """
    recorder = testing.RunRecorder(bus)
    yield recorder
    recorder.close()


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[LeakCheck]:
    """Fails the test if it leaves anything behind once it has passed and `bus` is closed.

    That is: threads, asyncio tasks, buses that are open, runs that never ended, registered streams; and runs, streams
    and envelopes of the test that something still holds, a plugin of its bus for example. ``no_leaks.allow(thing)``
    excepts a thread, a task, or what an object holds. What fixtures of a wider scope hold is no leak, nor is what they
    make when they are first used. To look at what your own fixtures leave, ask for it before them.
    """
    _keep_loop_open(request)
    request.node.stash[CHECK] = check = testing.LeakCheck()
    yield check
    leaks = check.leaks(request.node) if CHECK in request.node.stash else None
    if leaks:
        pytest.fail(f"{request.node.nodeid} left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Have `no_leaks` not look at a test that raised: it failed, as expected or not, or was skipped, and says why."""
    if call.excinfo is not None and CHECK in item.stash:
        del item.stash[CHECK]


def _keep_loop_open(request: pytest.FixtureRequest) -> None:
    """Have pytest-asyncio close the loop of a test after the fixture that asks, by setting it up before."""
    if LOOP in request.fixturenames:
        request.getfixturevalue(LOOP)


def _arguments(item: pytest.Item) -> dict[str, Any]:
    """The arguments of the bus of a test: of its own marker, then of those of its class and module."""
    given: dict[str, Any] = {}
    for mark in item.iter_markers(MARKER):
        if mark.args:
            pytest.fail(f"{item.nodeid}: @pytest.mark.{MARKER} takes arguments of crewbus.Bus by name", pytrace=False)
        given = {**mark.kwargs, **given}
    known = list(inspect.signature(crewbus.Bus).parameters)
    for name in given:
        if name not in known:
            why = f"crewbus.Bus has no argument {name!r}; there are {', '.join(known)}"
            pytest.fail(f"{item.nodeid}: @pytest.mark.{MARKER}({name}=...): {why}", pytrace=False)
    return {"entry_points": False, "blocked": (), "strict": True, **given}


def _close(bus: crewbus.Bus) -> None:
    """Close a bus whose test is over, on the test's event loop where something of it waits there to go on."""
    waiting = {work.loop for work in list(bus._works)} | {owed.loop for owed in list(bus._tasks._owed)}
    for loop in waiting:
        if loop is not None and not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(bus.aclose())
    bus.close()
