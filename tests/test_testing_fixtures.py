"""The fixtures `bus`, `captured_events` and `recorded_run`, in tests as the author of a plugin writes them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

import crewbus.testing
from crewbus.events import event_types, forget_event

# Loaded here: pytester forgets what is first loaded in a test that it runs.
from crewbus.testing import CapturedEvents, LeakCheck, RunRecorder, examples  # noqa: F401

pytest_plugins = ["pytester"]

BEGIN = """
import asyncio, os, threading
import pytest
import crewbus

@crewbus.event(name="acme.Sold")
class Sold:
    item: str

class Acme:
    @crewbus.hookimpl
    def crewbus_configure(self, bus):
        self.closed = False

    @crewbus.hookimpl
    def crewbus_close(self):
        self.closed = True
"""


@pytest.fixture
def run(pytester):
    """Runs the tests of a module, with every warning an error."""
    # Hypothesis's plugin would import all of Hypothesis again for each.
    off = " ".join(f"-p no:{name}" for name in ("asyncio", "cacheprovider", "hypothesispytest", "randomly"))
    pytester.makeini(f"[pytest]\nfilterwarnings = error\naddopts = --strict-markers {off}\n")

    def run(code, *options):
        pytester.makepyfile(test_acme=BEGIN + textwrap.dedent(code))
        return pytester.runpytest_inprocess(*options)

    yield run
    for event_type in event_types():  # the same names are registered by the examples of pages
        if event_type.cls.__module__ == "test_acme":
            forget_event(event_type.cls)


def test_the_bus_has_the_builtin_plugins_alone_and_is_closed(run, monkeypatch):
    monkeypatch.setenv("CREWBUS_BLOCK", "run_scope")
    monkeypatch.setenv("CREWBUS_STORE", "nowhere://")
    monkeypatch.setenv("CREWBUS_PLUGINS", "no_such_module")
    run("""
        import gc

        seen = []

        def test_it(bus):
            names = [name for name, _ in bus.plugins.list_name_plugin()]
            assert names == ["memory_store", "run_scope", "checkpoint_recorder", "callback_isolation"]
            bus.enable_recording()
            with bus.run(id="r1"):
                bus.emit(Sold("anvil"))
            assert len(list(bus.record_of("r1"))) == 3
            seen.append(bus)

        def test_after(bus):
            assert seen[0].closed and seen[0] is not bus and not bus.closed
    """).assert_outcomes(passed=2)


def test_a_plugin_that_fails_is_an_error(run):
    result = run("""
        class Broken:
            @crewbus.hookimpl
            def crewbus_configure(self, bus):
                raise LookupError("no licence")

        @pytest.mark.crewbus(plugins=[Broken])
        def test_it(bus):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*PluginError*Broken*no licence*")


def test_the_marker_gives_the_bus_its_arguments_the_nearest_first(run):
    run("""
        pytestmark = pytest.mark.crewbus(plugins=[Acme], unscoped="raise")

        def test_of_the_module(bus):
            assert bus.plugins.has_plugin("Acme")
            with pytest.raises(crewbus.UnscopedError):
                bus.chunk("x")

        @pytest.mark.crewbus(plugins=[("other", Acme)], blocked=["memory_store"])
        def test_of_its_own(bus):
            assert bus.plugins.has_plugin("other") and not bus.plugins.has_plugin("Acme")
            assert not bus.plugins.has_plugin("memory_store")
            with pytest.raises(crewbus.UnscopedError):
                bus.chunk("x")
    """).assert_outcomes(passed=2)


@pytest.fixture
def installed(pytester, monkeypatch):
    """A distribution beside the tests that names two plugins."""
    (pytester.path / "acme.py").write_text("import crewbus\nclass One:\n    pass\nclass Two:\n    pass\n")
    info = pytester.mkdir("acme-1.0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[crewbus]\none = acme:One\ntwo = acme:Two\n")
    monkeypatch.syspath_prepend(pytester.path)


@pytest.mark.usefixtures("installed")
def test_the_marker_loads_what_is_installed(run):
    run("""
        def test_nothing_unless_asked(bus):
            assert not bus.plugins.has_plugin("one")

        @pytest.mark.crewbus(plugins=["one"])
        def test_one(bus):
            (info,) = [info for info in bus.plugins.infos() if info.name == "one"]
            assert (info.status, info.distribution, info.version) == ("loaded", "acme", "1.0")
            assert not bus.plugins.has_plugin("two")

        @pytest.mark.crewbus(entry_points=True)
        def test_all(bus):
            assert bus.plugins.has_plugin("one") and bus.plugins.has_plugin("two")
    """).assert_outcomes(passed=3)


def test_wrong_arguments_of_the_marker_are_reported_with_the_tests_name(run):
    result = run("""
        @pytest.mark.crewbus(plugin=[Acme])
        def test_misspelt(bus):
            pass

        @pytest.mark.crewbus([Acme])
        def test_not_named(bus):
            pass

        @pytest.mark.crewbus(plugins=["acmee"])
        def test_not_installed(bus):
            pass
    """)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines([
        "*test_acme.py::test_misspelt: @pytest.mark.crewbus(plugin=...): *no argument 'plugin'*plugins*",
        "*test_acme.py::test_not_named: @pytest.mark.crewbus takes *by name*",
        "*PluginError*acmee*no installed plugin has this name*",
    ])  # fmt: skip


def test_the_marker_is_described(pytester):
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines("@pytest.mark.crewbus(*): *crewbus.Bus*")


def test_the_test_may_close_the_bus_itself(run):
    run("""
        def test_it(bus):
            bus.close()
    """).assert_outcomes(passed=1)


def test_a_setting_names_the_bus_for_projects_that_have_a_fixture_of_that_name(pytester):
    pytester.makeini("[pytest]\nfilterwarnings = error\ncrewbus_bus_fixture = agent_bus\n")
    pytester.makepyfile(
        test_acme=BEGIN
        + textwrap.dedent("""
        @pytest.fixture
        def bus():
            return "CAN"

        @pytest.mark.crewbus(unscoped="raise")
        def test_both(bus, agent_bus, captured_events, recorded_run, no_leaks):
            assert bus == "CAN"
            with pytest.raises(crewbus.UnscopedError):
                agent_bus.chunk("outside")
            with agent_bus.run():
                agent_bus.chunk("inside")
            assert [event.text for event in captured_events.of(crewbus.Chunk)] == ["inside"]
            assert recorded_run(lambda: 3).result == 3
        """)
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    unnamed = pytester.makepyfile(test_other="def test_it(bus): pass")
    pytester.runpytest_inprocess(unnamed).stdout.fnmatch_lines("*fixture 'bus' not found*")


@pytest.mark.parametrize("name", ["agent bus", "class", "captured_events"])
def test_a_wrong_name_for_the_bus_is_one_error(pytester, name):
    pytester.makeini(f"[pytest]\ncrewbus_bus_fixture = {name}\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    what = f"crewbus_bus_fixture = {name!r}: give the name that crewbus's fixture 'bus' is to have, such as crewbus_bus"
    assert [line for line in result.errlines if line] == [f"ERROR: {what}"]


def test_a_projects_own_bus_is_what_the_other_fixtures_use(run):
    run("""
        @pytest.fixture
        def bus():
            with crewbus.Bus(entry_points=False) as own:
                yield own

        def test_it(captured_events, recorded_run, bus):
            with bus.run():
                bus.chunk("mine")
            assert [event.text for event in captured_events.of(crewbus.Chunk)] == ["mine"]
    """).assert_outcomes(passed=1)


def test_the_plugin_can_be_switched_off(run):
    result = run("def test_it(bus): pass", "-p", "no:crewbus")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'bus' not found*")


# captured_events


def test_captured_events_are_in_order_of_arrival(run):
    run("""
        def test_it(bus, captured_events):
            with bus.run() as run:
                bus.emit(Sold("anvil"))
                bus.chunk("text")
                bus.emit(Sold("rope"))
            started, *names, finished = captured_events.names
            assert (started, finished) == ("crewbus.RunStarted", "crewbus.RunFinished")
            assert names == ["acme.Sold", "crewbus.Chunk", "acme.Sold"]
            assert captured_events.of(Sold) == [Sold("anvil"), Sold("rope")]
            assert captured_events.of(crewbus.Chunk, crewbus.RunEnded) == [crewbus.Chunk("text"), crewbus.RunFinished()]
            assert captured_events.events[1] == Sold("anvil")
            assert [envelope.seq for envelope in captured_events] == [0, 1, 2, 3, 4]
            assert captured_events[1].run_id == captured_events[-1].run_id == run.id
            assert [envelope.event for envelope in captured_events[1:3]] == [Sold("anvil"), crewbus.Chunk("text")]
            assert "acme.Sold" in repr(captured_events)
            captured_events.clear()
            assert len(captured_events) == 0 and captured_events.names == []
    """).assert_outcomes(passed=1)


def test_waiting_for_events(run):
    run("""
        def test_later_events(bus, captured_events):
            with bus.run():
                for item in ("anvil", "rope"):
                    bus.submit(bus.emit, Sold(item))
                assert sorted(sold.item for sold in captured_events.wait(Sold, 2)) == ["anvil", "rope"]

        def test_earlier_events(bus, captured_events):
            with bus.run():
                bus.emit(Sold("anvil"))
            assert captured_events.wait(Sold, timeout=0) == [Sold("anvil")]
            assert captured_events.wait(crewbus.RunEnded, timeout=0) == [crewbus.RunFinished()]

        def test_the_error_names_the_captured_events(bus, captured_events):
            with bus.run():
                bus.emit(Sold("anvil"))
            captured_events.clear()
            with bus.run():
                bus.emit(Sold("anvil"))
            with pytest.raises(AssertionError) as raised:
                captured_events.wait(Sold, 2, timeout=0.01)
            assert str(raised.value) == (
                "waited 0.01 s for 2 x acme.Sold and got 1; "
                "observed: 1 x crewbus.RunStarted, 1 x acme.Sold, 1 x crewbus.RunFinished"
            )

        def test_nothing_captured(captured_events):
            with pytest.raises(AssertionError, match="observed: nothing"):
                captured_events.wait(Sold, timeout=0)

        def test_anything_but_an_event_class_is_refused(captured_events):
            with pytest.raises(crewbus.EventTypeError, match=r"wait\\(\\) takes an event class; got 'Sold'"):
                captured_events.wait("Sold")
            with pytest.raises(crewbus.EventTypeError, match=r"of\\(\\) takes event classes; got 'Sold'"):
                captured_events.of(Sold, "Sold")
    """).assert_outcomes(passed=5)


def test_waiting_for_events_on_a_loop(run):
    run("""
        def test_it(bus, captured_events):
            async def main():
                with pytest.raises(crewbus.ConsumptionError, match="wait_async"):
                    captured_events.wait(Sold)
                async with bus.run():
                    emitted = bus.submit(bus.emit, Sold("anvil"))
                    assert await captured_events.wait_async(Sold) == [Sold("anvil")]
                    assert captured_events.wait(Sold) == [Sold("anvil")]  # it is there: nothing blocks
                with pytest.raises(AssertionError, match="for 2 x acme.Sold and got 1"):
                    await captured_events.wait_async(Sold, 2, timeout=0.01)

            asyncio.run(main())
    """).assert_outcomes(passed=1)


# What is recorded

NOTES = """
        calls = []

        @crewbus.step
        def look_up(topic):
            calls.append(topic)
            return topic.upper()

        def report(topic, down=False):
            notes = look_up(topic)
            if down:
                raise ConnectionError("no answer")
            return notes
"""


def test_a_run_is_recorded_and_resumed(run):
    run(
        NOTES
        + """
        def test_it(bus, recorded_run):
            done = recorded_run(report, "tides", down=True)
            assert str(done.error) == "no answer"
            with pytest.raises(ConnectionError):
                done.result
            assert isinstance(done.events[-1], crewbus.RunFailed)
            assert done.record.run_id == done.run_id
            assert [envelope.run_id for envelope in done.envelopes] == [done.run_id] * len(done.events)
            assert not bus.recording.armed

            again = done.resume(report, "tides")
            assert (again.run_id, again.result, again.error) == (done.run_id, "TIDES", None)
            assert calls == ["tides"]
            assert isinstance(again.events[-1], crewbus.RunFinished)

        def test_a_finished_run_is_resumed_as_if_it_had_been_killed(recorded_run):
            calls.clear()
            done = recorded_run(report, "tides")
            assert done.resume(report, "tides").result == "TIDES"
            assert calls == ["tides"]
            assert done.resume(report, "moon").error.__class__ is crewbus.ReplayMismatch

        def test_its_repr(recorded_run):
            assert recorded_run(report, "tides").events[0].name.endswith("report")
    """
    ).assert_outcomes(passed=3)


def test_async_functions_are_recorded(run):
    run("""
        calls = []

        @crewbus.step
        async def look_up(topic):
            calls.append(topic)
            return topic.upper()

        async def report(topic, down=False):
            notes = [await look_up(topic), await look_up(topic)]
            if down:
                raise ConnectionError("no answer")
            return notes

        def test_it(recorded_run):
            done = recorded_run(report, "tides", down=True)
            assert isinstance(done.error, ConnectionError)
            assert done.resume(report, "tides").result == ["TIDES", "TIDES"]
            assert calls == ["tides", "tides"]

        def test_on_a_loop(recorded_run):
            async def main():
                with pytest.raises(crewbus.ConsumptionError, match="await recorded_run.acall"):
                    recorded_run(report, "moon")
                done = await recorded_run.acall(report, "moon", down=True)
                assert isinstance(done.error, ConnectionError)
                assert (await done.aresume(report, "moon")).result == ["MOON", "MOON"]
                assert (await recorded_run.acall(lambda: report("sun"))).result == ["SUN", "SUN"]
                assert (await recorded_run.acall(int, "7")).result == 7

            asyncio.run(main())
    """).assert_outcomes(passed=2)


def test_an_error_that_the_test_does_not_read_is_raised(run):
    result = run("""
        def fail():
            assert 1 == 2, "of the function"

        def test_it(recorded_run):
            recorded_run(fail)
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*of the function*")


def test_an_error_of_the_recording_itself_is_raised_to_the_caller(run):
    run("""
        def test_it(bus, recorded_run):
            with bus.run(), pytest.raises(crewbus.RecordingError, match="not recorded"):
                recorded_run(print)
            with pytest.raises(KeyboardInterrupt):
                recorded_run(interrupt)
            assert isinstance(recorded_run(cancel, bus).error, crewbus.Cancelled)

        def interrupt():
            raise KeyboardInterrupt

        def cancel(bus):
            crewbus.current_run().cancel()
            bus.chunk("x")
    """).assert_outcomes(passed=1)


# Async tests

ASYNC = """
        async def test_it(bus, captured_events, recorded_run, no_leaks):
            told = []

            @bus.on(Sold)
            async def hear(envelope):
                await asyncio.sleep(0)
                told.append(envelope.event.item)

            async def sell():
                bus.emit(Sold("anvil"))

            await recorded_run.acall(sell)
            await captured_events.wait_async(Sold)
            async with bus.stream(sell) as stream:
                assert [type(frame.event).__name__ async for frame in stream] == ["RunFinished"]
            await bus.aflush()
            assert told == ["anvil", "anvil"]

        async def test_what_is_left_to_the_teardown(bus):
            \"\"\"A pending async handler, and an unread stream.\"\"\"

            @bus.on(Sold)
            async def hear(envelope):
                await asyncio.sleep(0)

            async def sell():
                bus.emit(Sold("anvil"))
                await asyncio.Event().wait()

            stream = bus.stream(sell)
            aiter(stream)  # it begins
            await asyncio.sleep(0)
            bus.run().start()
"""


@pytest.mark.skipif(find_spec("anyio") is None, reason="needs anyio's pytest plugin")
def test_async_tests_with_anyio(run):
    mark = """
        pytestmark = [pytest.mark.anyio]

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module", autouse=True)
        async def one_loop_for_all(anyio_backend):
            yield
    """
    run(mark + ASYNC).assert_outcomes(passed=2)


@pytest.fixture(params=["function", "session"])
def run_on_loop(run, request):
    """Runs a module whose tests have the loop of pytest-asyncio that is of a scope."""
    pytest.importorskip("pytest_asyncio")
    mark = f"""
        pytestmark = pytest.mark.asyncio(loop_scope={request.param!r})
    """
    options = ["addopts=--strict-markers -p no:randomly", "asyncio_default_fixture_loop_scope=function"]
    return lambda code: run(mark + code, *[f"-o{option}" for option in options])


@pytest.mark.slow  # where pytest-asyncio is installed
def test_async_tests_with_pytest_asyncio(run_on_loop):
    run_on_loop(ASYNC).assert_outcomes(passed=2)


@pytest.mark.slow
def test_tasks_and_handlers_are_checked_while_the_loop_is_open(run_on_loop):
    result = run_on_loop("""
        heard = []

        async def test_handlers(bus, no_leaks):
            @bus.on(Sold)
            async def hear(envelope):
                await asyncio.sleep(0)
                heard.append(envelope.event.item)

            bus.emit(Sold("anvil"))

        async def test_they_were_waited_for():
            assert heard == ["anvil"]

        async def test_a_task(no_leaks):
            asyncio.create_task(asyncio.sleep(3600), name="lingering")  # which the loop holds, and pytester does not
            await asyncio.sleep(0)
    """)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*::test_a_task left behind:", "  task 'lingering' (sleep) is pending: *"])


# What is written of it


def test_the_how_to_guide_works(run, pytester):
    page = Path(__file__).parents[1] / "docs" / "howto" / "test-a-plugin.md"
    blocks = [example.code for example in examples(page)]
    emitted, recorded, leaky = (
        next(code for code in blocks if word in code) for word in ("captured_events", "recorded_run", "no_leaks")
    )
    run(emitted).assert_outcomes(passed=2)
    run(recorded).assert_outcomes(passed=2)
    result = run(leaky)
    result.assert_outcomes(passed=1, errors=1)
    received = "".join(result.outlines).partition("left behind:")[2]
    assert re.search(r"left behind:\n +(.*)", page.read_text("utf-8")).group(1) in received


@pytest.mark.parametrize("name", crewbus.testing.__all__)
def test_every_public_name_is_documented(name):
    value = getattr(crewbus.testing, name)
    assert value.__doc__
    if isinstance(value, type) and name != "StoreContract":
        for attribute, member in vars(value).items():
            if not attribute.startswith("_"):
                assert isinstance(member, types.MemberDescriptorType) or member.__doc__, f"{name}.{attribute}"


def test_the_public_names_exist():
    assert sorted(crewbus.testing.__all__) == crewbus.testing.__all__
    assert set(crewbus.testing.__all__) == set(crewbus.testing._HOME)
    with pytest.raises(AttributeError, match="no attribute 'Examples'"):
        _ = crewbus.testing.Examples


def test_a_library_that_is_not_installed_is_named_with_the_extra_that_installs_it():
    code = "import sys; sys.modules['sybil'] = None; from crewbus.testing import examples"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("crewbus.testing.examples needs sybil: install crewbus[testing]\n")


# The cost when it is not used


def test_nothing_is_loaded_unless_a_test_uses_a_fixture(tmp_path):
    (tmp_path / "test_other.py").write_text("def test_it(): pass\n")
    code = """
        import sys, pytest
        assert pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *sys.argv[1:]]) == 0
        print(" ".join(sys.modules))
    """

    def loaded(*options):
        command = [sys.executable, "-c", textwrap.dedent(code), tmp_path, *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return set(done.stdout.splitlines()[-1].split())

    assert loaded() - loaded("-p", "no:crewbus") == {"crewbus", "crewbus.testing", "crewbus.testing.fixtures"}
