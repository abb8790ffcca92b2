"""The pytest plugin: fixtures for the tests of plugins and of applications.

pytest imports it in every environment with crewbus, so it imports as little as possible: the rest of crewbus loads when
a test first uses a fixture.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Final

import pytest

import crewbus
from crewbus import testing

if TYPE_CHECKING:
    from crewbus.testing import CapturedEvents, LeakCheck, RunRecorder

MARKER: Final = "crewbus"
BUS_FIXTURE: Final = "crewbus_bus_fixture"
"""The setting that names the fixture `bus`."""
OTHERS: Final = ("captured_events", "no_leaks", "recorded_run", "request")
"""What the fixture `bus` can't be called."""
ENVIRONMENT: Final = ("CREWBUS_PLUGINS", "CREWBUS_BLOCK", "CREWBUS_STORE")
"""The variables that a bus reads."""
LOOP: Final = "_function_scoped_runner"
"""The fixture of pytest-asyncio that owns the loop of one test."""
CHECK: Final = pytest.StashKey["LeakCheck"]()
"""Where a test keeps its leak check."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the fixture `bus`."""
    parser.addini(
        BUS_FIXTURE,
        "the name of crewbus's fixture 'bus', for projects that have one of that name",
        default="bus",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the fixture `bus` under its name."""
    name = config.getini(BUS_FIXTURE)
    if not name.isidentifier() or iskeyword(name) or name in OTHERS:
        raise pytest.UsageError(
            f"{BUS_FIXTURE} = {name!r}: give the name that crewbus's fixture 'bus' is to have, such as crewbus_bus"
        )
    named = types.ModuleType("crewbus.testing.bus_fixture")
    setattr(named, name, pytest.fixture(bus, name=name))
    config.pluginmanager.register(named, "crewbus_bus_fixture")
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**arguments): arguments of crewbus.Bus for the fixture 'bus', such as plugins=[...]; "
        "entry_points=True loads every installed plugin, plugins=['name'] one of them",
    )


def bus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[crewbus.Bus]:
    """A strict `crewbus.Bus` with the built-in plugins only, independent of environment variables.

    It is closed after the test. ``@pytest.mark.crewbus(plugins=[...], ...)`` gives it other arguments:
    ``entry_points=True`` loads every installed plugin, ``plugins=["acme"]`` only that one.
    """
    if "no_leaks" in request.fixturenames:
        request.getfixturevalue("no_leaks")  # set up before the bus, so that it checks after the bus is closed
    _keep_loop_open(request)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    made = crewbus.Bus(**_arguments(request.node))
    yield made
    _close(made)


def _bus_of(request: pytest.FixtureRequest) -> crewbus.Bus:
    """The value of the fixture `bus`, ours or the project's, under the name that it has."""
    made: crewbus.Bus = request.getfixturevalue(request.config.getini(BUS_FIXTURE))
    return made


@pytest.fixture
def captured_events(request: pytest.FixtureRequest) -> Iterator[CapturedEvents]:
    """The envelopes observed on `bus` during the test: a `crewbus.testing.CapturedEvents`."""
    captured = testing.CapturedEvents(_bus_of(request))
    yield captured
    captured.close()


@pytest.fixture
def recorded_run(request: pytest.FixtureRequest) -> Iterator[RunRecorder]:
    """Calls a function in a run that `bus` records in memory: a `crewbus.testing.RunRecorder`.

    ``done = recorded_run(function, *args)`` is a `crewbus.testing.RecordedRun`.
    """
    recorder = testing.RunRecorder(_bus_of(request))
    yield recorder
    recorder.close()


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[LeakCheck]:
    """Fails the test if it leaves anything behind once it has passed and `bus` is closed.

    It looks for threads, asyncio tasks, open buses, runs that never ended and registered streams; and for runs, streams
    and envelopes of the test that something still holds, such as a plugin of its bus. ``no_leaks.allow(thing)`` permits
    a thread, a task, or whatever an object holds. Objects that fixtures of a wider scope hold or make when they are
    first used are not leaks. To check your own fixtures too, request `no_leaks` before them.
    """
    _keep_loop_open(request)
    request.node.stash[CHECK] = check = testing.LeakCheck()
    yield check
    leaks = check.leaks(request.node) if CHECK in request.node.stash else None
    if leaks:
        pytest.fail(f"{request.node.nodeid} left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Skip the check of `no_leaks` for a test that raised: it failed or was skipped, and its own error says why."""
    if call.excinfo is not None and CHECK in item.stash:
        del item.stash[CHECK]


def _keep_loop_open(request: pytest.FixtureRequest) -> None:
    """Have pytest-asyncio close the test's loop after the requesting fixture, by setting the loop up before it."""
    if LOOP in request.fixturenames:
        request.getfixturevalue(LOOP)


def _arguments(item: pytest.Item) -> dict[str, Any]:
    """The arguments of a test's bus: from the markers of the test, its class and its module, nearest first."""
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
    for loop in bus.lifecycle.loops():
        if not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(bus.aclose())
    bus.close()
