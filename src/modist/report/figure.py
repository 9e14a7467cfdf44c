"""What all pictures share: colours that any colour vision tells apart, a blank figure, a file that is whole or absent."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.report.attribution import check_picture

# Okabe and Ito's palette.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
PARENTS = (BLUE, VERMILION, SKY, ORANGE)
KINDS = {"merge": "#333333", "mixture": PURPLE, "rival": GREEN, "other": GREY}
NAMES = {"merge": "merged weights", "mixture": "mixed distributions", "rival": "without merging", "other": "other"}


def blank(width: float, height: float, path: Path) -> Any:
    """A figure of so many inches, to be written to `path`.

    Raises:
        UserError: the path's suffix is no picture's, its folder is not there, or matplotlib is not installed.
    """
    check_picture(path, "picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str, longest: int = 40) -> str:
    """Text that matplotlib draws as it stands, on one line: dollar signs would begin a formula."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line.replace("\\", "\\\\").replace("$", r"\$")


def tidy(axes: Any) -> None:
    """No frame but the lower line, a quiet grid for what is read off."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(left=False, colors=GREY, labelsize=9)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Any, path: Path) -> Path:
    """Write the figure; the same bytes for the same picture.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib

    suffix = path.suffix.lower().removeprefix(".")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    try:
        with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "modist", "svg.fonttype": "path"}):
            # A letter the font lacks is drawn as a box, which says enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(part, format=suffix, metadata=dates.get(suffix))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)
    return path
