"""Attempts: what a failed one streamed is taken back, so that nobody has the text twice."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import warnings

import openai
import pytest
from helpers import TIMEOUT, in_thread, in_threads, needs_fork, quiet_bus
from hypothesis import given
from hypothesis import strategies as st
from lifecycle_helpers import script
from plugin_helpers import plugin
from served import model_server

import crewbus
from crewbus import AttemptStarted, Chunk, Retracted, RunFinished, StreamOptions


class CutError(Exception):
    """A connection that was cut."""


@pytest.fixture
def bus():
    with quiet_bus() as bus:
        yield bus


def retry(times, work, scope=None):
    """Call ``work(number)`` up to ``times`` times, each in an attempt."""
    for number in range(1, times + 1):
        try:
            with (scope or crewbus.current_run()).attempt() as attempt:
                assert attempt.number == number
                return work(number)
        except CutError:
            if number == times:
                raise
    return None


def twice_cut(number):
    crewbus.chunk("the ")
    crewbus.chunk("tides ")
    if number < 3:
        raise CutError(f"after try {number}")
    crewbus.chunk("turn")


def test_the_text_is_there_once(bus):
    with bus.stream(retry, 3, twice_cut) as stream:
        frames = list(stream)
    kinds = [type(frame.event) for frame in frames]
    assert kinds == [Chunk, Chunk, Retracted, Chunk, Chunk, Retracted, Chunk, Chunk, Chunk, RunFinished]
    assert stream.text() == "the tides turn"
    assert [frame.attempt for frame in frames if isinstance(frame.event, Chunk)] == [1, 1, 2, 2, 3, 3, 3]
    first, second = frames[2].event, frames[5].event
    assert (first.since, second.since) == (frames[0].seq, frames[3].seq)
    assert first.reason == "CutError: after try 1"


def test_the_last_attempts_text_is_taken_back_too_when_it_fails(bus):
    with bus.stream(retry, 2, twice_cut) as stream:
        assert stream.text() == ""
        with pytest.raises(CutError):
            stream.result()


def test_only_an_exception_takes_back(bus):
    """What was cancelled stays as far as it came."""

    def work():
        with crewbus.current_run().attempt():
            crewbus.chunk("so far")
            raise KeyboardInterrupt

    with bus.stream(work) as stream:
        assert stream.text() == "so far"


def test_of_calls_and_runs_inside_too_and_of_nothing_else(bus):
    """Siblings that stream at the same time keep theirs."""

    def work():
        run = crewbus.current_run()

        def cut(number):
            crewbus.chunk("own ")
            run.chunk("by name ")
            with bus.call("gpt") as call:
                crewbus.chunk("call's ")
                call.chunk("by name ")
            with bus.run("nested"), bus.call("tool"):
                crewbus.chunk("nested run's ")
            in_thread(run.chunk, "sibling's ").result(TIMEOUT)
            if number == 1:
                raise CutError

        crewbus.chunk("before ")
        retry(2, cut)
        crewbus.chunk("after")

    with bus.stream(work) as stream:
        frames = list(stream)
    assert stream.text() == "before sibling's own by name call's by name nested run's sibling's after"
    numbers = {frame.event.text: frame.attempt for frame in frames if isinstance(frame.event, Chunk)}
    inside = ("own ", "by name ", "call's ", "nested run's ")
    assert numbers == {"before ": 1, "sibling's ": 1, "after": 1, **dict.fromkeys(inside, 2)}


def test_siblings_that_retry_at_the_same_time(bus):
    """Each takes back its own, whoever streamed in between."""
    count = 8

    def work():
        step = threading.Barrier(count)

        def member(i):
            def cut(number):
                for part in range(3):
                    step.wait(TIMEOUT)
                    crewbus.chunk(f"{i}.{number}.{part} ")
                if number <= i % 3:
                    raise CutError

            for number in range(1, 4):
                if number <= i % 3 + 1:
                    with_attempt(cut, number)
                else:
                    for _ in range(3):
                        step.wait(TIMEOUT)

        def with_attempt(cut, number):
            try:
                with crewbus.current_run().attempt(number):
                    cut(number)
            except CutError:
                pass

        futures = [bus.submit(member, i) for i in range(count)]
        for future in futures:
            future.result(TIMEOUT)

    with bus.stream(work) as stream:
        pieces = stream.text().split()
    assert sorted(pieces) == sorted(f"{i}.{i % 3 + 1}.{part}" for i in range(count) for part in range(3))


@pytest.mark.parametrize("joins", range(1, 9))
def test_a_watcher_that_joined_in_the_middle_is_right_too(bus, joins):
    """Wherever it joins, it ends up with what is left of what it saw."""
    watchers = []

    def work():
        run = crewbus.current_run()
        done = 0

        def step(text):
            nonlocal done
            done += 1
            if done == joins:
                watchers.append(bus.subscribe(run.id))
            crewbus.chunk(text)

        def cut(number):
            for part in range(3):
                step(f"{number}.{part} ")
            if number < 3:
                raise CutError

        retry(3, cut)

    with bus.stream(work) as stream:
        assert stream.text() == "3.0 3.1 3.2 "
    expected = [f"3.{part} " for part in range(3) if 6 + part + 1 >= joins]
    assert watchers[0].text() == "".join(expected)


@pytest.mark.parametrize("slow", ["block", "coalesce"])
def test_with_a_tight_buffer(bus, slow):
    """Coalescing puts no text of one attempt to another's."""

    def work():
        def cut(number):
            for _ in range(50):
                crewbus.chunk(f"{number} ")
            if number == 1:
                raise CutError

        crewbus.chunk("before ")
        retry(2, cut)
        crewbus.chunk("after")

    with bus.stream(work, options=StreamOptions(slow=slow, bound=2)) as stream:
        assert "".join(stream.text().split()) == "before" + "2" * 50 + "after"


def test_what_a_failed_attempts_threads_still_stream_is_discarded(bus):
    go, received = threading.Event(), threading.Event()

    def late():
        assert go.wait(TIMEOUT)
        with pytest.warns(crewbus.UnscopedWarning, match="attempt that has failed"):
            assert crewbus.chunk("late") is None
        assert crewbus.emit(AttemptStarted(7)) is not None  # no frame, so it is delivered
        received.set()

    def work():
        def cut(number):
            if number == 1:
                with bus.call("gpt"):
                    bus.submit(late)
                    raise CutError
            go.set()
            assert received.wait(TIMEOUT)
            crewbus.chunk("text")

        retry(2, cut)

    with bus.stream(work) as stream:
        assert stream.text() == "text"


@pytest.mark.parametrize("streamed", [True, False])
def test_so_is_what_a_run_nested_in_it_still_streams(bus, streamed):
    """It was abandoned; its other events are delivered."""
    heard = []
    bus.on(Chunk, lambda envelope: heard.append(envelope.event.text))
    bus.on(AttemptStarted, lambda envelope: heard.append(envelope.event.number))
    with bus.run() as run:
        watching = bus.subscribe(run.id) if streamed else None
        nested = bus.run("nested")
        with pytest.raises(CutError), run.attempt():
            nested.start()
            nested.chunk("first ")
            raise CutError
        with pytest.warns(crewbus.UnscopedWarning, match="attempt that has failed"):
            assert nested.chunk("late ") is None
        nested.emit(AttemptStarted(9))
        nested.finish()
        run.chunk("text")
    assert heard == [1, "first ", 9, "text"]
    assert watching is None or watching.text() == "text"


def test_so_is_what_a_run_streams_that_begins_in_it_after_it_failed(bus):
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        with pytest.raises(CutError), run.attempt():
            inside = contextvars.copy_context()
            raise CutError

        def late():
            with bus.run("late"), pytest.warns(crewbus.UnscopedWarning, match="attempt that has failed"):
                assert crewbus.chunk("late ") is None

        inside.run(late)
        run.chunk("text")
    assert watching.text() == "text"


def test_a_retry_that_is_made_inside_the_failed_attempt(bus):
    """As agents do that call themselves again where they catch the error."""

    def agent(number=1):
        with crewbus.current_run().attempt() as attempt:
            assert attempt.number == number
            try:
                crewbus.chunk(f"try {number} ")
                if number < 3:
                    raise CutError
            except CutError as error:
                attempt.fail(error)
                agent(number + 1)

    with bus.stream(agent) as stream:
        assert stream.text() == "try 3 "


def test_numbers_start_from_one_for_the_next_piece_of_work(bus):
    numbers = []
    bus.on(AttemptStarted, lambda envelope: numbers.append(envelope.event.number))

    async def main():
        async def piece(failures):
            for number in range(failures + 1):
                try:
                    async with bus_run.attempt():
                        await asyncio.sleep(0)
                        if number < failures:
                            raise CutError
                except CutError:
                    pass

        with bus.run() as bus_run:
            await piece(1)
            await piece(1)
            await asyncio.gather(piece(2), piece(2))

    asyncio.run(main())
    assert numbers == [1, 2, 1, 2, 1, 1, 2, 2, 3, 3]


def test_attempts_at_a_call(bus):
    """Callbacks learn of each try, and of what is taken back; a call that is retried has one start and one end."""
    seen = []

    def callback(envelope):
        seen.append((type(envelope.event).__name__, envelope.attempt))

    with bus.run() as run, bus.call("gpt", callbacks=[callback]) as call:
        retry(2, lambda number: call.chunk("x") and number == 1 and (_ for _ in ()).throw(CutError), scope=call)
        retry(1, lambda number: bus.chunk("y"), scope=run)  # of the run, and inside the call
    assert seen == [
        ("CallStarted", 1),
        ("AttemptStarted", 1),
        ("Chunk", 1),
        ("Retracted", 1),
        ("AttemptEnded", 1),
        ("AttemptStarted", 2),
        ("Chunk", 2),
        ("AttemptEnded", 2),
        ("AttemptStarted", 1),
        ("Chunk", 1),
        ("AttemptEnded", 1),
        ("CallFinished", 1),
    ]


def test_without_a_scope_from_any_thread(bus):
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        for number in (1, 2):
            attempt = run.attempt(number)
            attempt.start()
            in_thread(attempt.chunk, f"{number} ").result(TIMEOUT)
            if number == 1:
                in_thread(attempt.fail, "the server said no").result(TIMEOUT)
                attempt.fail("again")
            attempt.finish()
    frames = list(watching)
    assert [frame.event.reason for frame in frames if isinstance(frame.event, Retracted)] == ["the server said no"]
    assert watching.text() == "2 "


def test_a_recorded_retry_reads_back(bus):
    def work():
        retry(3, twice_cut)

    with bus.stream(work, options=StreamOptions(record=True)) as stream:
        frames = list(stream)
    read = [envelope for envelope in bus.record_of(stream.run_id) if isinstance(envelope.event, Chunk | Retracted)]
    assert [(e.seq, e.event, e.attempt, e.parent) for e in read] == [
        (e.seq, e.event, e.attempt, e.parent) for e in frames[:-1]
    ]


def test_wrong_uses_say_what_is_wrong(bus):
    run = bus.run()
    with pytest.raises(crewbus.RunError, match="has not started"), run.attempt():
        raise AssertionError("it began")
    with run:
        with pytest.raises(crewbus.InputError, match="count from 1"):
            run.attempt(0)
        with run.attempt() as attempt, pytest.raises(crewbus.RunError, match="started before"):
            attempt.start()


@given(st.data())
def test_whatever_is_nested_and_fails_the_text_is_what_succeeded(data):
    """A random tree of attempts, calls and runs, against a plain list that forgets what failed."""
    rng = random.Random(data.draw(st.integers()))

    def grow(bus, kept, depth):
        for _ in range(rng.randint(0, 3)):
            kind = rng.choice(["chunk", "chunk", "call", "run", "attempt"] if depth else ["chunk"])
            if kind == "chunk":
                kept.append(f"{rng.random():.6f} ")
                bus.chunk(kept[-1])
            elif kind == "attempt":
                inner: list[str] = []
                try:
                    with crewbus.current_run().attempt():
                        grow(bus, inner, depth - 1)
                        if rng.random() < 0.5:
                            raise CutError
                    kept += inner
                except CutError:
                    pass
            else:
                with bus.call("gpt") if kind == "call" else bus.run():
                    grow(bus, kept, depth - 1)

    with quiet_bus() as bus:
        kept: list[str] = []
        with bus.run() as run:
            watching = bus.subscribe(run.id)
            grow(bus, kept, 4)
        assert watching.text() == "".join(kept)


# Against a server that cuts the connection


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with model_server(tmp_path_factory.mktemp("served"), "--delay", "0") as url:
        yield url


def ask(url, name, cut):
    """A streamed answer, cut after ``cut`` chunks at the first two tries, and emitted as it comes."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT)
    with client:
        for number in range(1, 4):
            fail = f" FAIL={cut}" if number < 3 else ""
            try:
                with crewbus.current_run().attempt():
                    message = {"role": "user", "content": f"RUN={name} CHUNKS=10{fail}"}
                    for piece in client.chat.completions.create(model="m", messages=[message], stream=True):
                        if piece.choices and piece.choices[0].delta.content:
                            crewbus.chunk(piece.choices[0].delta.content)
                return
            except Exception:  # whatever a cut connection becomes
                if number == 3:
                    raise


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_a_connection_that_is_cut_in_mid_stream(bus, served, cut):
    with bus.stream(ask, served, "one", cut) as stream:
        frames = list(stream)
    assert stream.text() == "Final Answer: " + "".join(f"one:{i} " for i in range(10))
    assert sum(isinstance(frame.event, Retracted) for frame in frames) == 2
    assert sum(isinstance(frame.event, Chunk) for frame in frames) == 2 * cut + 11


def test_many_cut_connections_at_once(bus, served):
    def consume(i):
        with bus.stream(ask, served, f"run{i}", 1 + i % 10) as stream:
            return stream.text()

    texts = in_threads(16, consume)
    assert texts == ["Final Answer: " + "".join(f"run{i}:{j} " for j in range(10)) for i in range(16)]


# Timeouts, generators, redactors, forks


def test_a_timeout_with_a_retry_around_it(bus):
    """A timeout cancels, and cancelled text stays: unless another attempt is made in its place."""

    async def work():
        run = crewbus.current_run()
        for number in (1, 2):
            try:
                async with asyncio.timeout(0.01 if number == 1 else TIMEOUT):
                    async with run.attempt() as attempt:
                        assert attempt.number == number
                        crewbus.chunk(f"try {number} ")
                        if number == 1:
                            await asyncio.get_running_loop().create_future()
            except TimeoutError:
                continue

    async def main():
        async with bus.stream(work) as stream:
            frames = [frame async for frame in stream]
        return frames, stream.text()

    frames, text = asyncio.run(main())
    assert text == "try 2 "
    assert [type(frame.event) for frame in frames] == [Chunk, Retracted, Chunk, RunFinished]


def test_generators_that_take_turns_at_attempts(bus):
    """A failed one does not stay in scope."""

    def tries(fails):
        with crewbus.current_run().attempt():
            yield
            if fails:
                raise CutError

    with bus.run() as run:
        watching = bus.subscribe(run.id)
        first, second = tries(True), tries(False)
        next(first), next(second)
        with pytest.raises(CutError):
            next(first)
        next(second, None)
        assert bus.chunk("later") is not None
    assert watching.text() == "later"


@pytest.mark.parametrize("how", ["raises", "replaces"])
def test_a_redactor_that_fails_does_not_bring_the_text_back(bus, how):
    def crewbus_redact(event):
        if isinstance(event, Retracted):
            if how == "raises":
                raise LookupError("no rules")
            return Chunk("something else")
        return None

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "redactor")
    with bus.run() as run:
        watching = bus.subscribe(run.id)
        with pytest.raises(crewbus.RedactionError), run.attempt():
            bus.chunk("cut ")
            raise CutError
        bus.chunk("text")
    frames = list(watching)
    assert watching.text() == "text"
    assert [frame.event.reason for frame in frames if isinstance(frame.event, Retracted)] == [
        "(withheld: a redactor failed)"
    ]


def test_a_nested_run_that_streams_while_the_attempt_fails(bus):
    """What is numbered before the retraction is taken back by it, and nothing comes after."""
    for _ in range(100):
        with bus.run() as run:
            watching = bus.subscribe(run.id, slow="fail", bound=100_000)
            barrier, done = threading.Barrier(2), threading.Event()

            def stream(barrier=barrier, done=done):
                with bus.run("nested"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    barrier.wait(TIMEOUT)
                    while not done.is_set():
                        crewbus.chunk("cut ")

            with pytest.raises(CutError), run.attempt():
                future = bus.submit(stream)
                barrier.wait(TIMEOUT)
                raise CutError
            done.set()
            future.result(TIMEOUT)
        assert watching.text() == ""


@needs_fork
def test_a_forked_child_takes_nothing_back():
    done = script(
        """
        import os, warnings
        import crewbus

        warnings.simplefilter("ignore")
        bus = crewbus.Bus(entry_points=False)
        seen = []
        bus.on(crewbus.Retracted, seen.append)
        with bus.run() as run, run.attempt() as attempt:
            pid = os.fork()
            if pid == 0:
                attempt.fail("in the child")
                os._exit(len(seen))
            print(os.waitpid(pid, 0)[1])
        """
    )
    assert done.stdout == "0\n", done.stdout + done.stderr
