"""The curves of the benchmarks as pictures: one for each, on axes that show all of it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SIGNATURE = b"\x89PNG\r\n\x1a\n"

DECADES = [(10**power, 300.0 + power) for power in range(2, 7)]
CURVES = {
    "flat, by decades": {"ours": DECADES},
    "steep, by decades": {
        "ours": [(at, 9.0 * at) for at, _ in DECADES],
        "a peer": [(at, 2.0 * at) for at, _ in DECADES],
    },
    "from nought": {"ours": [(0, 1.0), (1, 2.0), (50, 3.0)]},
    "by seconds": {"ours": [(second, 1000.0 / second) for second in range(1, 121)]},
    "nothing but noughts": {"ours": [(0, 0.0), (1, 0.0)]},
}


def curve(name: str, budget: float | None = None) -> dict[str, Any]:
    return {"name": name, "x": "events", "series": CURVES[name], "unit": "ns", "budget": budget}


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Last, so that the crewbus that is installed comes first.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return import_module("benchmarks._plots")


@pytest.fixture
def pictures(plots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws curves, and gives the figures by the names of the files that are then there."""
    pytest.importorskip("matplotlib", reason="the pictures need matplotlib (dependency group bench)")
    from matplotlib.figure import Figure

    saved: dict[str, Any] = {}
    save = Figure.savefig

    def keep(figure: Any, file: Path) -> None:
        saved[file.name] = figure
        save(figure, file)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(*curves: dict[str, Any]) -> dict[str, Any]:
        assert plots.draw(curves, tmp_path) == len(curves)
        assert sorted(saved) == sorted(file.name for file in tmp_path.iterdir())
        return saved

    return draw


def test_each_curve_is_a_small_picture(pictures: Callable[..., Any], tmp_path: Path) -> None:
    pictures(*(curve(name) for name in CURVES))
    assert {file.name for file in tmp_path.iterdir()} == {
        "flat-by-decades-by-events.png",
        "steep-by-decades-by-events.png",
        "from-nought-by-events.png",
        "by-seconds-by-events.png",
        "nothing-but-noughts-by-events.png",
    }
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert content.startswith(SIGNATURE)
        width, height = struct.unpack(">II", content[16:24])
        assert 600 <= width <= 1000
        assert 300 <= height <= 700
        assert len(content) < 100_000


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("flat, by decades", "log", "linear"),
        ("steep, by decades", "log", "log"),
        ("from nought", "symlog", "linear"),
        ("by seconds", "linear", "log"),
        ("nothing but noughts", "linear", "linear"),
    ],
)
def test_axes_are_logarithmic_where_what_they_show_spans_decades(
    pictures: Callable[..., Any], name: str, x: str, y: str
) -> None:
    (figure,) = pictures(curve(name)).values()
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == (x, y)


def test_a_picture_says_what_it_shows(pictures: Callable[..., Any]) -> None:
    (figure,) = pictures(curve("steep, by decades")).values()
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "steep, by decades"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("events", "ns")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "a peer"]
    ours, peer = axes.lines
    assert [tuple(point) for point in ours.get_xydata()] == CURVES["steep, by decades"]["ours"]
    assert [tuple(point) for point in peer.get_xydata()] == CURVES["steep, by decades"]["a peer"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "1,000", "10,000", "100,000", "1,000,000"]


def test_a_budget_is_a_line_that_ours_should_stay_below(pictures: Callable[..., Any]) -> None:
    (figure,) = pictures(curve("flat, by decades", budget=1.5)).values()
    _, limit = figure.axes[0].lines
    assert set(limit.get_ydata()) == {302.0 * 1.5}


def test_nothing_to_draw_is_nothing_drawn(plots: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plots.draw([], tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_without_matplotlib_it_says_so(
    plots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "installed", lambda module: module != "matplotlib" and find_spec(module) is not None)
    assert plots.draw([curve("from nought")], tmp_path) == 0
    assert capsys.readouterr().out == "matplotlib is not installed: no pictures\n"
    assert not list(tmp_path.iterdir())
