"""What merges kept, lost and gained of the questions their two parents solve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.report.figure import BLUE, GREY, INK, VERMILION, blank, literal, save, tidy

_BOTH, _GAINED = "#5b5b5b", "#009E73"


@dataclass(frozen=True)
class Bar:
    """One row: for each of `both`, `first`, `second`, `neither` the questions asked and those answered right."""

    name: str
    asked: Mapping[str, int]
    right: Mapping[str, int]
    control: bool = False


def draw_overlap(path: Path, first: str, second: str, bars: Sequence[Bar], title: str = "") -> Path:
    """Draw a bar for each row: to the right of zero what it solves, by which parent solves it too; to the left what it lost.

    Args:
        path: png, svg or pdf, by its suffix.
        first, second: the parents' names.
        bars: at least one, top to bottom; controls may be among them.

    Raises:
        UserError: see `figure.blank` and `figure.save`.
    """
    longest = max(len(literal(bar.name)) for bar in bars)
    figure = blank(0.075 * longest + 7.2, 0.36 * len(bars) + 1.7, path)
    axes: Any = figure.subplots()
    colours = {"both": _BOTH, "first": BLUE, "second": VERMILION, "neither": _GAINED}
    kept = {
        "both": "kept: both parents solve it",
        "first": f"kept: only {literal(first, 24)} does",
        "second": f"kept: only {literal(second, 24)} does",
        "neither": "gained: neither parent does",
    }
    most = max(sum(bar.right.values()) for bar in bars) or 1
    for at, bar in enumerate(bars):
        right = left = 0.0
        for cell in ("both", "first", "second", "neither"):
            count = bar.right[cell]
            axes.barh(at, count, left=right, height=0.62, color=colours[cell], label=kept[cell] if at == 0 else None)
            # Only where the number fits in its piece.
            if count > 0.055 * most:
                axes.text(right + count / 2, at, f"{count:,}", ha="center", va="center", size=8, color="white")
            right += count
        for cell in ("both", "first", "second"):
            count = bar.asked[cell] - bar.right[cell]
            style = {"facecolor": "none", "edgecolor": colours[cell], "hatch": "/////", "linewidth": 0.6}
            label = "lost: hatched, in the colour of who solves it" if at == 0 and cell == "both" else None
            axes.barh(at, -count, left=left, height=0.62, label=label, **style)
            left -= count
        axes.text(right + 0.01 * most, at, f"+{bar.right['neither']:,}", ha="left", va="center", size=8.5, color=_GAINED)
        if left < 0:
            axes.text(left - 0.01 * most, at, f"−{-left:,.0f}", ha="right", va="center", size=8.5, color=GREY)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(bars)), [literal(bar.name) for bar in bars])
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set(color=GREY if bar.control else INK, fontstyle="italic" if bar.control else "normal")
    axes.set_ylim(len(bars) - 0.5, -0.5)
    # Room for the numbers beyond the ends.
    least = max(sum(bar.asked[cell] - bar.right[cell] for cell in ("both", "first", "second")) for bar in bars)
    axes.set_xlim(-1.02 * least - 0.11 * (most + least), most + 0.09 * (most + least))
    tidy(axes)
    axes.xaxis.set_major_formatter(lambda value, place: f"{abs(value):,.0f}")
    axes.set_xlabel("questions:  lost  ←  0  →  solved", size=9, color=GREY)
    if title:
        axes.set_title(literal(title, 100), loc="left", size=12, color=INK)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8.5, labelcolor=GREY)
    return save(figure, path)
