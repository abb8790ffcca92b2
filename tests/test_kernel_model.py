"""The specification of waiting: it holds, each rule of it is needed, and the page says the same."""

from __future__ import annotations

import re
from pathlib import Path

import kernel_model as model
import pytest
from kernel_model import Actor, Setting

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "waiting.md"


def described(setting, found):
    return f"{dict(setting.actors)}: {found}"


@pytest.mark.parametrize("most", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_in_every_state_whatever_waits_can_be_released(most):
    """All interleavings of small settings, with a cancel and a close at any point."""
    settings = list(model.settings(most))
    states = 0
    for setting in settings:
        found = model.explore(setting)
        assert not found.stuck, described(setting, found)
        states += found.states
    assert states > 10_000


TWO_READ_ACROSS = Setting(
    {
        "a": Actor((("emit", "x"), ("emit", "y"))),
        "b": Actor((("read", "x"), ("read", "y"))),
        "c": Actor((("emit", "x"),)),
    }
)
JOINED = (("take", "x"), ("join", "a"), ("take", "x"))
JOINED_AND_CANCELLED = Setting(
    {"a": Actor((("emit", "x"), ("emit", "x"))), "b": Actor(JOINED), "c": Actor((("cancel", "x"),))}
)
NEEDED = {
    "circle": TWO_READ_ACROSS,
    "dependents": TWO_READ_ACROSS,
    "consumer": TWO_READ_ACROSS,
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
