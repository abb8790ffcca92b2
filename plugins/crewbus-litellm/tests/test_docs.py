"""The README: its examples are run and print what stands below them; its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import pytest

import crewbus_litellm

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


@pytest.fixture
def installed(monkeypatch):
    """The entry point, where the distribution is not installed."""
    from importlib import metadata

    found = metadata.entry_points
    ours = metadata.EntryPoint("litellm", "crewbus_litellm:LitellmPlugin", "crewbus")

    def entry_points(**which):
        known = found(**which)
        if which != {"group": "crewbus"} or any(entry.name == "litellm" for entry in known):
            return known
        return metadata.EntryPoints([*known, ours])

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize(("code", "output"), EXAMPLE.findall(README))
def test_examples_print_what_they_say(code, output, monkeypatch, installed):
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), vars(module))
    assert printed.getvalue() == output


def test_every_public_name_and_every_example_is_there():
    assert len(EXAMPLE.findall(README)) == README.count("```python")
    for name in ("install", "uninstall"):
        assert f"crewbus_litellm.{name}(" in README
        assert name in crewbus_litellm.__all__


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target
    for target in re.findall(r"`(crewbus_litellm/\w+\.py|setup\.cfg)`", README):
        assert (PLUGIN / target).exists(), target
