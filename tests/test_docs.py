"""The README and the documentation: every Python example is run, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def examples():
    for page in PAGES:
        for number, (code, output) in enumerate(EXAMPLE.findall(page.read_text()), start=1):
            yield pytest.param(code, output, id=f"{page.name}-{number}")


@pytest.mark.parametrize(("code", "output"), list(examples()))
def test_examples_print_what_they_say(code, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), vars(module))
    assert printed.getvalue() == output


def test_the_readmes_first_example_is_short():
    code, output = EXAMPLE.findall((ROOT / "README.md").read_text())[0]
    assert len(code.splitlines()) <= 25
    assert output


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for target in re.findall(r"`((?:tests|examples|docs|benchmarks)/[\w./]+)`", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name} names {target}"


def test_each_promise_of_the_documentation_has_tests_that_bear_its_number():
    promised = set(map(int, re.findall(r"^(\d+)\. ", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)))
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    shown = set(map(int, re.findall(r"def test_promise_(\d+)_", tests)))
    assert promised == shown
