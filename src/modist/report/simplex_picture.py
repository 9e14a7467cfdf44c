"""How well a mixture of three predicts over all its weights: a triangle with one expert alone at each corner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.report.figure import GREY, INK, PURPLE, VERMILION, blank, literal, save

Values = npt.NDArray[np.float64]
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
_LEVELS = 14
# Replicates drawn as dots.
_DOTS = 400


def draw_simplex(
    path: Path,
    names: Sequence[str],
    weights: Values,
    nats: Values,
    best: Values,
    replicates: Values | None = None,
    given: Values | None = None,
    title: str = "",
) -> Path:
    """Draw nats per token as shades and contours.

    Args:
        path: png, svg or pdf, by its suffix.
        names: of the three experts: lower left, lower right, top.
        weights: points of the triangle, [points, 3].
        nats: per token at each, [points]; infinite ones are left out.
        best: the likeliest weights, [3].
        replicates: weights of rows drawn again, [replicates, 3]: a cloud around the best.
        given: the recipe's weights, [3].

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    figure = blank(6.6, 5.6, path)
    from matplotlib.colors import BoundaryNorm

    axes: Any = figure.subplots()
    there = np.isfinite(nats)
    flat = weights[there] @ _CORNERS
    x, y = flat.T
    # Steep towards the corners: levels by rank, so that the valley shows.
    levels = np.unique(np.quantile(nats[there], np.linspace(0, 1, _LEVELS + 1)))
    if len(flat) >= 3 and len(levels) >= 3 and np.ptp(y) > 0:
        picture = axes.tricontourf(x, y, nats[there], levels=levels, cmap="cividis_r", norm=BoundaryNorm(levels, 256))
        axes.tricontour(x, y, nats[there], levels=levels, colors="white", linewidths=0.4, alpha=0.7)
        bar = figure.colorbar(picture, ax=axes, shrink=0.75, format="%.3g")
        bar.set_label("nats a token (less is better)", size=9, color=GREY)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=GREY)
    outline = np.vstack([_CORNERS, _CORNERS[:1]])
    axes.plot(*outline.T, color=INK, linewidth=1)
    if replicates is not None:
        cloud = replicates[:_DOTS] @ _CORNERS
        axes.plot(*cloud.T, ".", color=INK, markersize=2.5, alpha=0.5, label="rows drawn again", clip_on=False)
    if given is not None:
        axes.plot(*(given @ _CORNERS), "s", color=VERMILION, markersize=7, markeredgecolor="white", label="the recipe")
    axes.plot(*(best @ _CORNERS), "o", color=PURPLE, markersize=9, markeredgecolor="white", label="likeliest weights", zorder=5)
    for corner, name, across, up in zip(_CORNERS, names, ("center", "center", "center"), (-0.05, -0.05, 0.04), strict=True):
        axes.text(corner[0], corner[1] + up, literal(name, 26), ha=across, va="center", size=9.5, color=INK)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(-0.1, math.sqrt(3) / 2 + 0.1)
    if title:
        axes.set_title(literal(title, 80), loc="left", size=12, color=INK)
    axes.legend(loc="upper left", frameon=True, facecolor="#e9e9e9", edgecolor="none", fontsize=8.5, labelcolor=INK)
    return save(figure, path)
