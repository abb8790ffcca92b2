"""The distribution: it can be built as a wheel, and its README names the options of the store."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from wheels import build_wheel, can_build

from crewbus_postgres import PostgresStore

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")


@pytest.mark.skipif(not can_build(), reason="building a wheel needs pip and setuptools 77 or later")
def test_the_wheel_can_be_built(tmp_path):
    assert build_wheel(PLUGIN, tmp_path).name.startswith("crewbus_postgres-")


def test_the_options_of_the_readme_are_those_of_the_store():
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|", README, re.MULTILINE))
    options = inspect.signature(PostgresStore).parameters
    assert {name: str(options[name].default).removesuffix(".0") for name in rows} == rows
    assert rows.keys() == options.keys() - {"url"}
