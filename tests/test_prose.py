"""The prose of the pages: phrases that read as translated, each with what to write."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTEAD = {
    "belongs into": "belongs in",
    "belong into": "belong in",
    "goes before": "has precedence over",
    "go before": "have precedence over",
    "in the place of": "instead of",
    "is to happen": "should happen",
    "learn of": "find out about, or name the caller",
    "must bear": "must be idempotent, or must stand",
    "say the figures": "report the figures",
    "tells the rest": "see … for all options",
    "told by name": "reported by name",
    "heeds": "honours",
    "what is so then": "the current state",
}
PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("*.md"),
    *ROOT.glob("plugins/*/README.md"),
]


def test_no_page_has_a_phrase_of_the_list():
    found = [
        f"{page.relative_to(ROOT)}:{number}: {phrase!r}: {instead}"
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        for phrase, instead in INSTEAD.items()
        if re.search(rf"\b{phrase}\b", line, re.IGNORECASE)
    ]
    assert found == []
