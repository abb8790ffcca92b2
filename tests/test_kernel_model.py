"""The specification of waiting: it holds, each rule is needed, the page says the same, and so does the kernel."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from pathlib import Path

import kernel_model as model
import pytest
from helpers import TIMEOUT, quiet_bus
from interleave import Driver, watched
from kernel_model import Actor, Setting

import crewbus
from crewbus.scopes import waiting

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "waiting.md"


def described(setting, found):
    return f"{dict(setting.actors)}: {found}"


@pytest.mark.parametrize("most", [2, pytest.param(4, marks=pytest.mark.long)])
def test_in_every_state_whatever_waits_can_be_released(most):
    """All interleavings of small settings, with a cancel and a close at any point."""
    settings = list(model.settings(most))
    states = 0
    for setting in settings:
        found = model.explore(setting)
        assert not found.stuck, described(setting, found)
        states += found.states
    assert states > 10_000


CROSSED = Setting(
    {
        "a": Actor((("take", "x"), ("emit", "y"), ("read", "x"))),
        "b": Actor((("take", "y"), ("emit", "x"), ("read", "y"))),
        "c": Actor((("emit", "x"), ("emit", "y"))),
    }
)
ASKED = Setting({"a": Actor((("emit", "x"),)), "b": Actor((("result", "a"), ("read", "x")))})
JOINED = (("take", "x"), ("join", "a"), ("take", "x"))
JOINED_AND_CANCELLED = Setting(
    {"a": Actor((("emit", "x"), ("emit", "x"))), "b": Actor(JOINED), "c": Actor((("cancel", "x"),))}
)
NEEDED = {
    "circle": CROSSED,
    "dependents": ASKED,
    "leave wakes": Setting({"a": Actor((("take", "x"), ("leave", "x"))), "b": Actor((("emit", "x"), ("emit", "x")))}),
    "end wakes": Setting({"a": Actor((("read", "x"),)), "b": Actor((("emit", "x"),))}),
    "cancel wakes": JOINED_AND_CANCELLED,
    "close wakes": Setting(JOINED_AND_CANCELLED.actors | {"c": Actor((("close", ""),))}),
    "handled wakes": Setting({"a": Actor((("flush", ""),)), "b": Actor((("queue", "h"),)), "h": Actor((), serves="h")}),
    "wakes are kept": JOINED_AND_CANCELLED,
    "defer": Setting({"a": Actor((("nested", "x>y"),)), "b": Actor((("nested", "y>x"),))}),
}
"""A setting for each rule that gets stuck without it."""


@pytest.mark.parametrize("rule", model.RULES)
def test_each_rule_is_needed(rule):
    """Without it the search finds a state that nothing leaves, so the search would see it broken."""
    assert not model.explore(NEEDED[rule]).stuck
    assert model.explore(NEEDED[rule], without=rule).waiting


def test_the_page_has_the_model_s_tables():
    text = PAGE.read_text(encoding="utf-8")
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:1] == "|"]
    assert rows[2:] == [(kind, *row) for kind, row in model.WAITS.items()]
    assert re.findall(r"^- (.*)$", text, re.MULTILINE) == list(model.RULES.values())


# The model and the kernel


def bindable(setting):
    """Whether the kernel is driven through it: without handlers, hooks and event loops, whose threads are not ours."""
    return {kind for one in setting.actors.values() for kind, _ in one.ops} <= {
        "emit", "take", "read", "leave", "cancel", "close",
    }  # fmt: skip


class Kernel:
    """A setting, played by a bus: each actor is a thread, each stream that of a run."""

    def __init__(self, bus, setting):
        self.setting = setting
        self.bus = bus
        self.runs = {name: bus.run(name) for name in "xy"}
        self.streams = {}
        self.left = {name: set(setting.feeders(name)) for name in "xy"}

    def program(self, name):
        """What the thread of one actor does: one op in each step, after one in which it subscribes."""

        def act(end_step):
            own = [stream for stream in "xy" if self.setting.consumer(stream) == name and self.left[stream]]
            for stream in own:
                self.streams[stream] = self.bus.subscribe(self.runs[stream].id, bound=1, slow="block")
            end_step()
            with suppress(crewbus.Cancelled):
                self._act(name, end_step)
            self._end(name, own)

        return act

    def _act(self, name, end_step):
        ops = self.setting.actors[name].ops
        for i, (kind, what) in enumerate(ops):
            while self._do(kind, what) and kind == "read":
                end_step()
            if i + 1 < len(ops):
                end_step()

    def _do(self, kind, what):
        if kind in ("take", "read"):
            with suppress(crewbus.CrewbusError):
                frame = next(self.streams[what], None) if what in self.streams else None
                return frame is not None and not isinstance(frame.event, crewbus.RunEnded)
        elif kind == "emit":
            with suppress(crewbus.BusClosedError):
                self.runs[what].chunk(".")
        elif kind == "leave":
            if what in self.streams:
                self.streams[what].close()
        elif kind == "cancel":
            self.runs[what].cancel()
        else:
            self.bus.close()
        return False

    def _end(self, name, own):
        for stream in "xy":
            if name in self.left[stream]:
                self.left[stream].remove(name)
                if not self.left[stream]:
                    self.runs[stream].finish()
        for stream in own:
            self.streams[stream].close()


def drive(setting, dice):
    """Play one interleaving in the model and in the kernel, and compare them after each step."""
    machine = model.Model(setting)
    names = list(setting.actors)
    with watched(), quiet_bus(unscoped="ignore") as bus:
        kernel = Kernel(bus, setting)
        driver = Driver([kernel.program(name) for name in names])
        for i in range(len(names)):
            driver.step(i)
        for name, run in kernel.runs.items():
            if kernel.left[name]:
                run.start()
        state, path = machine.first(), []
        while enabled := [name for name, _ in machine.steps(state)]:
            name = dice.choice(enabled)
            path.append(name)
            state = machine.turn(state, name)
            expected = {"asleep": "blocked"}.get(state.doing[name].phase, state.doing[name].phase)
            try:
                assert driver.step(names.index(name)) == expected
            except (AssertionError, TimeoutError) as error:
                error.add_note(f"{dict(setting.actors)} after {path}: {state}")
                raise
        failed = {name: stream.source.failure is not None for name, stream in kernel.streams.items()}
        assert failed == {name: state.channels[name].failed for name in kernel.streams}, f"{setting} after {path}"
        bus.close()
    return len(path)


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.long)])
def test_the_kernel_does_what_the_model_says(count, monkeypatch):
    """A sample of the settings, each in one interleaving: the same steps block, wake, fail and end."""
    monkeypatch.setattr(waiting, "_RECHECK", TIMEOUT)  # a wake that is missing is not made good by a later look
    dice = random.Random(count)
    chosen = [setting for setting in model.settings(4) if bindable(setting)]
    steps = sum(drive(setting, dice) for setting in dice.sample(chosen, min(count, len(chosen))))
    assert steps > 2 * count
