"""Makes the captures of the command in ``docs/_static/captures``, from real sessions: ``python docs/pictures.py``.

Each is a text, for the pages, and a picture of a terminal as SVG. A capture that differs from the committed one in
ids, times and durations only is left as it is; ``--check`` says which differ otherwise, and writes nothing. It needs
POSIX, crewbus-sqlite, and for the pictures rich.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
CAPTURES: Final = ROOT / "docs" / "_static" / "captures"
WIDTH: Final = 100
FAILING: Final = """\
import crewbus


@crewbus.step
def fetch(page):
    if page == 7:
        raise ConnectionError("no route to host")
    crewbus.chunk(f"page {page} ")


def crawl():
    for page in range(1, 9):
        fetch(page)
"""
SESSIONS: Final = {
    "run": ["crewbus run examples/newsroom.py:newsroom --arg topic='night trains' --record", "crewbus show latest"],
    "fifty": ["crewbus run examples/newsroom.py:newsroom --input examples/topics.jsonl --concurrency 50"],
    "runs": [
        "crewbus run examples/newsroom.py:newsroom --arg topic='night trains' --record > article.txt",
        "crewbus run crawler.py:crawl --record",
        "crewbus runs",
        "crewbus show latest",
        "crewbus tail latest -n 4",
    ],
    "mistakes": ["crewbus runs --lmit 3", "crewbus runs --store crewbus.db"],
}
_VARIES: Final = re.compile(r"\b[0-9a-f]{8,}\b|\bnow\b|\d[\d:.,]*|<1(?= ms)|\b(?:ms|s|min)\b|[#.|]{8,}| +|\n")
"""What differs from one session to the next: ids, numbers, times, bars, and where lines are padded or wrapped."""


def captured(commands: list[str], folder: Path) -> str:
    """What a terminal shows when the commands are typed in it, with its colours."""
    shown = ""
    for command in commands:
        shown += f"\x1b[1m$ {command}\x1b[0m\n{_output(command, folder)}\n"
    return shown.rstrip() + "\n"


def _output(command: str, folder: Path) -> str:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    line = command.replace("crewbus ", f"{shlex.quote(sys.executable)} -m crewbus ", 1)
    paths = filter(None, [str(ROOT), str(ROOT / "plugins" / "crewbus-sqlite"), os.getenv("PYTHONPATH")])
    environment = {**os.environ, "TERM": "xterm", "PAGER": "cat", "NO_COLOR": "", "PYTHONPATH": os.pathsep.join(paths)}
    environment["CREWBUS_STORE"] = f"sqlite:///{folder}/crewbus.db"
    child = subprocess.Popen(line, shell=True, cwd=folder, env=environment, stdin=side, stdout=side, stderr=side)
    os.close(side)
    written = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(main)
    child.wait()
    text = written.decode().replace("\r\n", "\n").replace(str(folder), "/home/me/agents")
    return re.sub(r"[^\n]*\r\x1b\[K", "", text)  # the progress line, as it was replaced


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def shape(text: str) -> str:
    """What two sessions have in common."""
    return _VARIES.sub("", plain(text))


def picture(name: str, text: str) -> str:
    """The capture as SVG."""
    from rich.console import Console  # for the pictures only
    from rich.text import Text

    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    svg = console.export_svg(title="crewbus", unique_id=name)
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # a reader's browser asks no other host


def main() -> int:
    """Capture each session; returns how many differ from the committed ones, if they are checked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    differ = 0
    CAPTURES.mkdir(parents=True, exist_ok=True)
    for name, commands in SESSIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "examples").symlink_to(ROOT / "examples")
            (Path(folder) / "crawler.py").write_text(FAILING)
            text = captured(commands, Path(folder))
        committed = CAPTURES / f"{name}.txt"
        if committed.exists() and shape(committed.read_text()) == shape(text):
            continue
        differ += 1
        sys.stdout.write(f"{committed.relative_to(ROOT)} {'differs' if check else 'is written'}\n")
        if not check:
            committed.write_text(plain(text))
            committed.with_suffix(".svg").write_text(picture(name, text))
    return differ if check else 0


if __name__ == "__main__":
    sys.exit(main())
