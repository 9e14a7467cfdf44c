"""The picture of a search of weights: the likelihood along the weight, or over the triangle, and the accuracies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modist.errors import UserError

if TYPE_CHECKING:
    from modist.report.likelihood_picture import Accuracies, Star
    from modist.search.mixture import MixtureSearch
    from modist.search.sweep import Sweep


# Towards the ends the curve of two is steep: finer steps, where that takes no second.
_FINE, _MANY = 1000, 100_000


def check_drawing(path: Path, experts: int) -> None:
    """Refuse what `draw` could not draw, before anything is run.

    Raises:
        UserError: another number of experts than two or three, no picture by its suffix, no folder, or no matplotlib.
    """
    from modist.report.attribution import check_picture

    if experts not in (2, 3):
        raise UserError(f"--picture draws the weights of two or three experts; these are {experts}")
    check_picture(path)


def draw(found: MixtureSearch, path: Path) -> Path:
    """Draw into a file, which appears whole or not at all.

    Raises:
        UserError: as `check_drawing`, or the file cannot be written.
    """
    check_drawing(path, len(found.names))
    land = found.landscape(_FINE if len(found.names) == 2 and found.tokens <= _MANY else None)
    rows = f"{found.rows:,} rows, {found.tokens:,} tokens"
    if len(found.names) == 3:
        from modist.report.simplex_picture import draw_simplex

        return draw_simplex(
            path,
            found.names,
            land.weights,
            land.nats_per_token,
            found.weights,
            found.intervals.replicates,
            found.given,
            f"Likelihood of a mixture of three ({rows})",
        )
    from modist.report.likelihood_picture import Mark, draw_likelihood

    # The curve passes through the optimum itself, which no division of the grid may be.
    at = np.append(land.weights[:, 0], found.weights[0])
    nats = np.append(land.nats_per_token, found.fit.nats_per_token)
    order = np.argsort(at, kind="stable")
    best = float(found.weights[0])
    return draw_likelihood(
        path,
        (found.names[0], found.names[1]),
        at[order],
        nats[order],
        Mark(best, f"likeliest: {best:.3f}"),
        (float(found.intervals.low[0]), float(found.intervals.high[0])),
        Mark(float(found.given[0]), f"the recipe: {found.given[0]:.3g}"),
        [] if found.sweep is None else accuracies(found.sweep),
        None if found.sweep is None else gated(found.sweep),
        f"{found.names[0]} and {found.names[1]}, mixed ({rows})",
    )


def accuracies(sweep: Sweep) -> list[Accuracies]:
    """One curve for each benchmark, and their mean where there are several; the gated point is on none."""
    from modist.report.likelihood_picture import Accuracies

    points = [point for point in sweep.points if point.place.gate is None]
    at = tuple(point.place.weights[0] for point in points)
    curves = []
    for number, name in enumerate(sweep.benchmarks):
        value, low, high = zip(*(point.of(number) for point in points), strict=True)
        curves.append(Accuracies(name, at, value, low, high))
    if len(curves) > 1:
        value, low, high = zip(*(point.accuracy for point in points), strict=True)
        curves.append(Accuracies("mean", at, value, low, high))
    return curves


def gated(sweep: Sweep) -> Star | None:
    """The mean of the gated point, where one was asked."""
    from modist.report.likelihood_picture import Star
    from modist.search.sweep import GATED

    point = sweep.labelled(GATED)
    if point is None:
        return None
    return Star(point.place.weights[0], point.accuracy[0], "mean" * (len(sweep.benchmarks) > 1) + " with the gate")
