"""What reaches a terminal: no control character of a run or record, tables that fit, rows that fold."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import struct
import sys
import termios
import time
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cli_helpers import Cli
from helpers import Noted
from hypothesis import given
from hypothesis import strategies as st

import crewbus
from crewbus._util import escape_control, one_line
from crewbus.cli import format_table
from crewbus.cli.formatting import format_age
from crewbus.cli.run_ids import short_id
from crewbus.cli.terminal import OutputStream
from crewbus.cli.text import TIMES, columns, shorten
from crewbus.cli.tree_rows import cut, fold, matching

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202emirrored\u2066\u2028\ud800"
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
OWN_STYLE = re.compile(r"\x1b\[(?:[0-2]|3[1-3])(?:;(?:[12]|3[1-3]))*m")
posix = pytest.mark.skipif(sys.platform == "win32", reason="a pseudoterminal is POSIX's")


class Screen(io.StringIO):
    """A terminal of some width."""

    def isatty(self) -> bool:
        return True


def screen(width: int, monkeypatch: pytest.MonkeyPatch) -> OutputStream:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(OutputStream, "width", width)
    return OutputStream(Screen())


def is_safe(text: str) -> bool:
    """Whether no character would be interpreted by a terminal but newlines and tabs."""
    return not any((unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t") or c in BIDI for c in text)


# Text


@given(st.text(alphabet=st.characters(codec=None)))
def test_no_text_reaches_a_terminal_as_control(text: str) -> None:
    assert is_safe(escape_control(text))
    assert is_safe(one_line(text))
    out = OutputStream(Screen())
    out.write_text(text)
    out.write(text)
    assert is_safe(OWN_STYLE.sub("", out.stream.getvalue()))  # type: ignore[attr-defined]


@given(st.text(alphabet=st.sampled_from("\x1b[]0123;mKHJ\x07\x9b\r\n\t a")))
def test_nothing_that_looks_like_an_escape_sequence_is_one(text: str) -> None:
    out = OutputStream(Screen())
    out.write_text(text)
    assert "\x1b" not in out.stream.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "न्‍य",
        "👩‍👩‍👧",
        "\u0633\u0644\u0627\u0645\u200c\u0647\u0627",
        "日本語",
        "Ünïcödé",
        "a\tb\nc",
        "\u200eleft-to-right mark",
    ],
    ids=["devanagari", "family", "persian", "japanese", "accents", "layout", "mark"],
)
def test_other_scripts_and_joiners_stay_as_they_are(text: str) -> None:
    assert escape_control(text) == text


def test_escapes_are_readable() -> None:
    assert escape_control("\x1b[2J \u202e \x85\r\nnext") == "\\x1b[2J \\u202e \\x85\nnext"


def test_a_pipe_gets_all_text_as_it_is_and_so_does_a_terminal_that_is_asked_to() -> None:
    for out in (OutputStream(io.StringIO()), OutputStream(Screen(), raw=True)):
        out.write_text("\x1b[2J")
        assert out.stream.getvalue() == "\x1b[2J"  # type: ignore[attr-defined]


@given(st.text(max_size=30), st.integers(0, 20))
def test_shortened_text_fits(text: str, width: int) -> None:
    short = shorten(text, width)
    assert columns(short) <= max(width, 0) or columns(text) == columns(short)
    assert short == text or short.endswith("…") or width == 0


def test_wide_characters_take_two_columns_and_marks_none() -> None:
    assert [columns(text) for text in ("abc", "日本", "e\u0301", "\u200d")] == [3, 4, 1, 0]


def test_colour_can_be_forced_and_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert OutputStream(io.StringIO()).styled("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("FORCE_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert OutputStream(Screen()).styled("x", "red") == "x"


# Tables


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = screen(width, monkeypatch)
    rows = [["run", "name", "state", "details"], ["25b150ce", "a name that goes on " * 9, "finished", "日本語 " * 40]]
    text = format_table(out, rows, lambda *_: (), whole=("run", "state"))
    assert all(columns(line) <= width for line in OWN_STYLE.sub("", text).splitlines())
    assert "25b150ce" in text
    assert "finished" in text
    assert "…" in text


def test_a_table_in_a_pipe_is_not_cut() -> None:
    rows = [["name", "state"], ["n" * 300, "s" * 300]]
    assert format_table(OutputStream(io.StringIO()), rows, lambda *_: ()).endswith(f"{'n' * 300}  {'s' * 300}\n")


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (0.2, "now"), (1, "1 s ago"), (59, "59 s ago"), (180, "3 min ago"), (7200, "2 h ago"), (259200, "3 d ago"),
        (-90, "in 1 min"), (1e300, "?"),
    ],
)  # fmt: skip
def test_ages_say_how_long_ago(seconds: float, age: str) -> None:
    now = 1_700_000_000.0
    assert format_age(now - seconds, now) == age


def test_what_is_older_than_a_month_has_its_date() -> None:
    assert format_age(1_700_000_000.0, 1_710_000_000.0) == time.strftime("%Y-%m-%d", time.localtime(1_700_000_000))


# Trees


def entry(name: str, state: str = "finished", error: str = "") -> Any:
    node = SimpleNamespace(kind="step")
    return SimpleNamespace(
        node=node, name=name, key="", state=state, void=False, error=error, attempt=1, edited=False
    )  # fmt: skip


def named(tree: Any) -> list[tuple[int, str]]:
    return [(depth, one.name) for depth, one in tree]


def test_three_equal_rows_are_one_and_two_are_two() -> None:
    tree = [(0, entry("run")), *[(1, entry("a"))] * 2, *[(1, entry("b"))] * 2000, (1, entry("b", "failed"))]
    assert [(depth, ones[0].name, len(ones)) for depth, ones in fold(tree)] == [
        (0, "run", 1), (1, "a", 1), (1, "a", 1), (1, "b", 2000), (1, "b", 1),
    ]  # fmt: skip


def test_rows_are_equal_only_if_what_is_below_them_is() -> None:
    pair = [(1, entry("step")), (2, entry("call"))]
    tree = [(0, entry("run")), *pair * 3, (1, entry("step")), (2, entry("other"))]
    assert [(depth, ones[0].name, len(ones)) for depth, ones in fold(tree)] == [
        (0, "run", 1), (1, "step", 3), (2, "call", 3), (1, "step", 1), (2, "other", 1),
    ]  # fmt: skip


def test_a_tree_of_any_depth_is_folded() -> None:
    tree = [(depth, entry("run")) for depth in range(3000)]
    assert [depth for depth, _ in fold(tree)] == [depth for depth, _ in tree]


def test_matching_rows_keep_what_is_around_and_below_them() -> None:
    tree = [
        (0, entry("run")), (1, entry("a")), (2, entry("x")), (1, entry("b")), (2, entry("hit")), (3, entry("y")),
        (2, entry("z")), (1, entry("hit")),
    ]  # fmt: skip
    found = matching(tree, lambda one: one.name == "hit")
    assert named(found) == [(0, "run"), (1, "b"), (2, "hit"), (3, "y"), (1, "hit")]
    assert named(cut(tree, 1)) == [(0, "run"), (1, "a"), (1, "b"), (1, "hit")]
    assert matching(tree, lambda one: False) == []


# Commands


@pytest.fixture
def cli(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    called = Cli(tmp_path, capsys)
    store = crewbus.MemoryStore()

    class Records(Cli):
        def open_bus(self) -> crewbus.Bus:
            bus = crewbus.Bus(entry_points=False)
            bus.recording.use_store(store)
            return bus

    called.__class__ = Records
    yield called
    for name in ("hostile", "agents_"):
        sys.modules.pop(name, None)


AGENTS = """\
import crewbus

def says(number=1):
    crewbus.chunk("hello")
    return number

def fails(number=1):
    if number % 2:
        raise ValueError("odd \\x1b[2J")
    return number

def gives(value="it"):
    return {"value": value}

@crewbus.step
def search(number):
    crewbus.emit(crewbus.Chunk("found "))

def many():
    for number in range(5):
        search(number)
"""


def test_a_result_that_was_not_streamed_is_printed(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    assert cli("run", "agents_.py:gives") == 0
    assert json.loads(cli.out) == {"value": "it"}


def test_json_has_the_id_state_and_result_of_each_run(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    cli.write("in.jsonl", "1\n2\n")
    assert cli("run", "agents_.py:fails", "--input", "in.jsonl", "--record", "--json") == 1
    odd, even = sorted(cli.summary["results"], key=lambda each: each["input"])
    assert (odd["state"], odd["input"]) == ("failed", "in.jsonl:1")
    assert odd["error"].startswith("ValueError: odd \\x1b[2J (")
    assert (even["state"], even["result"]) == ("finished", 2)
    assert cli("show", even["run_id"]) == 0


def test_the_status_of_a_recorded_run_says_how_to_look_at_it(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    assert cli("run", "agents_.py:gives", "--record") == 0
    status = re.fullmatch(r"run (\w+) finished in [\d.]+ m?s \(crewbus show (\w+)\)\n", cli.err)
    assert status, cli.err
    assert cli("show", status[2], "--json") == 0
    assert short_id(cli.summary["id"]) == status[1]


def test_what_failed_is_repeated_and_nothing_else(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    cli.write("in.jsonl", "1\n2\n3\n")
    assert cli("run", "agents_.py:fails", "--input", "in.jsonl", "--record") == 1
    assert "--failed-from latest" in cli.err
    assert cli("run", "agents_.py:fails", "--record", "--failed-from", "latest", "--json") == 1
    assert sorted(each["input"] for each in cli.summary["results"]) == ["in.jsonl:1", "in.jsonl:3"]
    assert cli("run", "agents_.py:fails", "--failed-from", "latest", "--input", "in.jsonl") == 2
    assert "leave out --input and --arg" in cli.err


def test_show_folds_equal_steps_and_chooses_among_them(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    assert cli("run", "agents_.py:many", "--record") == 0
    assert cli("show", "latest") == 0
    assert f"step search {TIMES}5" in cli.out
    assert "5 chunks, 30 characters" in cli.out
    assert cli("show", "latest", "--unfold") == 0
    assert cli.out.count("step search") == 5
    assert cli("show", "latest", "--depth", "0") == 0
    assert "search" not in cli.out
    assert cli("show", "latest", "--step", "search", "--json") == 0
    assert [node["name"] for node in cli.summary["tree"]] == ["many", *["search"] * 5]
    for choice in (["--failed"], ["--step", "other"]):
        assert cli("show", "latest", *choice) == 0
        assert cli.out.endswith("nothing in it matches\n")


def test_tail_prints_the_last_events_or_the_text(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    assert cli("run", "agents_.py:many", "--record") == 0
    assert cli("tail", "latest") == 0
    lines = cli.out.splitlines()
    for more in ([], ["--follow"]):
        assert cli("tail", "latest", "-n", "3", *more) == 0
        assert cli.out.splitlines() == lines[-3:]
        assert cli("tail", "latest", "--text", *more) == 0
        assert cli.out == "found " * 5
    assert cli("tail", "latest", "-n", "0") == 0
    assert cli.out == ""


def test_what_is_mistyped_is_answered_with_what_may_be_meant(cli: Cli) -> None:
    mistyped = {"shwo": "show", "runs --lmit 3": "--limit", "run x:y --recrod": "--record"}
    for line, meant in mistyped.items():
        assert cli(*line.split()) == 2
        assert f"did you mean {meant}?" in cli.err
    assert cli("runs", "--store", "crewbus.db") == 2
    assert "did you mean sqlite:///crewbus.db?" in cli.err


def test_runs_has_whole_ids_and_times_when_asked(cli: Cli) -> None:
    cli.write("agents_.py", AGENTS)
    assert cli("run", "agents_.py:gives", "--record", "--json") == 0
    run_id = cli.summary["results"][0]["run_id"]
    assert cli("runs") == 0
    assert cli.out.splitlines()[1].startswith(f"{short_id(run_id)}  gives  finished  ")
    assert cli("runs", "--long") == 0
    assert re.match(rf"{run_id}  gives  finished  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]", cli.out.splitlines()[1])


def test_what_a_shell_needs_is_printed(cli: Cli) -> None:
    pytest.importorskip("argcomplete")
    for shell in ("bash", "zsh", "fish"):
        assert cli("completion", shell) == 0
        assert "_ARGCOMPLETE" in cli.out


# A real terminal


@posix
@pytest.mark.parametrize(
    "command",
    [["show", "latest"], ["runs"], ["tail", "latest"], ["tail", "latest", "--text"], ["diff", "latest", "one"]],
)
def test_a_hostile_record_is_shown_as_text(command: list[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    text = HOSTILE.replace("\ud800", "")  # which no record can hold
    store = crewbus.MemoryStore()
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store)
        for run_id in ("one", "two"):
            with bus.run(text, id=run_id, tags={text: text}), pytest.raises(ValueError, match="title"):
                bus.emit(Noted(text))
                with bus.call(text):
                    bus.chunk(text + run_id)
                    raise ValueError(text)
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 80, 0, 0))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setattr(sys, "stdout", os.fdopen(side, "w", encoding="utf-8"))
    bus = crewbus.Bus(entry_points=False)
    bus.recording.use_store(store)
    crewbus.cli.main([*command], bus=bus)
    sys.stdout.close()
    written = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(main)
    shown = OWN_STYLE.sub("", written.decode().replace("\r\n", "\n"))
    assert "title" in shown
    assert is_safe(shown)
