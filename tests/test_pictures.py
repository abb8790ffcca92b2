"""The pictures in the documentation; ``python docs/pictures.py --check`` compares them with what the command shows."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CAPTURES = ROOT / "docs" / "_static" / "captures"
pytestmark = pytest.mark.skipif(not CAPTURES.exists(), reason="the checkout's docs/ is not here")


def test_the_pictures_ask_no_other_host() -> None:
    pictures = list(CAPTURES.glob("*.svg"))
    assert pictures
    assert not [picture.name for picture in pictures if "font-face" in picture.read_text()]
