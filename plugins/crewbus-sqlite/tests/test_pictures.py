"""The captures in the documentation are what the command shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "docs" / "pictures.py"
pytestmark = pytest.mark.skipif(not PICTURES.exists(), reason="the checkout's docs/ is not here")


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudoterminal is POSIX's")
def test_the_captures_are_what_the_command_shows() -> None:
    done = subprocess.run([sys.executable, PICTURES, "--check"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_pictures_ask_no_other_host() -> None:
    pictures = list((ROOT / "docs" / "_static" / "captures").glob("*.svg"))
    assert pictures
    assert not [picture.name for picture in pictures if "font-face" in picture.read_text()]
