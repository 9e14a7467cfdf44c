"""Densities of one parameter: two parents', and that of what is made of them, in theory and as it came out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.report.figure import BLUE, GREY, INK, VERMILION, blank, literal, save, tidy

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Densities [n] between edges [n + 1]."""

    edges: Values
    density: Values


@dataclass(frozen=True)
class Panel:
    """One picture of the set.

    Attributes:
        at: where the curves are known, [n].
        parents: each parent's name and density [n].
        result: the density in theory, [n], or None where there is no formula.
        drawn: what came out of the code.
        says: which code.
    """

    title: str
    at: Values
    parents: tuple[tuple[str, Values], ...]
    result: Values | None
    drawn: Histogram
    says: str


def draw_densities(path: Path, panels: Sequence[Panel], title: str = "") -> Path:
    """Draw the panels, two across.

    Args:
        path: png, svg or pdf, by its suffix.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    down = math.ceil(len(panels) / 2)
    figure = blank(9.6, 2.5 * down + 0.4, path)
    grid: Any = figure.subplots(down, 2, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_visible(False)
            continue
        panel = panels[number]
        bins = panel.drawn
        axes.stairs(bins.density, bins.edges, fill=True, color="#b9bec6", alpha=0.75, label=panel.says)
        if panel.result is not None:
            axes.plot(panel.at, panel.result, color=INK, linewidth=1.6, label="in theory")
        # Dashed, the second the other way about: where parents coincide both are seen.
        for (name, density), colour, begin in zip(panel.parents, (VERMILION, BLUE), (0, 4), strict=False):
            axes.plot(panel.at, density, color=colour, linewidth=1.5, linestyle=(begin, (4, 4)), label=name)
        axes.set_title(literal(panel.title, 70), loc="left", size=9.5, color=INK)
        axes.set_yticks([])
        highest = max(float(density.max()) for density in (*(found for _, found in panel.parents), bins.density))
        axes.set_ylim(0, 1.28 * highest)
        axes.set_xlim(panel.at[0], panel.at[-1])
        axes.legend(frameon=False, fontsize=8, labelcolor=GREY, loc="upper left", ncols=4, columnspacing=1.2, handlelength=1.6)
        tidy(axes)
        axes.grid(False)
        if number >= len(panels) - 2:
            axes.set_xlabel("value of a parameter θ", size=9, color=GREY)
    if title:
        figure.suptitle(literal(title, 100), x=0.01, ha="left", size=12, color=INK)
    return save(figure, path)
