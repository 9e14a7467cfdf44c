"""How a search converged: every candidate's score, the best so far, and what there was without searching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modist.report.figure import GREY, INK, PARENTS, PURPLE, blank, literal, save, tidy

_COLOURS = (PURPLE, "#8a8a8a", "#009E73")


@dataclass(frozen=True)
class Trace:
    """One search: its name and the score of each candidate, in order."""

    name: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A score without searching: a parent's, or the starting recipe's."""

    name: str
    score: float
    parent: bool = True


def draw_convergence(path: Path, traces: Sequence[Trace], levels: Sequence[Level], metric: str, title: str = "") -> Path:
    """Draw it: a dot a candidate, a line for the best so far, a dashed line for each level.

    Args:
        path: png, svg or pdf, by its suffix.
        traces: at least one, the search before what it is compared with; each with one candidate or more.
        metric: what the scores are.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    figure = blank(7.6, 4.2, path)
    axes: Any = figure.subplots()
    low, high = _view(traces, levels)
    for at, (trace, colour) in reversed(list(enumerate(zip(traces, _COLOURS, strict=False)))):
        numbers = np.arange(1, len(trace.scores) + 1)
        scores = np.array(trace.scores)
        seen = scores >= low
        front = len(traces) - at
        axes.plot(numbers[seen], scores[seen], "o", markersize=3, color=colour, alpha=0.35, linewidth=0, zorder=front)
        # Far below all others: shown at the edge, so that the rest can be read.
        axes.plot(numbers[~seen], np.full(int((~seen).sum()), low), "v", markersize=4, color=colour, alpha=0.5, zorder=front)
        best = np.maximum.accumulate(scores)
        axes.step(numbers, best, where="post", color=colour, linewidth=2, label=literal(trace.name), zorder=front + 5)
    longest = max(len(trace.scores) for trace in traces)
    parents = 0
    for level in levels:
        name = level.name if level.score >= low else f"{level.name}: {level.score:.3g}, below"
        colour = PARENTS[parents % len(PARENTS)] if level.parent else INK
        parents += level.parent
        line = (0, (4, 3)) if level.parent else (0, (1, 2))
        axes.axhline(level.score, color=colour, linewidth=1.1, linestyle=line, label=literal(name), zorder=1)
    pad = 0.06 * max(high - low, 1e-12)
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0.5, longest + 0.5)
    axes.set_xlabel("candidates scored", size=9, color=GREY)
    axes.set_ylabel("score" if len(metric) > 40 else literal(metric), size=9, color=GREY)
    tidy(axes)
    axes.grid(axis="y", color="#ececec", linewidth=0.6)
    if title:
        axes.set_title(literal(title, 90), loc="left", size=11, color=INK, pad=18 if len(metric) > 40 else 6)
    if len(metric) > 40:
        axes.text(0, 1.02, literal(metric, 110), transform=axes.transAxes, size=8, color=GREY)
    handles, names = axes.get_legend_handles_labels()
    # Drawn last, to lie on top, and named first.
    count = len(traces)
    handles, names = [*handles[:count][::-1], *handles[count:]], [*names[:count][::-1], *names[count:]]
    figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=8.5, labelcolor=GREY)
    return save(figure, path)


def _view(traces: Sequence[Trace], levels: Sequence[Level]) -> tuple[float, float]:
    """The scores that are shown: all but a long tail of bad candidates."""
    scores = np.concatenate([trace.scores for trace in traces])
    marks = [level.score for level in levels] + [trace.scores[0] for trace in traces]
    high = max(float(scores.max()), *marks)
    middle = float(np.median(scores))
    tail = min(middle - 2 * (high - middle), *marks)
    return max(float(scores.min()), tail), high
