"""The curves as pictures: one PNG for each."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks._harness import installed

WIDE: Final = 30
"""From which quotient of the greatest to the least an axis is logarithmic."""
FEW: Final = 30
"""Up to how many points each has a mark."""
TICKS: Final = 8
"""Up to how many points each has a tick."""
TITLE: Final = 90
"""After how many characters a title is wrapped."""
OURS: Final = "#d1495b"
PEERS: Final = ("#30638e", "#edae49", "#3c8d5a", "#7d5ba6", "#7a7a7a", "#00798c")
STYLE: Final[Any] = {  # matplotlib has a type for it that names every key
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": 100,
    "figure.figsize": (7.2, 4.2),
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}

Curve = Mapping[str, Any]
Points = Sequence[Sequence[float]]


def draw(curves: Iterable[Curve], out: Path) -> int:
    """Draw ``curves``, as `benchmarks._table.as_json` has them, into the folder ``out``; how many pictures there are.

    Each file is called as its curve is, and by what that is measured. Without matplotlib nothing is drawn: it is said.
    """
    curves = list(curves)
    if curves and not installed("matplotlib"):
        print("matplotlib is not installed: no pictures")
        return 0
    for curve in curves:
        _draw(curve, out / f"{slug(curve['name'] + ' by ' + curve['x'])}.png")
    return len(curves)


def slug(name: str) -> str:
    """``name`` as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace(",", "")).strip("-")


def is_wide(values: Iterable[float]) -> bool:
    """Whether ``values`` span so much that only a logarithmic axis shows them all; noughts don't count."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) >= WIDE * min(positive)


def _draw(curve: Curve, file: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    series: Mapping[str, Points] = curve["series"]
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        _plot(axes, series)
        if curve["budget"] is not None:
            limit = series["ours"][0][1] * curve["budget"]
            axes.axhline(limit, color=OURS, linewidth=1, linestyle=":", label="ours may grow to")
        _scale(axes, [point for points in series.values() for point in points])
        axes.set_title(textwrap.fill(curve["name"], TITLE))
        axes.set_xlabel(curve["x"])
        axes.set_ylabel(curve["unit"])
        if len(axes.lines) > 1:
            axes.legend()
        figure.savefig(file)


def _plot(axes: Any, series: Mapping[str, Points]) -> None:
    peers = [name for name in series if name != "ours"]
    for name, points in series.items():
        ours = name == "ours"
        axes.plot(
            *zip(*points, strict=True),
            label=name,
            color=OURS if ours else PEERS[peers.index(name) % len(PEERS)],
            marker="o" if len(points) <= FEW else None,
            zorder=3 if ours else 2,
        )


def _scale(axes: Any, points: Points) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    at, cost = zip(*points, strict=True)
    if is_wide(at) and median(at) < max(at) / 4:  # evenly spaced points, such as seconds, need no logarithm
        if min(at) > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=1)
    if is_wide(cost):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, axes.get_ylim()[1])
    if len(set(at)) <= TICKS:
        axes.set_xticks(sorted(set(at)))
        axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
