"""How training went: the loss and its two parts by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.report.figure import BLUE, GREY, INK, VERMILION, blank, literal, save, tidy


@dataclass(frozen=True)
class Curve:
    """One training: steps, and at each the whole loss, the label's part and the target's."""

    name: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    clm: tuple[float, ...]
    fused: tuple[float, ...]


def draw_losses(path: Path, curves: Sequence[Curve], mix: float, title: str = "") -> Path:
    """Draw one panel a training.

    Args:
        path: png, svg or pdf, by its suffix.
        curves: at least one; of one with a single point that point is drawn.
        mix: lambda of the loss.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    figure = blank(7.6, 0.6 + 3.2 * len(curves), path)
    panels: Any = figure.subplots(len(curves), 1, squeeze=False)
    for axes, curve in zip(panels[:, 0], curves, strict=True):
        mark = "o" if len(curve.steps) == 1 else None
        axes.plot(curve.steps, curve.clm, color=BLUE, linewidth=1.2, marker=mark, label="label (CLM)")
        axes.plot(curve.steps, curve.fused, color=VERMILION, linewidth=1.2, marker=mark, label="fused target (CE)")
        together = f"{mix:g} label + {1 - mix:g} target"
        axes.plot(curve.steps, curve.loss, color=INK, linewidth=2, marker=mark, label=together)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step", size=9, color=GREY)
        axes.set_ylabel("nats a position", size=9, color=GREY)
        axes.set_title(literal(curve.name, 60), loc="left", size=10, color=INK)
        tidy(axes)
        axes.grid(axis="y", color="#ececec", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=GREY)
    if title:
        figure.suptitle(literal(title, 90), x=0.01, ha="left", size=11, color=INK)
    return save(figure, path)
