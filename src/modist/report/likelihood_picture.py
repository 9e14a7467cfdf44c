"""How well a mixture of two predicts, and how many answers it gets right, along the weight of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.report.figure import BLUE, GREEN, GREY, INK, PALE, PURPLE, VERMILION, blank, literal, save, tidy

Values = npt.NDArray[np.float64]
_LINES = (BLUE, VERMILION, GREEN)


@dataclass(frozen=True)
class Mark:
    """A weight worth a line of its own."""

    at: float
    says: str


@dataclass(frozen=True)
class Accuracies:
    """One benchmark's curve: fractions with their intervals at weights, ascending."""

    name: str
    at: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Star:
    """The accuracy, a fraction, of something else at a weight."""

    at: float
    value: float
    says: str


def draw_likelihood(
    path: Path,
    names: tuple[str, str],
    at: Values,
    nats: Values,
    best: Mark,
    interval: tuple[float, float],
    given: Mark | None = None,
    accuracies: Sequence[Accuracies] = (),
    gated: Star | None = None,
    title: str = "",
) -> Path:
    """Draw nats per token against the weight of the first expert, the second alone at the left, the first at the right.

    Args:
        path: png, svg or pdf, by its suffix.
        names: of the experts.
        at: weights, ascending, [n].
        nats: per token, [n]; infinite ones are left out.
        best: the likeliest weight, and what to call it.
        interval: of that weight.
        given: the recipe's.
        accuracies: on development benchmarks; the last in black if there are several (it is their mean).  A second panel.

        gated: beside the curves.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    figure = blank(7.4, 4.2 if not accuracies else 7.2, path)
    grid: Any = figure.subplots(2 if accuracies else 1, 1, sharex=True, squeeze=False)
    above = grid[0, 0]
    there = np.isfinite(nats)
    above.plot(at[there], nats[there], color=INK, linewidth=1.8)
    above.plot([at[there][0], at[there][-1]], [nats[there][0], nats[there][-1]], "o", color=INK, markersize=5, clip_on=False)
    lowest = float(np.interp(best.at, at[there], nats[there]))
    above.plot(best.at, min(lowest, float(nats[there].min())), "o", color=PURPLE, markersize=7, zorder=4)
    above.set_ylabel("nats a token (less is better)", size=9, color=GREY)
    if title:
        above.set_title(literal(title, 90), loc="left", size=12, color=INK)
    if accuracies:
        _accuracies(grid[1, 0], accuracies, gated)
    for axes in grid[:, 0]:
        tidy(axes)
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        axes.axvspan(*interval, color=PURPLE, alpha=0.15, linewidth=0, label=None if axes is not above else "its 95% interval")
        axes.axvline(best.at, color=PURPLE, linewidth=1.4, label=literal(best.says) if axes is above else None)
        if given is not None:
            says = literal(given.says) if axes is above else None
            axes.axvline(given.at, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label=says)
    below = grid[-1, 0]
    below.set_xlim(-0.01, 1.01)
    below.set_xticks(np.linspace(0, 1, 6))
    first, second = (literal(name, 30) for name in names)
    below.set_xlabel(f"{second} alone  ←  weight of {first}  →  {first} alone", size=9, color=GREY)
    above.legend(fontsize=8.5, labelcolor=INK, loc="upper center", facecolor="white", edgecolor="none", framealpha=0.9)
    if accuracies:
        below.legend(frameon=False, fontsize=8.5, labelcolor=GREY, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)
    return save(figure, path)


def _accuracies(axes: Any, curves: Sequence[Accuracies], gated: Star | None) -> None:
    for number, curve in enumerate(curves):
        mean = len(curves) > 1 and number == len(curves) - 1
        colour = INK if mean or len(curves) == 1 else _LINES[number % len(_LINES)]
        low, value, high = (100 * np.array(part) for part in (curve.low, curve.value, curve.high))
        axes.fill_between(curve.at, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(
            curve.at, value, color=colour, linewidth=2.2 if mean else 1.5, marker="o", markersize=4, label=literal(curve.name)
        )
        # The parents, at the ends.
        ends = [place for place, weight in enumerate(curve.at) if weight in (0.0, 1.0)]
        axes.plot([curve.at[end] for end in ends], [value[end] for end in ends], "s", color=colour, markersize=7, clip_on=False)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("development questions right (%)", size=9, color=GREY)
    if gated is not None:
        style = {"marker": "*", "markersize": 13, "linestyle": "", "markeredgecolor": "white", "zorder": 5}
        axes.plot(gated.at, 100 * gated.value, color=GREEN, label=literal(gated.says), **style)
