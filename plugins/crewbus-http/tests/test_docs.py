"""The README: its links lead somewhere, and it names every path, action and option that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crewbus.testing import examples
from crewbus_http.app import DOCUMENTED
from crewbus_http.authorize import ACTIONS

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text("utf-8")


PAGE = PLUGIN.parents[1] / "docs" / "howto" / "serve-runs-over-http.md"


@pytest.mark.parametrize("example", examples(PAGE) if PAGE.exists() else [])
def test_examples_print_what_they_say(example):
    example.check()


def test_links_resolve():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PLUGIN / target).exists(), target


def test_every_path_is_in_the_readme():
    for one in DOCUMENTED:
        path = one.path.replace("{run}", "ID").replace("{workflow}", "NAME")
        assert f"`{one.method} {path}`" in README, path


def test_every_action_is_in_the_readme():
    for action in ACTIONS:
        assert f"`{action}`" in README
