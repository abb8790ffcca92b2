"""What the tests of the command share: the command called in this process, and in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from helpers import TIMEOUT

import crewbus
from crewbus.cli import main


class Cli:
    """Calls the command in this process, in a folder of its own; on the default bus unless another is given."""

    bus: crewbus.Bus | None = None

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.out = self.err = ""

    def use(self, bus: crewbus.Bus) -> None:
        """Run the command on ``bus`` from now on."""
        self.bus = bus

    def open_bus(self) -> crewbus.Bus | None:
        """The bus that the next command runs on; None for the default bus."""
        return self.bus

    def write(self, name: str, text: str) -> str:
        """Write a file; returns its name."""
        (self.folder / name).write_text(dedent(text), encoding="utf-8")
        return name

    def __call__(self, *argv: str) -> int:
        """The exit code; what was written is in ``out`` and ``err``."""
        code = main(argv, bus=self.open_bus())
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


# A child that is started by a shell in the background would inherit an ignored SIGINT.
_START = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import crewbus.cli.runner
crewbus.cli.runner.GRACE = 0.3
from crewbus.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def process(folder: Path, *argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is killed if it takes too long."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    child = subprocess.Popen([sys.executable, "-c", _START, *argv], cwd=folder, text=True, **pipes)
    watchdog = threading.Timer(TIMEOUT, child.kill)
    watchdog.start()
    try:
        yield child
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
