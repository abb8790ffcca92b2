"""The README and the documentation: every Python example prints the output below it.

The READMEs of plugins are tested with the plugins.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from crewbus.testing import examples

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

NEEDED = {
    "serve-runs-over-http": ("httpx", "starlette"),
    "trace-with-opentelemetry": ("opentelemetry", "google"),
    "watch-with-prometheus": ("prometheus_client",),
}
"""By the page: what the test environments of the core do not have."""


def place(example):
    return f"{example.page.relative_to(ROOT)}-{example.number}"


def needs(example):
    """Examples that need what the core does not, as OpenTelemetry's SDK, are run with the tests of their plugins."""
    missing = [module for module in NEEDED.get(example.page.stem, ()) if find_spec(module) is None]
    reason = f"{', '.join(missing)} is not there"
    return pytest.param(example, id=place(example), marks=[pytest.mark.skipif(bool(missing), reason=reason)])


@pytest.mark.parametrize("example", [needs(example) for example in examples(*PAGES)])
def test_examples_print_what_they_say(example):
    example.check()


def test_the_readmes_first_example_is_short():
    first, *_ = examples(ROOT / "README.md")
    assert len(first.code.splitlines()) <= 25
    assert first.output


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for target in re.findall(r"`((?:tests|examples|docs|benchmarks)/[\w./]+)`", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name} names {target}"


def test_each_promise_of_the_documentation_has_tests_with_its_number():
    promised = set(map(int, re.findall(r"^(\d+)\. ", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)))
    paths = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "plugins").glob("*/tests/test_*.py")]
    tests = "".join(path.read_text() for path in paths)
    shown = set(map(int, re.findall(r"def test_promise_(\d+)_", tests)))
    assert promised == shown
