"""Score against distance from the base: a curve for each merge, its own distance marked, the parents as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.report.figure import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILION, blank, literal, save, tidy

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
# Beyond the colours, the same ones in another stroke.
_STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_ACROSS = 3


@dataclass(frozen=True)
class Line:
    """One merge: distances ascending, a score at each for every panel [panels][points], and which point is its own."""

    name: str
    at: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    own: int


@dataclass(frozen=True)
class Spot:
    """One parent, or the base: its distance and its score in every panel."""

    name: str
    at: float
    values: tuple[float, ...]


def draw_distances(
    path: Path,
    panels: Sequence[str],
    lines: Sequence[Line],
    parents: Sequence[Spot],
    base: Spot,
    percent: Sequence[bool],
    title: str = "",
) -> Path:
    """Draw it, a panel for each score.

    Args:
        path: png, svg or pdf, by its suffix.
        panels: what each panel's score is.
        lines: at least one.
        parents, base: drawn as points; the parents' scores as lines across too.
        percent: for each panel whether its scores are fractions, to be drawn as percentages.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = blank(4.3 * across + 0.6, 3.4 * down + 1.0, path)
    grid: Any = figure.subplots(down, across, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_visible(False)
            continue
        factor = 100.0 if percent[number] else 1.0
        for place, line in enumerate(lines):
            colour = _COLOURS[place % len(_COLOURS)]
            stroke = _STROKES[place // len(_COLOURS) % len(_STROKES)]
            scores = [factor * value for value in line.values[number]]
            axes.plot(line.at, scores, linestyle=stroke, color=colour, linewidth=1.6, marker=".", alpha=0.85, zorder=3)
            own: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8}
            axes.plot(line.at[line.own], scores[line.own], color=colour, zorder=4, **own)
        for parent in parents:
            value = factor * parent.values[number]
            axes.axhline(value, color=PALE, linewidth=0.9, zorder=1)
            axes.plot(parent.at, value, "D", color=INK, markersize=6, zorder=5)
            beside: dict[str, Any] = {"textcoords": "offset points", "xytext": (6, 5), "size": 8.5, "color": INK}
            axes.annotate(literal(parent.name, 24), (parent.at, value), **beside)
        axes.plot(base.at, factor * base.values[number], "s", color=INK, markersize=6, zorder=5, clip_on=False)
        axes.set_title(literal(panels[number], 46), loc="left", size=10, color=INK)
        axes.set_xlim(left=0)
        axes.margins(y=0.08)
        tidy(axes)
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        if percent[number]:
            axes.yaxis.set_major_formatter(lambda value, place: f"{value:.0f}%")
        if number >= len(panels) - across:
            axes.set_xlabel("distance from the base (1: the parents' mean)", size=9, color=GREY)
    if title:
        figure.suptitle(literal(title, 100), x=0.01, ha="left", size=12, color=INK)
    _legend(figure, lines, base)
    return save(figure, path)


def _legend(figure: Any, lines: Sequence[Line], base: Spot) -> None:
    from matplotlib.lines import Line2D

    marks: list[Any] = []
    for place, line in enumerate(lines):
        stroke = _STROKES[place // len(_COLOURS) % len(_STROKES)]
        marks.append(Line2D([], [], color=_COLOURS[place % len(_COLOURS)], linestyle=stroke, label=literal(line.name, 32)))
    ring: dict[str, Any] = {"marker": "o", "linestyle": "", "fillstyle": "none", "markersize": 8}
    marks.append(Line2D([], [], color=GREY, label="the recipe as it stands", **ring))
    marks.append(Line2D([], [], color=INK, marker="D", linestyle="", markersize=5, label="parents"))
    marks.append(Line2D([], [], color=INK, marker="s", linestyle="", markersize=5, label=f"base: {literal(base.name, 24)}"))
    figure.legend(handles=marks, loc="outside lower left", ncols=4, frameon=False, fontsize=8.5, labelcolor=GREY)
