"""Accuracy by benchmark, a dot with its interval for each row, against the line of the best parent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.report.figure import GREY, INK, KINDS, NAMES, PARENTS, blank, literal, save, tidy

_ACROSS = 4


@dataclass(frozen=True)
class Point:
    """Accuracy and its interval, fractions; `believed` where the table has it in bold."""

    accuracy: float
    low: float
    high: float
    believed: bool = False


@dataclass(frozen=True)
class Panel:
    """One benchmark: its title, and a point for each row (None where it was not asked)."""

    title: str
    points: tuple[Point | None, ...]


def draw_bars(path: Path, names: Sequence[str], kinds: Sequence[str], panels: Sequence[Panel], title: str = "") -> Path:
    """Draw it, up to four panels across.

    Args:
        path: png, svg or pdf, by its suffix.
        names, kinds: of the rows, parents first: "parent", "merge", "mixture", "rival" or "other".
        panels: at least one.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    longest = max(len(literal(name)) for name in names)
    width = 0.075 * longest + 0.4 + across * (2.6 if across > 2 else 3.6)
    figure = blank(width, down * (0.27 * len(names) + 0.75) + 0.6, path)
    grid: Any = figure.subplots(down, across, sharey=True, squeeze=False)
    colours = _colours(kinds)
    parents = [at for at, kind in enumerate(kinds) if kind == "parent"]
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_visible(False)
            continue
        panel = panels[number]
        _draw_panel(axes, panel, colours, parents)
        axes.set_title(literal(panel.title), loc="left", size=10, color=INK)
        axes.set_yticks(range(len(names)), [literal(name) for name in names])
        # Only the first of a row shows them.
        for label, kind in zip(axes.get_yticklabels(), kinds, strict=False):
            label.set(color=INK, fontweight="bold" if kind == "parent" else "normal")
        axes.set_ylim(len(names) - 0.5, -0.5)
        if number >= len(panels) - across:
            axes.set_xlabel("questions answered right (%)", size=9, color=GREY)
    if title:
        figure.suptitle(literal(title, 100), x=0.01, ha="left", size=12, color=INK)
    _legend(figure, [kind for kind in KINDS if kind in kinds], bool(parents))
    return save(figure, path)


def _colours(kinds: Sequence[str]) -> list[str]:
    parents = 0
    found = []
    for kind in kinds:
        if kind == "parent":
            found.append(PARENTS[parents % len(PARENTS)])
            parents += 1
        else:
            found.append(KINDS.get(kind, GREY))
    return found


def _draw_panel(axes: Any, panel: Panel, colours: Sequence[str], parents: Sequence[int]) -> None:
    there = [(at, point) for at, point in enumerate(panel.points) if point]
    for at, point in there:
        axes.hlines(at, 100 * point.low, 100 * point.high, color=colours[at], linewidth=2.4, alpha=0.45)
        # Hollow: whatever the dot seems to say, it is not shown to beat the best parent.
        face = colours[at] if point.believed or at in parents else "white"
        axes.plot(100 * point.accuracy, at, "o", markersize=6, markerfacecolor=face, markeredgecolor=colours[at], zorder=3)
    best = max(((point.accuracy, at) for at, point in there if at in parents), default=None)
    if best is not None:
        axes.axvline(100 * best[0], color=colours[best[1]], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if parents:
        axes.axhspan(-0.5, len(parents) - 0.5, color="black", alpha=0.04, linewidth=0, zorder=0)
    low = min((point.low for _, point in there), default=0.0)
    high = max((point.high for _, point in there), default=1.0)
    pad = 0.04 * max(0.1, high - low)
    axes.set_xlim(max(-2, 100 * (low - pad)), min(102, 100 * (high + pad)))
    tidy(axes)


def _legend(figure: Any, kinds: Sequence[str], parents: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", color=KINDS[kind], fillstyle="none", label=NAMES[kind]) for kind in kinds]
    if parents:
        marks.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="best parent"))
        marks.append(Line2D([], [], marker="o", linestyle="", color=GREY, label="filled: shown to beat it (or a parent)"))
    if marks:
        figure.legend(handles=marks, loc="outside lower left", ncols=5, frameon=False, fontsize=8.5, labelcolor=GREY)
