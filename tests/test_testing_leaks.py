"""The fixture `no_leaks`: it fails a test that leaves something behind, and names it."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import textwrap
from xml.etree import ElementTree as ET

import pytest

from crewbus.testing.leaks import holders
from crewbus.testing.leaks.holders import Holders

BEGIN = """
import asyncio, contextlib, gc, logging, threading
import pytest
import crewbus

KEPT = []

class Keeper:
    \"\"\"A plugin that never lets a run go.\"\"\"

    def __init__(self):
        self.runs = {}

    @crewbus.hookimpl
    def crewbus_run_start(self, run):
        self.runs[run.id] = run

class Counter:
    def __init__(self):
        self.count = 0

    @crewbus.hookimpl
    def crewbus_emit(self, bus, run, envelope):
        self.bus = bus
        self.count += 1

async def linger():
    await asyncio.Event().wait()

@pytest.fixture(scope="module")
def release():
    \"\"\"Lets the threads go that were left behind.\"\"\"
    release, before = threading.Event(), threading.enumerate()
    yield release
    release.set()
    for pool in [thing for thing in KEPT if isinstance(thing, crewbus.ThreadPoolExecutor)]:
        pool.shutdown()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join()

@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()

@pytest.fixture(scope="module")
def shared():
    \"\"\"A bus of a wider scope.\"\"\"
    with crewbus.Bus(entry_points=False) as bus:
        yield bus

@pytest.fixture(scope="module", autouse=True)
def nothing_open():
    yield
    for thing in KEPT:
        if issubclass(type(thing), crewbus.Bus | crewbus.Stream):
            thing.close()
    KEPT.clear()
"""


class Outcome:
    """What became of the tests of one module."""

    def __init__(self):
        self.states = []
        self.text = ""


def run_all(folder, codes, conftest=""):
    """Run the tests of each code as a module of its own, in one process; their outcomes by the names of the codes.

    In a process of its own, since pytester keeps what it sees of the tests that it runs in this one.
    """
    modules = {f"test_{number}": name for number, name in enumerate(codes)}
    for module, name in modules.items():
        (folder / f"{module}.py").write_text(BEGIN + textwrap.dedent(codes[name]))
    off = " ".join(f"-p no:{name}" for name in ("asyncio", "cacheprovider", "randomly"))
    (folder / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\naddopts = --strict-markers {off}\n")
    (folder / "conftest.py").write_text(conftest)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-ofaulthandler_timeout=60", folder]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    outcomes = {name: Outcome() for name in codes}
    for case in ET.parse(report).iter("testcase"):
        outcome = outcomes[modules[case.get("classname").split(".")[0]]]
        outcome.states.append(" ".join(child.tag for child in case) or "passed")
        outcome.text += "\n".join(child.text or "" for child in case)
    return outcomes


LEAKS = {
    "a thread": (
        """
        def test_it(release, no_leaks):
            def spin():
                release.wait()

            threading.Thread(target=spin, name="spinner").start()
        """,
        ["  thread 'spinner' is alive, in *spin() at *.py:*: let it end, and join it"],
    ),
    "a thread of a pool": (
        """
        def test_it(release, no_leaks):
            KEPT.append(crewbus.ThreadPoolExecutor(thread_name_prefix="acme"))
            KEPT[-1].submit(release.wait)
        """,
        ["  thread 'acme_0' is alive*"],
    ),
    "a task": (
        """
        def test_it(loop, no_leaks):
            async def main():
                KEPT.append(asyncio.create_task(linger(), name="lingering"))
                await asyncio.sleep(0)

            loop.run_until_complete(main())
        """,
        ["  task 'lingering' (linger) is pending: await it, or cancel it and await that"],
    ),
    "a thread of an event loop's pool that is busy": (
        """
        def test_it(release, loop, no_leaks):
            loop.run_in_executor(None, release.wait)
        """,
        ["  thread 'asyncio_0' is alive*"],
    ),
    "a thread of a fixture that does not end it": (
        """
        @pytest.fixture
        def worker(release):
            thread = threading.Thread(target=release.wait, name="worker")
            thread.start()
            yield thread

        def test_it(no_leaks, worker):
            pass
        """,
        ["  thread 'worker' is alive*"],
    ),
    "a bus": (
        """
        def test_it(no_leaks):
            KEPT.append(crewbus.Bus(entry_points=False))
        """,
        ["  <Bus 0 live runs, plugins: *> is open: close it, or leave its 'with'"],
    ),
    "a run that never ended": (
        """
        def test_it(bus, no_leaks):
            bus.run("newsroom", id="r1").start()
        """,
        ["  run r1 (newsroom) never ended: leave its 'with', or call finish()"],
    ),
    "a run that never ended, of a bus of a wider scope": (
        """
        def test_it(shared, no_leaks):
            KEPT.append(shared.run("newsroom", id="r1"))
            KEPT[-1].start()

        def test_then(shared):
            KEPT.pop().finish()
        """,
        ["  run r1 (newsroom) never ended: *"],
    ),
    "a stream of a run that has not started": (
        """
        def test_it(shared, no_leaks):
            KEPT.append(shared.subscribe("r1"))
        """,
        ["  <Stream of run r1> is still registered: read it to its end, or close it, held by *.KEPT[0]"],
    ),
    "a stream of a live run": (
        """
        @pytest.fixture(scope="module")
        def live(shared):
            with shared.run(id="r1") as run:
                yield run

        def test_it(shared, live, no_leaks):
            KEPT.append({"stream": shared.subscribe(live.id)})

        def test_then():
            KEPT.pop()["stream"].close()
        """,
        ["  <Stream of run r1> is still registered: *, held by *.KEPT[0]['stream']"],
    ),
    "a run, by a global": (
        """
        class Cache:
            runs = {}

        def test_it(bus, no_leaks):
            with bus.run("newsroom", id="r1") as run:
                Cache.runs["first"] = [run]
        """,
        ["  run r1 (newsroom) is still there, held by *.Cache.runs['first'][0]"],
    ),
    "a run, by a closure": (
        """
        def test_it(bus, no_leaks):
            with bus.run(id="r1") as run:
                KEPT.append(lambda: run)
        """,
        ["  run r1 is still there, held by *.KEPT[0].__closure__[0].cell_contents"],
    ),
    "a run, by a suspended coroutine": (
        """
        async def report(run):
            await asyncio.Event().wait()

        def test_it(bus, no_leaks):
            with bus.run(id="r1") as run:
                KEPT.append(report(run))

        def test_then():
            KEPT.pop().close()
        """,
        ["  run r1 is still there, held by *.KEPT[0].report.run"],
    ),
    "a stream that was read": (
        """
        def test_it(bus, no_leaks):
            with bus.stream(lambda: None) as stream:
                list(stream)
            KEPT.append(stream)
        """,
        ["  <OwnedStream of run *> is still there, held by *.KEPT[0]"],
    ),
    "envelopes": (
        """
        def test_it(bus, no_leaks):
            bus.on(crewbus.Chunk, KEPT.append)
            with bus.run(id="r1"):
                for _ in range(5):
                    bus.chunk("x")
        """,
        [
            "  envelope r1:1 of Chunk is still there, held by *.KEPT[0]",
            "  envelope r1:2 of Chunk is still there, held by *.KEPT[1]",
            "  envelope r1:3 of Chunk is still there, held by *.KEPT[2]",
            "  and 2 x Envelope more",
        ],
    ),
    "a run, by a plugin": (
        """
        @pytest.mark.crewbus(plugins=[Keeper])
        def test_it(bus, no_leaks):
            with bus.run("newsroom", id="r1"):
                pass
        """,
        ["  run r1 (newsroom) is still held by the plugin 'Keeper': Keeper.runs['r1']"],
    ),
    "a run, by a plugin that is a fixture": (
        """
        @pytest.fixture
        def keeper(bus):
            keeper = Keeper()
            bus.plugins.register(keeper, "acme")
            return keeper

        def test_it(keeper, bus, no_leaks):
            with bus.run("newsroom", id="r1"):
                pass
        """,
        ["  run r1 (newsroom) is still held by the plugin 'acme': Keeper.runs['r1']"],
    ),
    "a run, by an object that answers nothing": (
        """
        class Odd:
            __slots__ = ("held", "unset")
            __hash__ = None

            def __getattribute__(self, name):
                raise RuntimeError(name)

            def __eq__(self, other):
                raise RuntimeError("compared")

        def test_it(bus, no_leaks):
            odd = Odd()
            with bus.run(id="r1") as run:
                Odd.held.__set__(odd, {(1, 2): run})
            KEPT.append(odd)
        """,
        ["  run r1 is still there, held by *.KEPT[0].held[<tuple>]"],
    ),
    "a run, by a thread": (
        """
        @pytest.fixture(scope="module")
        def thread(release):
            def work():
                with given:
                    given.wait()
                    held = KEPT.pop()
                taken.set()
                release.wait()
                return held

            given, taken = threading.Condition(), threading.Event()
            thread = threading.Thread(target=work, name="worker")
            with given:
                thread.start()
            thread.give = lambda thing: give(thing)

            def give(thing):
                with given:
                    KEPT.append(thing)
                    given.notify()
                taken.wait()

            return thread

        def test_it(thread, bus, no_leaks):
            with bus.run(id="r1") as run:
                pass
            thread.give(run)
        """,
        ["  run r1 is still there, held by held of *work() in thread 'worker'"],
    ),
}


IMPATIENT = "from crewbus.testing.leaks import check\ncheck.PATIENCE = 0.2\n"
"""What is left behind here does not end by itself."""


@pytest.fixture(scope="module")
def leaks(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("leaks"), {name: code for name, (code, _) in LEAKS.items()}, IMPATIENT)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_fails_the_test_by_name(leaks, leak):
    _, lines = LEAKS[leak]
    assert leaks[leak].states[0] == "error"
    assert set(leaks[leak].states[1:]) <= {"passed"}
    received = leaks[leak].text.splitlines()
    assert re.fullmatch(r"test_\d+.py::test_it left behind:", received[0])
    assert len(received) == len(lines) + 1
    for line, pattern in zip(received[1:], lines, strict=True):
        assert fnmatch.fnmatchcase(line, pattern.replace("[", "[[]")), line


CLEAN = {
    "nothing": """
        def test_it(no_leaks):
            pass
    """,
    "what has ended": """
        def test_it(shared, bus, captured_events, recorded_run, no_leaks):
            seen = []
            bus.on(object, seen.append)
            bus.on(crewbus.Chunk, seen.append, background=True)

            @bus.on(crewbus.Chunk)
            async def hear(envelope):
                seen.append(envelope)

            def work():
                crewbus.chunk("x")

            with bus.stream(work) as stream:
                list(stream)
            with bus.run():
                bus.submit(work).result()
            recorded_run(work).resume(work)
            watching = shared.subscribe("r1")
            with shared.run(id="r1"):
                shared.chunk("x")
            assert watching.text() == "x"
            with bus.run(), crewbus.ThreadPoolExecutor() as pool:
                pool.submit(work)
                thread = crewbus.Thread(target=work)
                thread.start()
                thread.join()
            assert captured_events.wait(crewbus.Chunk, 3)
    """,
    "a thread that is about to end": """
        def test_it(no_leaks):
            threading.Thread(target=lambda: None).start()
    """,
    "a pool without references": """
        def test_it(no_leaks):
            crewbus.ThreadPoolExecutor().submit(int).result()
    """,
    "tasks that have ended": """
        def test_it(bus, no_leaks):
            async def main():
                lingering = asyncio.create_task(linger())
                async with bus.run():
                    await asyncio.to_thread(bus.chunk, "x")
                lingering.cancel()

            asyncio.run(main())
    """,
    "a plugin that lets go": """
        @pytest.mark.crewbus(plugins=[Counter])
        def test_it(bus, no_leaks):
            with bus.run():
                bus.chunk("x")
            assert bus.plugins.get_plugin("Counter").count == 3
    """,
    "what is allowed": """
        @pytest.mark.crewbus(plugins=[Keeper])
        def test_it(bus, release, no_leaks):
            no_leaks.allow(bus.plugins.get_plugin("Keeper"))
            with bus.run() as run:
                KEPT.append(run)
            thread = threading.Thread(target=release.wait)
            thread.start()
            KEPT.append(crewbus.Bus(entry_points=False))
            no_leaks.allow(thread, KEPT[-1])
    """,
    "what a fixture of the test holds": """
        @pytest.fixture
        def seen():
            return []

        def test_it(seen, bus, no_leaks, request):
            bus.on(object, seen.append)
            with bus.run() as run:
                seen.append(run)
            request.node.run = run
    """,
    "what a fixture of a wider scope holds": """
        @pytest.fixture(scope="module")
        def seen(shared):
            seen = []
            shared.on(object, seen.append)
            yield seen

        def test_it(seen, shared, no_leaks):
            with shared.run() as run:
                seen.append(run)
            assert len(seen) == 3

        def test_again(seen, shared, no_leaks):
            with shared.run() as run:
                seen.append(run)
            assert len(seen) == 6
    """,
    "what a fixture of a wider scope makes when it is used": """
        class Client:
            def __init__(self):
                self.pool, self.task = crewbus.ThreadPoolExecutor(), None

            async def use(self):
                self.pool.submit(int).result()
                self.task = asyncio.create_task(linger())
                await asyncio.sleep(0)

        @pytest.fixture(scope="module")
        def client(loop):
            client = Client()
            yield client
            client.pool.shutdown()

        def test_it(loop, client, no_leaks):
            loop.run_until_complete(client.use())
    """,
    "a fixture of a wider scope that the test itself asks for": """
        @pytest.fixture(scope="module")
        def server():
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait)
            thread.start()
            with crewbus.Bus(entry_points=False) as bus, bus.run():
                yield "an address"
            stop.set()
            thread.join()

        def test_it(request, no_leaks):
            assert request.getfixturevalue("server") == "an address"
    """,
    "what is in place of something until the test is over": """
        def post(run):
            raise NotImplementedError

        class Poster:
            @crewbus.hookimpl
            def crewbus_run_finish(self, run):
                post(run)

        def check(bus, monkeypatch):
            posted = []
            monkeypatch.setitem(globals(), "post", posted.append)
            with bus.run() as run:
                pass
            assert posted == [run]

        @pytest.mark.crewbus(plugins=[Poster])
        def test_it(monkeypatch, bus, no_leaks):
            check(bus, monkeypatch)

        @pytest.mark.crewbus(plugins=[Poster])
        def test_in_another_order(bus, no_leaks, monkeypatch):
            check(bus, monkeypatch)
    """,
    "an idle thread of an event loop's pool": """
        def test_it(loop, no_leaks):
            loop.run_until_complete(asyncio.to_thread(int))
    """,
    "what a class of tests holds": """
        class TestIt:
            def test_it(self, bus, no_leaks):
                with bus.run() as self.run:
                    pass
    """,
    "the workers of a bus of a wider scope": """
        def test_it(shared, no_leaks):
            seen = []
            shared.on(crewbus.Chunk, seen.append, background=True)

            @shared.on(crewbus.Chunk)
            async def hear(envelope):
                seen.append(envelope)

            with shared.run():
                shared.chunk("x")
            shared.flush()
            shared.off(crewbus.Chunk, seen.append)
            shared.off(crewbus.Chunk, hear)
            assert len(seen) == 2
    """,
    "the default bus": """
        @pytest.mark.filterwarnings("ignore::crewbus.UnscopedWarning")
        def test_it(no_leaks):
            crewbus.chunk("x")
    """,
    "what was logged": """
        def test_it(bus, caplog, no_leaks):
            def fail(envelope):
                raise LookupError(envelope)

            bus.on(crewbus.Chunk, fail)
            with bus.run() as run:
                bus.chunk("x")
                logging.getLogger("acme").warning("in %r", run)
            assert len(caplog.records) == 2
    """,
    "what a test raises and expects": """
        def test_it(bus, no_leaks):
            with pytest.raises(LookupError) as raised, bus.run() as run:
                raise LookupError(run)
            assert raised.value.args == (run,)
    """,
    "a cycle": """
        def test_it(bus, no_leaks):
            with bus.run() as run:
                cycle = [run]
                cycle.append(cycle)
    """,
    "what was there before": """
        def test_first(bus):
            bus.on(object, KEPT.append)
            with bus.run() as run:
                KEPT.append(run)

        def test_it(bus, no_leaks):
            with bus.run():
                pass
    """,
    "parameters": """
        @pytest.mark.parametrize("seen", [list(), list()], ids=str)
        def test_it(seen, bus, no_leaks):
            bus.on(object, seen.append)
            with bus.run():
                bus.chunk("x")
    """,
    "what stands in the order of the arguments": """
        def test_it(bus, no_leaks):
            KEPT.append(bus.subscribe("r1"))
            no_leaks.allow(KEPT)

        def test_other(no_leaks, bus):
            KEPT.append(bus.subscribe("r1"))
            no_leaks.allow(KEPT)
    """,
    "hypothesis": """
        from hypothesis import HealthCheck, given, settings, strategies

        @settings(max_examples=5, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(text=strategies.text())
        def test_it(bus, no_leaks, text):
            with bus.run() as run:
                bus.chunk(text)
                assert run is not None
    """,
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("clean"), CLEAN)


@pytest.mark.parametrize("case", CLEAN)
def test_other_objects_are_not_leaks(clean, case):
    assert clean[case].text == ""
    assert set(clean[case].states) == {"passed"}


class Thing:
    """Something that is held."""


def test_a_chain_that_begins_nowhere_begins_with_the_farthest_holder():
    held = {"things": [Thing()]}
    assert Holders().of(held["things"][0]) == "a dict: ['things'][0]"


def test_a_search_ends_where_too_much_holds_a_thing(monkeypatch):
    monkeypatch.setattr(holders, "_MOST", 3)
    thing = Thing()
    held = [[[[thing]]]]
    assert Holders().of(thing) == "a list: [0][0]"
    assert held


def test_what_is_made_later_and_what_is_ignored_does_not_count():
    thing = Thing()
    ignored = [thing]
    found = Holders(ignored)
    later = [thing]
    assert found.of(thing) is None
    assert ignored == later


FAILED = {
    "failed": """
        def test_it(bus, no_leaks):
            bus.run().start()
            assert 1 == 2
    """,
    "failed in its setup": """
        @pytest.fixture
        def started(bus):
            bus.run().start()
            assert 1 == 2

        def test_it(no_leaks, started):
            pass
    """,
    "skipped": """
        def test_it(bus, no_leaks):
            bus.run().start()
            pytest.skip("no licence")
    """,
    "expected to fail": """
        @pytest.mark.xfail(raises=LookupError, strict=True)
        def test_it(bus, no_leaks):
            with bus.run() as run:
                bus.run().start()
                raise LookupError(run)
    """,
}


def test_a_test_that_did_not_pass_is_not_checked(tmp_path):
    outcomes = run_all(tmp_path, FAILED)
    assert {name: outcome.states for name, outcome in outcomes.items()} == {
        "failed": ["failure"],
        "failed in its setup": ["error"],
        "skipped": ["skipped"],
        "expected to fail": ["skipped"],  # as JUnit calls it
    }
    assert "left behind" not in "".join(outcome.text for outcome in outcomes.values())
