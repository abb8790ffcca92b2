"""Examples of Markdown pages: found, run separately, and compared with the output below them."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from pathlib import Path

import pytest

import crewbus
from crewbus.testing import examples


@pytest.fixture
def page(tmp_path):
    """Writes a page; `$` stands for a backtick."""

    def page(text, name="page.md"):
        (tmp_path / name).write_text(textwrap.dedent(text).replace("$", "`"), "utf-8")
        return tmp_path / name

    return page


def only(path):
    (example,) = examples(path)
    return example


GOOD = """\
    # A page

    $$$python
    print("one")
    print("two")
    $$$

    $$$text
    one
    two
    $$$

    Words.

    $$$python
    silent = True
    $$$
"""


def test_a_page_has_its_examples_in_order(page):
    first, second = examples(page(GOOD))
    assert (first.code, first.output) == ('print("one")\nprint("two")\n', "one\ntwo\n")
    assert (second.code, second.output) == ("silent = True\n", "")
    assert (str(first), str(second)) == ("page.md-1", "page.md-2")
    assert (first.line, second.line) == (4, 16)
    first.check()
    second.check()


def test_examples_of_several_pages(page):
    pages = page(GOOD, "a.md"), page(GOOD, "b.md")
    assert list(map(str, examples(*pages))) == ["a.md-1", "a.md-2", "b.md-1", "b.md-2"]


@pytest.mark.parametrize(
    "text",
    [
        "$$$text\npython\n$$$",
        "$$$\npython\n$$$",
        "$$${python}\nprint()\n$$$",
        "$$$$md\n$$$python\nprint()\n$$$\n$$$$",
        "~~~md\n$$$python\nprint()\n$$$\n~~~",
        "    print()\n",
        "$$$pycon\n>>> 1\n$$$",
        "",
    ],
    ids=range(8),
)
def test_other_blocks_are_not_examples(page, text):
    assert examples(page(text)) == []


def test_the_output_is_the_text_block_directly_below(page):
    text = "$$$python\n$$$\n\nWhich is not:\n\n$$$text\nof another\n$$$\n"
    assert only(page(text)).output == ""
    text = "$$$python\n$$$\n\n\n$$$text\nits own\n$$$\n"
    assert only(page(text)).output == "its own\n"


def test_an_example_in_a_list(page):
    text = "- so:\n\n  $$$python\n  if True:\n\n      print(1)\n  $$$\n\n  $$$text\n  1\n  $$$\n"
    example = only(page(text))
    assert example.code == "if True:\n\n    print(1)\n"
    example.check()


def test_a_block_inside_a_block_belongs_to_it(page):
    text = "$$$python\npage = '''\n~~~python\nprint(1)\n~~~\n'''\nprint(len(page))\n$$$\n\n$$$text\n24\n$$$\n"
    only(page(text)).check()


def test_indentation_that_all_lines_share_is_ignored(page):
    only(page("$$$python\nprint('  a\\n   b')\n$$$\n\n$$$text\n  a\n   b\n$$$\n")).check()


def test_a_missing_page_is_an_error(tmp_path):
    with pytest.raises(crewbus.InputError, match=r"nowhere\.md"):
        examples(tmp_path / "nowhere.md")


def test_a_difference_is_shown_with_its_place(page):
    path = page("One.\n\n$$$python\nprint('one')\nprint('two')\n$$$\n\n$$$text\none\n2\n$$$\n")
    with pytest.raises(AssertionError) as raised:
        only(path).check()
    assert str(raised.value).splitlines() == [
        f"{path}, line 4: example 1 does not print the output below it",
        "--- the output below it",
        "+++ what it prints",
        "@@ -1,2 +1,2 @@",
        " one",
        "-2",
        "+two",
    ]


@pytest.mark.parametrize(("code", "output"), [("print('x')", ""), ("", "x"), ("print('x', end='')", "x")])
def test_every_difference_counts(page, code, output):
    below = f"\n$$$text\n{output}\n$$$\n" if output else ""
    with pytest.raises(AssertionError):
        only(page(f"$$$python\n{code}\n$$$\n{below}")).check()


def test_normalise_removes_what_differs_between_runs(page):
    example = only(page("$$$python\nprint(id(object()))\n$$$\n\n$$$text\n140\n$$$\n"))
    example.check(lambda text: "an id" if text.strip().isdigit() else text)


def test_an_error_shows_its_line_in_the_page(page):
    path = page("One.\n\n$$$python\ndef fail():\n    raise LookupError\n\n\nfail()\n$$$\n")
    with pytest.raises(LookupError) as raised:
        only(path).check()
    frames = [frame for frame in traceback.extract_tb(raised.value.__traceback__) if frame.filename == str(path)]
    assert [(frame.lineno, frame.line) for frame in frames] == [(8, "fail()"), (5, "raise LookupError")]
    assert raised.value.__notes__ == [f"in example 1 of {path}, which begins at line 4"]


def test_an_example_runs_separately(page, monkeypatch):
    """It sees nothing of this process's state, and leaves nothing."""
    monkeypatch.setenv("EXAMPLE", "kept")
    monkeypatch.setitem(sys.modules, "example", "kept")
    before = Path.cwd(), sys.path[:], dict(os.environ), set(sys.modules)
    example = only(
        page("""\
        $$$python
        import os
        import sys
        from pathlib import Path

        import crewbus

        assert list(Path().iterdir()) == []
        assert sys.modules["example"].__dict__ is globals()
        Path("written.py").write_text("x = 1")
        sys.path.insert(0, ".")
        sys.path.insert(0, str(Path.cwd()))
        import written

        os.environ["EXAMPLE"] = "changed"
        os.environ["ADDED"] = "1"


        @crewbus.event
        class Sold:
            item: "str"


        def annotated(x: 1 + 1): ...


        print(annotated.__annotations__, Sold.__module__)
        $$$

        $$$text
        {'x': 2} example
        $$$
    """)
    )
    example.check()
    example.check()
    assert (Path.cwd(), sys.path, dict(os.environ), set(sys.modules)) == before
    assert sys.modules["example"] == "kept"


def test_a_failing_example_leaves_nothing(page):
    before = Path.cwd(), sys.path[:], dict(os.environ), set(sys.modules)
    path = page("$$$python\nimport os\nos.environ['ADDED'] = '1'\nraise SystemExit(3)\n$$$\n")
    with pytest.raises(SystemExit):
        only(path).check()
    assert (Path.cwd(), sys.path, dict(os.environ), set(sys.modules)) == before


def test_an_example_has_its_own_default_bus_which_is_closed(page):
    ours = crewbus.default_bus()
    seen = []
    crewbus._seen = seen
    try:
        only(page("$$$python\nimport crewbus\ncrewbus._seen.append(crewbus.default_bus())\n$$$\n")).check()
    finally:
        del crewbus._seen
    assert seen[0] is not ours
    assert seen[0].closed
    assert crewbus.default_bus() is ours
    ours.close()
