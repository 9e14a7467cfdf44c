"""One picture of an inspection: how far each model moved, layer by layer, and how alike the moves are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modist.errors import UserError, nearest
from modist.inspection.kinship import LayerNorms
from modist.inspection.run import Inspection

FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's colours, told apart with any colour vision; black is kept for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#555555"
_STYLES: dict[str, dict[str, Any]] = {"attention": {"linestyle": "-", "marker": "o"}, "mlp": {"linestyle": "--", "marker": "s"}}
_LINE: dict[str, Any] = {"markersize": 5, "linewidth": 1.8, "markeredgecolor": "white"}
_FEW, _CROWDED = 16, 40
# Above this ratio of the largest to the smallest norm a linear axis hides the small ones.
_LOG_RATIO = 30
_LABEL = 26


def check_plot(path: Path) -> None:
    """Refuse what `draw` could not write, before anything is read.

    Raises:
        UserError: an unknown suffix, no such folder, or matplotlib is not installed.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UserError(f"--plot {path}: the suffix says the format, and must be one of {known}{nearest(suffix, FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--plot {path}: is a folder")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install 'modist[plot]'") from None


def draw(inspection: Inspection, path: Path) -> None:
    """Draw into a file, which appears whole or not at all.

    For one model: parameters by layer, and the size of its weights if they were read.  For several: relative norms of
    the deltas by layer, and the cosine of each two deltas (of the weights, where there is one delta only).

    Raises:
        UserError: as `check_plot`, or the file cannot be written.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {
        "font.size": 10,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _GREY,
        "axes.axisbelow": True,
        "legend.handlelength": 3.2,
        "legend.columnspacing": 1.6,
        "svg.hashsalt": "modist",
    }
    with matplotlib.rc_context(settings):
        figure: Any = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        FigureCanvasAgg(figure)
        if len(inspection.models) == 1:
            left, right = figure.subplots(1, 2)
            _parameters(left, inspection)
            _sizes(right, inspection)
        else:
            left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
            _norms(left, inspection)
            _heat(figure, right, inspection)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    suffix = path.suffix.lower().removeprefix(".")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    try:
        figure.savefig(part, format=suffix, metadata=dates.get(suffix))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"--plot {path}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


def _short(names: Sequence[str]) -> list[str]:
    """Names that fit beside an axis: without a hub's owner where they stay distinct, cut in the middle where too long."""
    bare = [name.rsplit("/", 1)[-1] for name in names]
    kept = bare if len(set(bare)) == len(bare) else list(names)
    half = (_LABEL - 1) // 2
    return [name if len(name) <= _LABEL else f"{name[:half]}…{name[-half:]}" for name in kept]


def _norms(axes: Any, inspection: Inspection) -> None:
    axes.set_title("How far each layer moved")
    if not inspection.deltas:
        _say(axes, "no tensor of one name and shape to compare")
        return
    from matplotlib.ticker import FuncFormatter

    labels = _short([delta.model for delta in inspection.deltas])
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(labels))]
    for delta, colour in zip(inspection.deltas, colours, strict=True):
        _lines(axes, delta.layers, colour)
    axes.set_ylabel("|delta| / |base|")
    _scale(axes, [value for delta in inspection.deltas for row in delta.layers for value in (row.attention, row.mlp)])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    axes.legend(
        handles=[*_handles(labels, colours), *_style_handles()],
        frameon=False,
        fontsize=9,
        loc="upper left",
        bbox_to_anchor=(0, -0.14),
        ncols=2 if len(labels) > 1 else 3,
    )
    base = f"base: {_short([inspection.base or ''])[0]}"
    axes.annotate(base, (1, 1.02), xycoords="axes fraction", ha="right", color=_GREY, size=9)


def _lines(axes: Any, layers: Sequence[LayerNorms], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [row.layer for row in layers]
    line = {**_LINE, "markersize": 5 if len(layers) <= _FEW else 3.5 if len(layers) <= _CROWDED else 0}
    for kind, style in _STYLES.items():
        values = [getattr(row, kind) for row in layers]
        if any(value is not None for value in values):
            heights = [float("nan") if value is None else value for value in values]
            axes.plot(numbers, heights, color=colour, **style, **line)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)


def _scale(axes: Any, values: Sequence[float | None]) -> None:
    sizes = [value for value in values if value]
    if sizes and max(sizes) > _LOG_RATIO * min(sizes):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _handles(labels: Sequence[str], colours: Sequence[str]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=label) for label, colour in zip(labels, colours, strict=True)]


def _style_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=_GREY, label=kind, **style, **_LINE) for kind, style in _STYLES.items()]


def _heat(figure: Any, axes: Any, inspection: Inspection) -> None:
    deltas = len(inspection.deltas) > 1 and bool(inspection.kinships)
    names = [delta.model for delta in inspection.deltas] if deltas else [model.name for model in inspection.models]
    known: dict[tuple[str, str], float | None] = {}
    for entry in inspection.kinships if deltas else inspection.pairs:
        known[entry.one, entry.other] = known[entry.other, entry.one] = entry.cosine
    rows = [[1.0 if one == other else known.get((one, other)) for other in names] for one in names]
    grid = [[float("nan") if value is None else value for value in row] for row in rows]
    axes.set_facecolor("#e6e6e6")
    axes.set_title("Kinship: cosine of the deltas" if deltas else "Cosine of the weights")
    colours = _diverging()
    picture = axes.imshow(grid, cmap=colours, vmin=-1, vmax=1)
    labels = _short(names)
    axes.set_xticks(range(len(names)), labels, rotation=20 if len(names) < 4 else 40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for place in range(1, len(names)):
        axes.axhline(place - 0.5, color="white", linewidth=2)
        axes.axvline(place - 0.5, color="white", linewidth=2)
    size = 11 if len(names) < 6 else 8
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            text = "n/a" if value is None else _figure_text(value)
            dark = value is not None and abs(value) > 0.55
            axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", size=size)
    bar = figure.colorbar(picture, ax=axes, shrink=0.75, ticks=(-1, -0.5, 0, 0.5, 1))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _figure_text(value: float) -> str:
    """Two decimals, and more where two would hide that it is not quite 1."""
    text = f"{round(value, 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0
    return text if abs(value) in (0.0, 1.0) or text not in ("1.00", "-1.00") else f"{value:.5f}"


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("modist", ["#8C3B00", COLOURS[1], "#F7F7F7", COLOURS[0], "#003D66"])


def _parameters(axes: Any, inspection: Inspection) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    model = inspection.models[0]
    axes.set_title(f"{_short([model.name])[0]}: parameters by layer")
    layers = list(model.parameters_by_layer)
    below = [0.0] * len(layers)
    for kind, colour in (("attention", COLOURS[0]), ("mlp", COLOURS[1]), ("norms", COLOURS[2]), ("other", COLOURS[3])):
        heights = [float(model.parameters_by_layer[layer].get(kind, 0)) for layer in layers]
        if any(heights):
            axes.bar(layers, heights, bottom=below, color=colour, label=kind, width=0.8)
            below = [low + height for low, height in zip(below, heights, strict=True)]
    outside = ", ".join(
        f"{kind} {_count(elements - sum(row.get(kind, 0) for row in model.parameters_by_layer.values()))}"
        for kind, elements in model.parameters_by_kind.items()
        if kind in ("embeddings", "head")
    )
    axes.set_xlabel("layer" + (f"    (outside the layers: {outside})" if outside else ""))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    if layers:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=4)
    else:
        _say(axes, "no layers")


def _sizes(axes: Any, inspection: Inspection) -> None:
    axes.set_title("Size of its weights")
    if not inspection.rms:
        _say(axes, "the weights were not read")
        return
    _lines(axes, inspection.rms, COLOURS[0])
    axes.set_ylabel("root mean square")
    _scale(axes, [value for row in inspection.rms for value in (row.attention, row.mlp)])
    axes.legend(handles=_style_handles(), frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_GREY)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _count(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
