"""The newsroom killed at every step boundary and in the middle of each step, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

sqlite = pytest.importorskip("crewbus_sqlite", reason="needs crewbus-sqlite: pip install ./plugins/crewbus-sqlite")
PLUGIN = Path(sqlite.__file__).parents[1]

pytestmark = pytest.mark.heavy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

DRIVER = """
    import asyncio, json, os, signal, sys
    sys.path[:0] = sys.argv[1:]
    import crewbus, newsroom
    from crewbus_sqlite import SQLiteStore

    asked = newsroom.ask_script

    def carry_out(path, calls, resume, die_at):
        '''Carry out or resume the newsroom in this process; killed once so many events were emitted and written.'''

        async def counted(messages):
            with open(calls, "a") as file:
                print(json.dumps(messages[0]["content"]), file=file)
            async for piece in asked(messages):
                yield piece

        newsroom.ask_script = counted
        bus = crewbus.Bus(entry_points=False)
        bus.enable_recording(SQLiteStore(path, lease=60))
        seen = []

        @bus.on(object)
        def die(envelope):
            seen.append(envelope)
            if len(seen) == die_at:
                if envelope.seq % 2:  # with and without what is still on its way to the disk
                    bus.store.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            async with bus.resume("run") if resume else bus.run("newsroom", id="run"):
                return await newsroom.newsroom("tidal power")

        article = asyncio.run(main())
        bus.close()
        return {"article": article, "kinds": [type(one.event).__name__ for one in seen]}

    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                told = carry_out(**order)
            except BaseException as error:
                told = {"error": repr(error)}
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        print(text or json.dumps({"killed": True}), flush=True)
"""


@pytest.fixture(scope="module")
def carry_out():
    """Carries out the newsroom in a process of its own, forked from one that has loaded all it needs."""
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(EXAMPLES), str(PLUGIN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:

        def order(path: Path, calls: Path, resume: bool = False, die_at: int = -1) -> dict:
            received = {"path": str(path), "calls": str(calls), "resume": resume, "die_at": die_at}
            driver.stdin.write(json.dumps(received) + "\n")
            driver.stdin.flush()
            return json.loads(driver.stdout.readline())

        yield order
        driver.stdin.close()


def moments(kinds: list[str]) -> list[int]:
    """After how many events to kill: at each boundary of a step, and in the middle of each."""
    boundaries = [i for i, kind in enumerate(kinds, 1) if kind in ("StepStarted", "StepFinished")]
    starts = [i for i, kind in enumerate(kinds, 1) if kind == "StepStarted"]
    middles = [(start + min(end for end in boundaries if end > start)) // 2 for start in starts]
    return sorted({*boundaries, *(boundary - 1 for boundary in boundaries), *middles, 1, len(kinds) - 1})


def test_promise_05_a_newsroom_that_is_killed_anywhere_ends_as_if_it_had_not_been(carry_out, tmp_path):
    undisturbed = carry_out(tmp_path / "whole.db", tmp_path / "whole")
    assert undisturbed["kinds"].count("StepFinished") == 6
    once = Counter((tmp_path / "whole").read_text().splitlines())
    assert set(once.values()) == {1}
    for moment in moments(undisturbed["kinds"]):
        path, calls = tmp_path / f"{moment}.db", tmp_path / f"calls{moment}"
        calls.touch()
        assert carry_out(path, calls, die_at=moment) == {"killed": True}
        resumed = carry_out(path, calls, resume=path.exists())
        if "RunNotFoundError" in resumed.get("error", ""):  # killed before anything of it was on disk
            resumed = carry_out(path, calls)
        assert resumed.get("article") == undisturbed["article"], (moment, resumed)
        asked = Counter(calls.read_text().splitlines())
        assert asked.keys() == once.keys()
        assert max(asked.values()) <= 2, moment
        assert sum(asked.values()) <= sum(once.values()) + 1, moment


def test_promise_05_a_newsroom_that_is_killed_again_and_again_gets_to_its_end(carry_out, tmp_path):
    undisturbed = carry_out(tmp_path / "whole.db", tmp_path / "whole")
    path, calls = tmp_path / "run.db", tmp_path / "calls"
    outcome = carry_out(path, calls, die_at=40)
    kills = 0
    while outcome == {"killed": True}:
        kills += 1
        outcome = carry_out(path, calls, resume=True, die_at=60)
    assert kills >= 2
    assert outcome.get("article") == undisturbed["article"], outcome
