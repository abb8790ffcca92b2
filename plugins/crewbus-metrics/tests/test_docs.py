"""The README: its example is run and prints what stands below it; its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import attrs
import pytest

from crewbus_metrics import Events, Metrics, Snapshot, Timing

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def comparable(text: str) -> str:
    """``text`` without what differs each time: times and rates."""
    return re.sub(r"\d+\.\d{3}\b", "0.000", text)


@pytest.mark.parametrize(("code", "output"), EXAMPLE.findall(README))
def test_examples_print_what_they_say(code, output, monkeypatch):
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), vars(module))
    assert comparable(printed.getvalue()) == comparable(output)


def test_there_is_an_example():
    assert EXAMPLE.search(README)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_metrics/\w+\.py|\w+\.py|setup\.cfg)`", README):
        assert (PLUGIN / target).exists(), target


def test_every_figure_is_named():
    named = set(re.findall(r"`(\w+)`", README))
    for cls in (Snapshot, Events, Timing):
        assert {field.name for field in attrs.fields(cls)} <= named


def test_every_hook_is_in_the_table():
    hooks = {name for name in vars(Metrics) if name.startswith("crewbus_")}
    assert hooks == set(re.findall(r"^\| `(crewbus_\w+)` \|", README, re.MULTILINE))
