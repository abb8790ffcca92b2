"""The command: runs, their targets, what is listed; called in this process."""

from __future__ import annotations

import argparse
import inspect
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_helpers import Cli
from helpers import TIMEOUT, Noted
from plugin_helpers import logged, plugin

import crewbus
import crewbus.hookspecs

AGENTS = """\
    import asyncio, functools, sys
    import crewbus

    async def talk(topic="sky", times=2):
        for number in range(times):
            crewbus.chunk(f"{topic}{number} ")
            await asyncio.sleep(0)
        return "not streamed"

    def sync(topic, times=2):
        for number in range(times):
            crewbus.chunk(f"{topic}{number} ")

    def thinks():
        crewbus.chunk("hm", kind="reasoning")
        crewbus.chunk("{}", kind="tool_call")
        crewbus.chunk("so")

    def retries():
        crewbus.chunk("first try")
        crewbus.emit(crewbus.Retracted(0))
        crewbus.chunk("second try")

    def picky(number):
        crewbus.chunk("partial")
        if number % 2:
            raise ValueError("odd\\n\\x1b[31mnumber")

    def unlike(number):
        raise KeyError(number)

    def leaves():
        sys.exit(3)

    def cancels():
        crewbus.current_run().cancel("enough")
        crewbus.chunk("never")

    def prints():
        print("printed")
        crewbus.chunk("said")

    def options(options, fn=0, self=0, func=0):
        crewbus.chunk(f"{options} {fn} {self} {func}")

    def generates():
        yield "text"

    class Crew:
        async def __call__(self):
            crewbus.chunk("called")
        async def go(self, word):
            crewbus.chunk(word)

        def drafts(self):
            yield "text"

    class Drafts:
        def __call__(self):
            yield "text"

    async def stumble():
        raise AttributeError("missing")

    async def team():
        async with asyncio.TaskGroup() as group:
            group.create_task(stumble())

    crew, drafts = Crew(), Drafts()
    bound = functools.partial(crew.go, "bound")
    settings = {"a": 1}
    """


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """The command in a folder with ``agents.py``; its bus has the built-in plugins alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = set(sys.modules)
    with crewbus.Bus(entry_points=False) as bus:
        command = Cli(tmp_path, capsys)
        command.use(bus)
        command.write("agents.py", AGENTS)
        yield command
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# One run


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["agents:talk"], "sky0 sky1 \nnot streamed\n"),
        (["agents.py:talk"], "sky0 sky1 \nnot streamed\n"),
        (["./agents.py:talk", "--arg", "topic=sea", "--arg", "times=1"], "sea0 \nnot streamed\n"),
        (["agents:sync", "--arg", "topic=7"], "70 71 "),
        (["agents:crew"], "called"),
        (["agents:crew.go", "--arg", "word=going"], "going"),
        (["agents:bound"], "bound"),
        (["agents:thinks"], "so"),
        (["agents:retries"], "first try\n[retracted]\nsecond try"),
        (["agents:options", "--arg", "options=a", "--arg", "fn=b", "--arg", "self=c", "--arg", "func=d"], "a b c d"),
    ],
)
def test_a_single_run_prints_its_text_and_its_status(cli: Cli, argv: list[str], text: str) -> None:
    assert cli("run", *argv) == 0
    assert cli.out == text
    name = argv[0].rpartition(":")[2]
    assert cli.err.startswith(f"{name} finished in ")


def test_a_single_line_of_input_is_a_single_run(cli: Cli) -> None:
    cli.write("one.jsonl", '\n{"topic": "x", "times": 3}\n\n')
    assert cli("run", "agents:sync", "--input", "one.jsonl", "--arg", "times=1") == 0
    assert cli.out == "x0 x1 x2 "


def test_a_failed_run_shows_its_error_and_where_it_was_raised(cli: Cli) -> None:
    assert cli("run", "agents.py:picky", "--arg", "number=1") == 1
    assert cli.out == "partial"
    line = 1 + AGENTS.splitlines().index('            raise ValueError("odd\\n\\x1b[31mnumber")')
    assert cli.err.startswith("picky failed after ")
    assert cli.err.endswith(f": ValueError: odd \\x1b[31mnumber (agents.py:{line})\n")


def test_the_only_error_of_a_task_group_is_shown_itself(cli: Cli) -> None:
    assert cli("run", "agents.py:team", "--json") == 1
    (fault,) = cli.summary["failures"]
    assert fault["error"] == "AttributeError"
    assert "missing" in fault["message"]


def test_the_traceback_starts_in_the_target(cli: Cli) -> None:
    assert cli("run", "agents.py:unlike", "--arg", "number=1", "--traceback") == 1
    assert cli.err.startswith("in unlike: Traceback (most recent call last):\n")
    assert cli.err.count("  File ") == 1
    assert "KeyError: 1" in cli.err


@pytest.mark.parametrize(
    ("target", "how", "why"), [("leaves", "failed", "SystemExit: 3"), ("cancels", "cancelled", "enough")]
)
def test_a_run_that_is_cancelled_or_exits_is_exit_code_1(cli: Cli, target: str, how: str, why: str) -> None:
    assert cli("run", f"agents.py:{target}") == 1
    assert f"{target} {how} after " in cli.err
    assert why in cli.err


def test_a_run_is_named_and_tagged_and_recorded_when_asked(cli: Cli) -> None:
    bus, seen = cli.bus, []

    @bus.on(crewbus.RunStarted)
    def note(envelope: crewbus.Envelope) -> None:
        seen.append((envelope.event.name, dict(envelope.event.tags), bus.record_of(envelope.run_id or "") is not None))

    cli.write("in.jsonl", '"x"\n"y"\n')
    assert cli("run", "agents:sync", "--input", "in.jsonl", "--concurrency", "1", "--record") == 0
    assert [(name, tags["input"], recorded) for name, tags, recorded in seen] == [
        ("sync", "in.jsonl:1", True),
        ("sync", "in.jsonl:2", True),
    ]
    assert bus.closed, "the command flushes and closes its bus"


# Many runs


def test_several_runs_end_with_a_summary_table(cli: Cli) -> None:
    cli.write("in.jsonl", "\n".join(map(str, range(30))))
    assert cli("run", "agents.py:picky", "--input", "in.jsonl") == 1
    head, counts, blank, what, where = cli.out.splitlines()
    assert head.split() == ["runs", "ok", "failed", "cancelled", "chunks", "seconds"]
    assert counts.split()[:5] == ["30", "15", "15", "0", "30"]
    assert blank == ""
    assert what.startswith("15 runs failed: ValueError: odd \\x1b[31mnumber (agents.py:")
    assert where.startswith("  in.jsonl:")
    assert where.endswith(" and 7 more")
    assert cli.err == "", "no progress where it is no terminal"


def test_the_table_lists_twenty_failures_and_counts_the_others(cli: Cli) -> None:
    cli.write("in.jsonl", "\n".join(map(str, range(33))))
    assert cli("run", "agents.py:unlike", "--input", "in.jsonl") == 1
    assert cli.out.count("1 run failed: KeyError: ") == 20
    assert cli.out.endswith("\nand 13 more, each failed differently\n")


def test_json_is_one_object_and_nothing_else(cli: Cli) -> None:
    assert cli("run", "agents:prints", "--json") == 0
    assert set(cli.summary) == {"runs", "ok", "failed", "cancelled", "chunks", "seconds", "results"}
    assert cli.err == "printed\n", "what the target prints is not in the way"


def test_json_includes_failures(cli: Cli) -> None:
    cli.write("in.jsonl", "1\n2\n")
    assert cli("run", "agents:picky", "--input", "in.jsonl", "--json") == 1
    summary = cli.summary
    assert (summary["runs"], summary["ok"], summary["failed"], summary["chunks"]) == (2, 1, 1, 2)
    (fault,) = summary["failures"]
    assert (fault["error"], fault["runs"], fault["seen"][0]["input"]) == ("ValueError", 1, "in.jsonl:1")


def test_input_without_lines_starts_no_runs(cli: Cli) -> None:
    cli.write("none.jsonl", "\n \n")
    assert cli("run", "agents:talk", "--input", "none.jsonl", "--json") == 0
    assert cli.summary["runs"] == 0


def test_standard_input_is_read_for_a_dash(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'"x"\n["y"]\n{bad')))
    assert cli("run", "agents:sync", "--input", "-") == 2
    assert "stdin:3: not JSON: " in cli.err
    assert cli.out == ""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_concurrency_limits_how_many_runs_execute_at_a_time(cli: Cli, kind: str) -> None:
    barrier = {"sync": "threading.Barrier(3, timeout=60)", "async": "asyncio.Barrier(3)"}[kind]
    word, wait = {"sync": ("", ""), "async": ("async ", "await ")}[kind]
    cli.write(
        f"crowd_{kind}.py",
        f"""\
        import asyncio, threading
        meeting, lock, live, most = {barrier}, threading.Lock(), 0, 0
        {word}def agent(number):
            global live, most
            with lock:
                live += 1
                most = max(most, live)
            {wait}meeting.wait()  # passed by three at a time
            with lock:
                live -= 1
            {wait}meeting.wait()
        """,
    )
    cli.write("in.jsonl", "\n".join(map(str, range(9))))
    assert cli("run", f"crowd_{kind}.py:agent", "--input", "in.jsonl", "--concurrency", "3") == 0
    assert sys.modules[f"crowd_{kind}"].most == 3


def test_dropped_chunks_are_counted(cli: Cli) -> None:
    cli.write("flood.py", "import crewbus\nasync def agent(number):\n    for _ in range(5000): crewbus.chunk('x')\n")
    cli.write("in.jsonl", "1\n2\n3\n")
    assert cli("run", "flood.py:agent", "--input", "in.jsonl", "--json") == 0
    assert cli.summary["chunks"] == 15000


def test_the_text_of_a_single_run_is_complete_even_if_it_never_awaits(cli: Cli) -> None:
    cli.write("gush.py", "import crewbus\nasync def agent():\n    for i in range(20000): crewbus.chunk(f'{i} ')\n")
    assert cli("run", "gush.py:agent") == 0
    assert cli.out == "".join(f"{i} " for i in range(20000))


def test_results_are_not_kept(cli: Cli) -> None:
    cli.write(
        "heavy.py",
        """\
        import weakref
        class Result: pass
        results = weakref.WeakSet()
        most = 0
        async def agent(number):
            global most
            most = max(most, len(results))
            result = Result()
            results.add(result)
            return result
        """,
    )
    cli.write("in.jsonl", "\n".join(map(str, range(50))))
    assert cli("run", "heavy.py:agent", "--input", "in.jsonl", "--concurrency", "2") == 0
    assert sys.modules["heavy"].most <= 3


# A terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_several_runs_show_a_progress_line_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    cli.write("in.jsonl", "1\n2\n3\n")
    assert cli("run", "agents:picky", "--input", "in.jsonl") == 1
    assert screen.getvalue().startswith("\r\x1b[K\x1b[2m[....................] 0/3  0 ok  ")
    assert screen.getvalue().endswith("\r\x1b[K"), "nothing is left of it"
    assert "\x1b" not in cli.out, "a pipe gets no colour"


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_only_terminals_without_no_color_are_coloured(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    assert cli("plugins") == 0
    assert ("\x1b[32mloaded\x1b[0m" in screen.getvalue()) is coloured


def test_characters_that_the_encoding_lacks_are_escaped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert cli("run", "agents:talk", "--arg", "topic=\u00e4\u2028", "--arg", "times=1") == 0
    assert narrow.buffer.getvalue() == b"\\xe4\\u20280 \nnot streamed\n"  # type: ignore[attr-defined]


# Targets


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("agents", "TARGET is module:callable or path.py:callable; got 'agents'"),
        ("agents:", "TARGET is module:callable or path.py:callable; got 'agents:'"),
        (":talk", "TARGET is module:callable or path.py:callable; got ':talk'"),
        ("agents:crew..go", "TARGET is module:callable or path.py:callable; got 'agents:crew..go'"),
        ("agents:tlak", "agents has no 'tlak': did you mean talk?"),
        ("agents.py:tlak", "agents.py has no 'tlak': did you mean talk?"),
        ("agents:crew.goo", "agents.crew has no 'goo': did you mean go?"),
        ("agents:zzz", "agents has no 'zzz'; there are Crew, Drafts, cancels, crew, drafts, generates, "),
        ("agents:settings", "agents:settings is not callable: its type is dict"),
        ("agents:generates", "agents:generates is a generator function: call crewbus.chunk(text) instead of yielding"),
        ("agents:crew.drafts", "agents:crew.drafts is a generator function: "),
        ("agents:drafts", "agents:drafts is a generator function: "),
        ("agent:talk", "there is no module 'agent': did you mean agents?"),
        ("agents.sub:talk", "there is no module 'agents.sub'"),
        ("agent.py:talk", "there is no file 'agent.py': did you mean agents.py?"),
        ("folder/agents:talk", "'folder/agents' is neither a module name nor a file name that ends in .py"),
        ("json.py:loads", "json.py: a module 'json' is already loaded from "),
        ("broken:agent", "broken cannot be imported: ZeroDivisionError: division by zero (broken.py:2)"),
        ("broken.py:agent", "broken.py cannot be imported: ZeroDivisionError: division by zero (broken.py:2)"),
        ("wrong.py:agent", "wrong.py cannot be imported: SyntaxError: "),
        ("needs:agent", "needs cannot be imported: ModuleNotFoundError: No module named 'not_installed' (needs.py:1)"),
        ("quits:agent", "quits cannot be imported: SystemExit: 1 (quits.py:1)"),
    ],
)  # fmt: skip
def test_an_invalid_target_is_an_error(cli: Cli, target: str, why: str) -> None:
    cli.write("json.py", "")
    cli.write("broken.py", "one = 1\nagent = one / 0\n")
    cli.write("wrong.py", "def agent(:\n")
    cli.write("needs.py", "import not_installed\n")
    cli.write("quits.py", "raise SystemExit(1)\n")
    assert cli("run", target) == 2
    assert cli.err.startswith(f"crewbus: error: {why}")
    assert cli.err.count("\n") == 1
    assert cli.out == ""
    assert "broken" not in sys.modules, "a file that could not be loaded leaves nothing"


def test_a_file_can_import_its_neighbours_and_its_own_module(cli: Cli) -> None:
    (cli.folder / "inside").mkdir()
    cli.write("inside/neighbour.py", "word = 'hello'")
    cli.write(
        "inside/my-agent.py",
        """\
        from __future__ import annotations
        import pickle, dataclasses, sys
        import crewbus, neighbour
        @dataclasses.dataclass
        class Word:
            text: dataclasses.InitVar[str]
        class Thing: pass
        def agent():
            assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
            crewbus.chunk(neighbour.word)
        """,
    )
    assert cli("run", "inside/my-agent.py:agent") == 0
    assert cli.out == "hello"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["agents:sync"], "neither --input nor --arg is given: sync(topic, times=2): missing a required"),
        (["agents:talk", "--arg", "x=1"], "--arg: talk(topic='sky', times=2): got an unexpected keyword argument 'x'"),
        (["agents:sync", "--input", "in.jsonl"], "in.jsonl:3: sync(topic, times=2): missing a required argument"),
        (["agents:sync", "--input", "in.jsonl", "--arg", "topic=1"], "in.jsonl:2: sync(topic, times=2): multiple"),
        (["agents:sync", "--input", "torn.jsonl"], "torn.jsonl:4: not JSON: "),
        (["agents:sync", "--input", "missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["agents:sync", "--arg", "topic"], "--arg 'topic' is not NAME=VALUE"),
    ],
)  # fmt: skip
def test_all_input_is_checked_before_the_first_run(cli: Cli, argv: list[str], why: str) -> None:
    cli.write("in.jsonl", '{"topic": 1}\n"x"\n{}\n')
    cli.write("torn.jsonl", '{"topic": 1}\n\n"x"\n{"topic": \n')
    assert cli("run", *argv) == 2
    assert cli.err.startswith(f"crewbus: error: {why}")
    assert cli.out == ""


# Usage


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["run"],
        ["run", "agents:talk", "--concurrency", "0"],
        ["run", "a:b", "--conc", "1"],
        ["hooks", "emit", "x"],
    ],
)
def test_invalid_usage_is_exit_code_2(cli: Cli, argv: list[str]) -> None:
    assert cli(*argv) == 2
    assert cli.err.startswith("usage: crewbus")


def test_the_help_lists_the_exit_codes(cli: Cli) -> None:
    assert cli("--help") == 0
    for code in ("0 ", "1 ", "2 ", "130 ", "143 "):
        assert f"\n  {code}" in cli.out
    assert cli("--version") == 0
    assert cli.out == f"crewbus {crewbus.__version__}\n"


def test_recording_without_a_recorder_is_an_error(cli: Cli) -> None:
    cli.use(crewbus.Bus(entry_points=False, blocked=["checkpoint_recorder"]))
    assert cli("run", "agents:talk", "--record") == 2
    assert cli.err.startswith("crewbus: error: nothing records: ")


def test_ctrl_c_before_the_runs_shows_no_traceback(cli: Cli) -> None:
    cli.write("late.py", "raise KeyboardInterrupt\n")
    assert cli("run", "late.py:agent") == 130
    assert cli.err == "crewbus: interrupted\n"


def test_the_signal_handlers_are_restored(cli: Cli) -> None:
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert cli("run", "agents:talk") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_signals_are_not_handled(cli: Cli) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli("run", "agents:talk")), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert codes == [0]


# Plugins and hooks


def install(folder: Path, name: str, version: str, code: str) -> None:
    """Lay a distribution into ``folder`` whose plugin, of the same name, is this module."""
    (folder / f"{name}.py").write_text(code)
    metadata = folder / f"acme_{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[crewbus]\n{name} = {name}\n")


OBSERVER = "import crewbus\n@crewbus.hookimpl\ndef crewbus_emit(envelope): pass\n"


@pytest.fixture
def installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command where two distributions are installed: a plugin that works and one that doesn't."""
    site = cli.folder / "site"
    site.mkdir()
    install(site, "acme_good", "1.2", OBSERVER)
    install(site, "acme_broken", "3.4", "raise ImportError('no backend')\n")
    monkeypatch.syspath_prepend(site)
    cli.bus = None
    return cli


def test_plugins_lists_the_status_of_each(installed: Cli) -> None:
    assert installed("plugins") == 0
    rows = {line.split()[0]: line.split(maxsplit=4)[1:] for line in installed.out.splitlines()[1:]}
    assert rows["run_scope"] == ["loaded", "crewbus", crewbus.__version__, "crewbus_current_run, crewbus_stream_chunk"]
    assert rows["acme_good"] == ["loaded", "acme-acme_good", "1.2", "crewbus_emit"]
    assert rows["acme_broken"] == ["broken", "acme-acme_broken", "3.4", "ImportError: no backend"]
    assert installed.err == "", "what the table says is not warned of as well"


def test_plugins_as_json(installed: Cli) -> None:
    assert installed("plugins", "--json") == 0
    infos = {info["name"]: info for info in installed.summary}  # type: ignore[attr-defined]
    assert infos["acme_broken"] == {
        "name": "acme_broken",
        "status": "broken",
        "distribution": "acme-acme_broken",
        "version": "3.4",
        "hooks": [],
        "reason": "ImportError: no backend",
    }
    assert infos["acme_good"]["hooks"] == ["crewbus_emit"]


def test_other_commands_warn_of_a_broken_plugin_once(installed: Cli) -> None:
    assert installed("run", "agents:talk") == 0
    note = "crewbus: warning: plugin 'acme_broken' (acme-acme_broken 3.4) was skipped: ImportError: no backend\n"
    assert installed.err.startswith(note)
    assert installed.err.count("acme_broken'") == 1


def test_blocked_plugins_are_listed_with_the_reason(cli: Cli) -> None:
    cli.use(crewbus.Bus(entry_points=False, blocked=["checkpoint_recorder"]))
    assert cli("plugins") == 0
    assert "checkpoint_recorder  blocked" in cli.out
    assert "blocked by name" in cli.out


class Ordered:
    """Plugins that take part in one hook in every manner, and note that they were called."""

    def __init__(self, bus: crewbus.Bus) -> None:
        self.calls: list[str] = []
        for name in ("early", "tryfirst", "trylast", "wrapper", "late", "wrapper tryfirst"):
            manner = {word: True for word in name.split() if word not in ("early", "late")}
            bus.plugins.register(plugin(crewbus_emit=crewbus.hookimpl(**manner)(self.noting(name))), name)

    def noting(self, name: str) -> Any:
        def note(envelope: Any) -> None:
            self.calls.append(name)

        def around(envelope: Any) -> Any:
            self.calls.append(name)
            return (yield)

        return around if "wrapper" in name else note


def test_hooks_lists_implementations_in_the_order_of_calls(cli: Cli) -> None:
    ordered = Ordered(cli.bus)
    cli.bus.emit(Noted())
    assert cli("hooks", "--json") == 0
    infos = {info["name"]: info for info in cli.summary}  # type: ignore[attr-defined]
    emit = infos["crewbus_emit"]
    assert emit["implementations"] == ordered.calls
    assert ordered.calls == ["wrapper tryfirst", "wrapper", "tryfirst", "late", "early", "trylast"]
    assert [detail["plugin"] for detail in emit["details"]] == ordered.calls
    assert [detail["manner"] for detail in emit["details"]] == [
        ["wrapper", "tryfirst"], ["wrapper"], ["tryfirst"], [], [], ["trylast"]
    ]  # fmt: skip
    assert (emit["arguments"], emit["firstresult"]) == (["bus", "run", "envelope"], False)
    assert emit["doc"] == "Observe an event after it has its run and number. For exporters, metrics, consoles."
    assert infos["crewbus_open_store"]["firstresult"] is True
    assert next(iter(infos)) == "crewbus_emit", "in the order of hookspecs.py"


def test_the_first_listed_implementation_of_a_firstresult_hook_gives_the_result(cli: Cli) -> None:
    for name in ("one", "two"):
        cli.bus.plugins.register(plugin(crewbus_open_store=lambda url, name=name: name), name)
    assert cli("hooks", "open_store", "--json") == 0
    (info,) = cli.summary
    assert info["implementations"] == ["two", "one", "memory_store"]
    assert cli.bus.plugins.hook.crewbus_open_store(bus=cli.bus, url="memory:") == "two"


@pytest.mark.parametrize("function", [f for f in vars(crewbus.hookspecs).values() if hasattr(f, "crewbus_spec")])
def test_every_hook_is_shown_as_its_hookspec_says(cli: Cli, function: Any) -> None:
    name = function.__name__
    assert cli("hooks", name, "--json") == 0
    (info,) = cli.summary
    assert info["arguments"] == list(inspect.signature(function).parameters)
    assert info["firstresult"] is function.crewbus_spec["firstresult"]
    assert info["doc"] == inspect.getdoc(function)
    assert cli("hooks") == 0
    (paragraph,) = [text for text in cli.out.split("\n\n") if text.startswith(f"{name}(")]
    assert paragraph.splitlines()[1].strip() == inspect.getdoc(function).partition("\n")[0]
    assert ("  firstresult" in paragraph) is info["firstresult"]


def test_hooks_are_shown_with_their_arguments_and_implementations(cli: Cli) -> None:
    Ordered(cli.bus)
    assert cli("hooks") == 0
    assert "crewbus_open_store(bus, url)  firstresult\n    Open the store that " in cli.out
    assert "\n    implemented by memory_store\n" in cli.out
    assert "\n    not implemented\n" in cli.out
    assert (
        "implemented by wrapper tryfirst (wrapper, tryfirst), wrapper (wrapper), tryfirst (tryfirst), late" in cli.out
    )


@pytest.mark.parametrize("name", ["emit", "crewbus_emit"])
def test_a_single_hook_is_shown_with_its_documentation(installed: Cli, name: str) -> None:
    assert installed("hooks", name) == 0
    first, _, rest = installed.out.partition("\n")
    assert first == "crewbus_emit(bus, run, envelope)"
    shown = " ".join(rest.split())
    assert " ".join((crewbus.hookspecs.crewbus_emit.__doc__ or "").split()) in shown
    assert "An exception is contained, and reported with the plugin's name." in shown
    assert "acme_good acme-acme_good 1.2" in shown
    assert installed("hooks") == 0
    assert "acme_good (acme-acme_good 1.2)" in installed.out, "other installed plugins may implement it too"


def test_a_single_hook_is_shown_with_its_rules_for_results_and_exceptions(cli: Cli) -> None:
    assert cli("hooks", "open_store") == 0
    assert "The first result other than None is the result of the hook" in cli.out
    assert "An exception is contained" not in cli.out
    assert cli("hooks", "record") == 0
    assert "The first result" not in cli.out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("emitt", "there is no hook 'crewbus_emitt': did you mean crewbus_emit?"),
        ("crewbus_open_stores", "there is no hook 'crewbus_open_stores': did you mean crewbus_open_store?"),
        ("pytest_collection", "there is no hook 'crewbus_pytest_collection'"),
    ],
)
def test_an_unknown_hook_is_an_error_with_a_suggestion(cli: Cli, name: str, says: str) -> None:
    assert cli("hooks", name) == 2
    assert cli.err.startswith(f"crewbus: error: {says}")


def test_hooks_of_plugins_are_listed_while_they_have_a_hookspec_or_an_implementation(cli: Cli) -> None:
    class Spec:
        @crewbus.hookspec
        def acme_paid(self, cents: int) -> None:
            """A payment was made."""

    cli.bus.plugins.add_hookspecs(Spec)
    cli.bus.plugins.register(plugin(acme_tomorrow=crewbus.hookimpl(optionalhook=True)(lambda: None)), "early bird")
    assert cli("hooks") == 0
    assert "acme_paid(cents)\n    A payment was made.\n    not implemented\n" in cli.out
    assert "acme_tomorrow()\n    implemented by early bird\n" in cli.out
    assert cli("hooks", "acme_tomorrow") == 0
    assert "It has no hookspec." in cli.out
    cli.bus.plugins.unregister("early bird")
    assert cli("hooks") == 0
    assert "acme_tomorrow" not in cli.out


class Greeting:
    """A plugin that brings a command."""

    @crewbus.hookimpl
    def crewbus_cli_commands(self, commands: Any) -> None:
        commands.add("greet", self.greet, help="say hello", configure=self.add_arguments)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--fail", action="store_true")

    @staticmethod
    def greet(args: argparse.Namespace, bus: crewbus.Bus) -> int:
        if args.fail:
            raise crewbus.RecordingError("the disk is full")
        print(f"hello from {type(bus).__name__}")  # noqa: T201
        return 5


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        (["greet"], 5, "hello from Bus\n", ""),
        (
            ["greet", "--fail"],
            2,
            "",
            "crewbus: error: the disk is full\nSee the page howto/record-runs of crewbus's documentation.\n",
        ),
    ],
)
def test_a_plugin_can_add_commands(cli: Cli, argv: list[str], code: int, out: str, err: str) -> None:
    cli.bus.plugins.register(Greeting())
    assert cli(*argv) == code
    assert (cli.out, cli.err) == (out, err)


def test_a_plugin_s_command_is_in_the_help(cli: Cli) -> None:
    cli.bus.plugins.register(Greeting())
    assert cli("--help") == 0
    assert "say hello" in cli.out
    assert cli("greet", "--help") == 0
    assert "usage: crewbus greet [-h] [--fail]" in cli.out
    assert "Say hello." in cli.out, "without a description, the help is shown as a sentence"


def test_a_command_has_a_description_an_epilog_and_exit_code_0_by_default(cli: Cli) -> None:
    def add(commands: crewbus.Commands) -> None:
        commands.add("count", count, help="count", description="Count\n  something.", epilog="Not more.")

    def count(args: argparse.Namespace, bus: crewbus.Bus) -> None:
        print("counted")  # noqa: T201

    cli.bus.plugins.register(plugin(crewbus_cli_commands=add))
    assert cli("count", "--help") == 0
    assert "\nCount\n  something.\n" in cli.out
    assert cli.out.endswith("Not more.\n")
    assert cli("count") == 0
    assert cli.out == "counted\n"


def test_a_command_may_have_an_argument_of_any_name(cli: Cli) -> None:
    def add(commands: crewbus.Commands) -> None:
        commands.add("play", lambda args, bus: len(args.main), help="play", configure=configure)

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("main")

    cli.bus.plugins.register(plugin(crewbus_cli_commands=add))
    assert cli("play", "four") == 4


@pytest.mark.parametrize("argv", [["-p", "mine", "plugins"], ["plugins", "--require", "metrics"]])
def test_the_plugins_of_a_given_bus_cannot_be_selected(cli: Cli, argv: list[str]) -> None:
    assert cli(*argv) == 2
    assert "-p and --require select the plugins of the default bus" in cli.err


def test_promise_09_a_plugin_that_fails_to_add_its_command_is_reported_and_the_others_are_added(
    cli: Cli,
) -> None:
    def again(commands: Any) -> None:
        commands.add("run", print, help="a name that is taken")

    cli.bus.plugins.register(Greeting())
    cli.bus.plugins.register(plugin(crewbus_cli_commands=again), "clumsy")
    with logged() as messages:
        assert cli("greet") == 5
    assert len(messages) == 1
    assert "clumsy" in messages[0]


def test_the_console_script_is_crewbus_cli_main() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="crewbus")
    assert entry.value == "crewbus.cli:main"
    assert os.fspath(Path(crewbus.__file__).parent / "cli") in str(entry.load().__code__.co_filename)
