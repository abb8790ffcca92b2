"""Promise 2: nothing of a run is numbered after its terminal event, or missing in a stream, from any thread."""

from __future__ import annotations

import threading
import warnings

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus

import crewbus
from crewbus import Chunk, RunFinished
from crewbus.scopes import Numbers


class PausedNumbers(Numbers):
    """Numbers that one thread takes only when the test allows it, after the thread has found the gate open."""

    __slots__ = ("go_on", "reached", "thread")

    def __next__(self):
        if threading.get_ident() == self.thread:
            self.reached.set()
            assert self.go_on.wait(TIMEOUT)
        return super().__next__()


def paused(tree):
    numbers = PausedNumbers(next(tree.numbers))
    numbers.reached, numbers.go_on, numbers.thread = threading.Event(), threading.Event(), None
    tree.numbers = numbers
    return numbers


def emit_paused(numbers, run, emit):
    """Call ``emit`` in a thread of its own, inside the run, which pauses just before it takes a number."""

    def work():
        numbers.thread = threading.get_ident()
        crewbus.scopes.scope_var.set(run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return emit()

    emitting = in_thread(work)
    assert numbers.reached.wait(TIMEOUT)
    return emitting


@pytest.mark.parametrize("nested", [False, True])
def test_an_emission_that_is_overtaken_by_the_end_of_its_run_is_not_numbered_after_it(nested):
    seen = []
    with quiet_bus(unscoped="ignore") as bus:
        bus.on(object, seen.append)
        with bus.run("root") as root:
            run = root
            if nested:
                run = bus.run("nested")
                run.start()
            numbers = paused(root.tree)
            emitting = emit_paused(numbers, run, lambda: bus.emit(Noted("late")))
            run.finish()
            numbers.go_on.set()
            late = emitting.result(TIMEOUT)
            if nested:
                bus.emit(Noted("after"))
    assert late.run_id is None
    own = [envelope for envelope in seen if envelope.run_id is not None]
    assert [envelope.seq for envelope in own] == list(range(len(own)))
    assert [type(envelope.event) for envelope in own if envelope.run_id == run.id][-1] is RunFinished


def test_an_emission_that_has_its_number_before_the_end_stays_in_its_run():
    class Numbered(PausedNumbers):
        __slots__ = ()

        def __next__(self):
            number = Numbers.__next__(self)
            if threading.get_ident() == self.thread:
                self.reached.set()
                assert self.go_on.wait(TIMEOUT)
            return number

    with quiet_bus() as bus:
        run = bus.run()
        run.start()
        numbers = Numbered(next(run.tree.numbers))
        numbers.reached, numbers.go_on, numbers.thread = threading.Event(), threading.Event(), None
        run.tree.numbers = numbers
        emitting = emit_paused(numbers, run, lambda: bus.emit(Noted("in time")))
        run.finish()
        numbers.go_on.set()
        assert (emitting.result(TIMEOUT).run_id, emitting.result(TIMEOUT).seq) == (run.id, 1)


def test_an_emission_that_is_overtaken_by_a_stream_reaches_it():
    with quiet_bus() as bus, bus.run() as run:
        numbers = paused(run.tree)
        emitting = emit_paused(numbers, run, lambda: bus.emit(Chunk("late")))
        stream = bus.subscribe(run.id)
        bus.chunk("first")
        numbers.go_on.set()
        assert emitting.result(TIMEOUT).seq == 2
        assert [next(stream).event.text, next(stream).event.text] == ["first", "late"]


def test_the_start_of_a_resumed_run_has_no_parent():
    seen = []
    with quiet_bus() as bus:
        bus.enable_recording()
        bus.on(crewbus.RunStarted, seen.append)
        with pytest.raises(LookupError):
            with bus.run(id="r"):
                raise LookupError
        with bus.resume("r"):
            emitted = bus.emit(Noted())
    assert [(envelope.id, envelope.parent, envelope.replayed) for envelope in seen] == [
        ("r:0", None, False),
        ("r:0", None, True),
    ]
    assert emitted.parent == "r:0"
