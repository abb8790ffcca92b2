"""The Python examples of Markdown pages, and the output that stands below them."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import attrs

from crewbus.bus.bus import Bus
from crewbus.bus.default import _default
from crewbus.events import event_types, forget_event
from crewbus.events.entities import entities
from crewbus.exceptions import InputError

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*)$")


@attrs.frozen
class Block:
    """A fenced block of a page."""

    info: str
    """What stands behind the fence: the language."""
    text: str
    line: int
    """The number of its first line, from 1; the fence is above it."""
    end: int
    """The number of the line of its closing fence."""


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown page, in order; what stands inside one is its text, fences too."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        first, indent = number, len(opening["indent"])
        while number < len(lines) and not _closes(lines[number], opening["fence"]):
            number += 1
        inside = (line[indent:] if line[:indent].isspace() else line.lstrip(" ") for line in lines[first:number])
        body = "".join(f"{line}\n" for line in (inside if indent else lines[first:number]))
        yield Block(opening["info"].strip(), body, first + 1, number + 1)
        number += 1


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]}


@attrs.frozen
class Example:
    """A Python example of a page, with the output that stands below it."""

    page: Path
    """The file that it stands in."""
    number: int
    """Which of the page's examples it is, from 1."""
    line: int
    """The number of its first line in the page."""
    code: str
    """What is run."""
    output: str
    """What stands below it, in a block of its own: nothing where there is none."""

    def __str__(self) -> str:
        return f"{self.page.name}-{self.number}"

    def check(self, normalise: Callable[[str], str] = str) -> None:
        """Run it, and compare what it prints with what stands below it.

        It runs in a module of its own, in an empty directory, and with a default bus of its own, which is closed; what
        it changes of ``sys.path``, ``sys.modules`` and the environment is undone, and the types that it registers are
        forgotten. ``normalise`` takes from both texts what differs each time.

        Raises AssertionError with what differs, and what the example raises, with its place in the page.
        """
        __tracebackhide__ = True
        printed, expected = normalise(self.run()), normalise(self.output)
        if printed != expected:
            raise AssertionError(self._difference(expected, printed))

    def run(self) -> str:
        """Run it as `check` does, and return what it prints."""
        printed = io.StringIO()
        try:
            with _on_its_own() as module, contextlib.redirect_stdout(printed):
                exec(self._compiled(), vars(module))
        except BaseException as error:
            error.add_note(f"in example {self.number} of {self.page}, which begins at line {self.line}")
            raise
        return printed.getvalue()

    def _compiled(self) -> types.CodeType:
        # The lines are those of the page, where a traceback shows them.
        return compile("\n" * (self.line - 1) + self.code, self.page, "exec", dont_inherit=True)

    def _difference(self, expected: str, printed: str) -> str:
        lines = difflib.unified_diff(
            expected.splitlines(), printed.splitlines(), "what stands below it", "what it prints", lineterm=""
        )
        where = f"{self.page}, line {self.line}: example {self.number} does not print what stands below it"
        return "\n".join([where, *lines])


def examples(*pages: str | Path) -> list[Example]:
    """The Python examples of Markdown pages, in order: each fenced block that is called ``python``.

    What an example prints stands right below it, in a block that is called ``text``; an example without one prints
    nothing. For a test::

        @pytest.mark.parametrize("example", examples("README.md"), ids=str)
        def test_examples(example):
            example.check()

    Raises `InputError` for a page that can't be read.
    """
    return [example for page in pages for example in _examples(Path(page))]


def _examples(page: Path) -> Iterator[Example]:
    try:
        text = page.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: {error}") from error
    lines, number = text.split("\n"), 0
    found: list[Block | None] = [*blocks(text), None]
    for block, below in pairwise(found):
        if block is None or block.info != "python":
            continue
        number += 1
        told = below is not None and below.info == "text" and not "".join(lines[block.end : below.line - 2]).strip()
        yield Example(page, number, block.line, block.text, below.text if told and below is not None else "")


@contextlib.contextmanager
def _on_its_own() -> Iterator[types.ModuleType]:
    """A fresh module in an empty directory; afterwards all is as it was."""
    module = types.ModuleType("example")
    path, environment, known = sys.path[:], dict(os.environ), sys.modules.get("example")
    sys.modules["example"] = module
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        directory = Path(folder).resolve()
        try:
            # Not by way of the current directory: what was looked for there would not be found once it is written.
            sys.path[:] = filter(None, path)
            with contextlib.chdir(directory), _own_default_bus():
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
    """Forget the events and entities that these modules registered: other examples may have the same."""
    for known in event_types():
        if known.cls.__module__ in modules:
            forget_event(known.cls)
    for known in entities:
        if known.cls.__module__ in modules:
            entities.discard(known.cls)


@contextlib.contextmanager
def _own_default_bus() -> Iterator[None]:
    before = _swap_default_bus(None)
    try:
        yield
    finally:
        made = _swap_default_bus(before)
        if made is not None:
            made.close()


def _swap_default_bus(bus: Bus | None) -> Bus | None:
    with _default.lock:
        before, _default.bus = _default.bus, bus
    return before


def _is_from(module: types.ModuleType, directory: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and directory in Path(file).parents
