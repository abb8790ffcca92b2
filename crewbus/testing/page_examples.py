"""The Python examples of Markdown pages, and the output below them. Sybil finds and runs them."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
import tempfile
import textwrap
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import attrs
import sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from crewbus.bus import separate_default_bus
from crewbus.events import entity_types, event_types, forget_event
from crewbus.exceptions import InputError

_fenced_blocks: Final = RawFencedCodeBlockLexer(re.compile(r"[ \t]*(?P<language>[^\n]*?)[ \t]*\n"))
_run_python: Final = PythonEvaluator()


@attrs.frozen
class Example:
    """A Python example of a page, with the output below it."""

    page: Path
    """The file that contains it."""
    number: int
    """Which of the page's examples it is, from 1."""
    line: int
    """The number of its first line in the page."""
    code: str
    """The code to run."""
    output: str
    """The text of the block below it; empty if there is none."""
    _parsed: sybil.Example

    def __str__(self) -> str:
        return f"{self.page.name}-{self.number}"

    def check(self, normalise: Callable[[str], str] = str) -> None:
        """Run the example, and compare what it prints with the output below it.

        It runs as a module of its own, in an empty directory, with a default bus of its own, which is closed
        afterwards. Changes to ``sys.path``, ``sys.modules`` and the environment are undone, and the types that it
        registers are forgotten. ``normalise`` removes from both texts what differs between runs. Indentation that
        all lines share is ignored.

        Raises AssertionError with the differences, and whatever the example raises, with its place in the page.
        """
        __tracebackhide__ = True
        printed, expected = (textwrap.dedent(normalise(text)) for text in (self.run(), self.output))
        if printed != expected:
            raise AssertionError(self._difference(expected, printed))

    def run(self) -> str:
        """Run the example as `check` does, and return what it prints."""
        printed, parsed = io.StringIO(), self._parsed
        try:
            with _separate_module() as module, contextlib.redirect_stdout(printed):
                _run_python(sybil.Example(parsed.document, parsed.line, parsed.column, parsed.region, vars(module)))
        except BaseException as error:
            error.add_note(f"in example {self.number} of {self.page}, which begins at line {self.line}")
            raise
        return printed.getvalue()

    def _difference(self, expected: str, printed: str) -> str:
        lines = difflib.unified_diff(
            expected.splitlines(), printed.splitlines(), "the output below it", "what it prints", lineterm=""
        )
        where = f"{self.page}, line {self.line}: example {self.number} does not print the output below it"
        return "\n".join([where, *lines])


def examples(*pages: str | Path) -> list[Example]:
    """The Python examples of Markdown pages, in order: each fenced block whose language is ``python``.

    The output of an example is in a ``text`` block directly below it; an example without one prints nothing.
    In a test::

        @pytest.mark.parametrize("example", examples("README.md"), ids=str)
        def test_examples(example):
            example.check()

    Raises `InputError` for a page that can't be read.
    """
    return [example for page in pages for example in _examples(Path(page))]


def _examples(page: Path) -> Iterator[Example]:
    try:
        document = sybil.Document.parse(str(page), _python_blocks)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: {error}") from error
    for number, found in enumerate(document, 1):
        yield Example(page, number, found.line + 1, str(found.parsed), str(found.region.lexemes["output"]), found)


def _python_blocks(document: sybil.Document) -> Iterator[sybil.Region]:
    """The Python blocks of a page as Sybil's regions, each with the lexeme ``output``."""
    for block, below in pairwise([*_outermost_blocks(document), None]):
        if block is None or block.lexemes["language"] != "python":
            continue
        block.parsed = block.lexemes["source"]
        block.lexemes["output"] = _output_of(document, block, below)
        yield block


def _output_of(document: sybil.Document, block: sybil.Region, below: sybil.Region | None) -> str:
    if below is None or below.lexemes["language"] != "text" or document.text[block.end : below.start].strip():
        return ""
    return str(below.lexemes["source"])


def _outermost_blocks(document: sybil.Document) -> Iterator[sybil.Region]:
    """The fenced blocks of a page, in order. Sybil also finds those inside a block that shows Markdown."""
    end = 0
    for block in sorted(_fenced_blocks(document), key=lambda block: block.start):
        if block.start >= end:
            end = block.end
            yield block


@contextlib.contextmanager
def _separate_module() -> Iterator[types.ModuleType]:
    """A new module ``example``, and an empty current directory; the process's state is restored afterwards."""
    module = types.ModuleType("example")
    del module.__spec__, module.__loader__  # since Python 3.15, tracebacks warn of a module whose loader is None
    path, environment, known = sys.path[:], dict(os.environ), sys.modules.get("example")
    sys.modules["example"] = module
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        directory = Path(folder).resolve()
        try:
            # Without the entry for the current directory: the import system would remember there that a module is
            # missing, and not find one that the example writes later.
            sys.path[:] = filter(None, path)
            with contextlib.chdir(directory), separate_default_bus():
                yield module
        finally:
            sys.path[:] = path
            if environment != os.environ:
                os.environ.clear()
                os.environ.update(environment)
            made = {name for name, loaded in sys.modules.items() if _is_from(loaded, directory)} | {"example"}
            for name in made:
                del sys.modules[name]
            _forget_types(made)
            if known is not None:
                sys.modules["example"] = known


def _forget_types(modules: set[str]) -> None:
    """Forget the events and entities that these modules registered: other examples may define the same."""
    for event_type in event_types():
        if event_type.cls.__module__ in modules:
            forget_event(event_type.cls)
    for entity in entity_types:
        if entity.cls.__module__ in modules:
            entity_types.discard(entity.cls)


def _is_from(module: types.ModuleType, directory: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and directory in Path(file).parents
