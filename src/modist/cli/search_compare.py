"""`modist search compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modist.cli import experts as options
from modist.cli.progress import counting
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.search.compare import Comparison, Point


def search_compare_command(
    recipes: list[Path] = typer.Argument(metavar="RECIPE...", help="Merges of one base (YAML), each with a method of its own."),
    metric: list[str] = typer.Option(
        ["accuracy"], "--metric", "-m", help="accuracy, likelihood, accuracy:FILE.yml, 0.7*likelihood:FILE.jsonl, or a sum."
    ),
    data: list[str] = typer.Option([], "--data", help="For a metric that names none; may be repeated, each a part of the sum."),
    norms: str = typer.Option(
        "0.25,0.5,0.75,1,1.25,1.5", "--norms", help="Distances from the base; 1 is the mean of the parents'."
    ),
    base: str = typer.Option(None, "--base", help="Measure from this model; from the recipes' base_model where left out."),
    limit: int = typer.Option(None, "--limit", min=1, help="Only so many rows of each metric's data."),
    seed: int = typer.Option(0, "--seed", help="For methods that draw, and for --limit."),
    benchmark_data: Path = typer.Option(None, "--benchmark-data", help="Folder with known benchmarks' rows."),
    plot: Path = typer.Option(None, "--plot", help="Draw score against distance into this file (png, svg, pdf)."),
    allow: list[str] = typer.Option([], "--allow", help="Accept a difference between parents, as modist merge does."),
    threads: int = typer.Option(0, "--threads", min=0, help="For merging; 0 for one a core."),
    device: str = options.DEVICE,
    dtype: str = options.DTYPE,
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Compare merges at equal distance from their base, where methods differ in direction alone."""
    from modist.search.compare import compare_at_distances

    distances = read_norms(norms)
    if plot is not None:
        from modist.report.attribution import check_picture

        check_picture(plot, "picture")
    options.require()
    options.quiet()
    from modist.search.metric import read_metrics

    made = read_metrics(metric, given=data, data=benchmark_data, limit=limit, seed=seed)
    try:
        with counting("models") as advance:
            found = compare_at_distances(
                list(recipes),
                made,
                base=base,
                norms=distances,
                seed=seed,
                device=device,
                dtype=dtype,
                threads=threads or None,
                allow=allow,
                trust_remote_code=trust_remote_code,
                advance=advance,
            )
    finally:
        made.close()
    if plot is not None:
        draw(found, plot)
    if as_json:
        print(json.dumps(options.finite({**found.as_dict(), "seed": seed, "picture": plot and str(plot)})))
        return
    show(found)
    if plot is not None:
        print(f"drawn into {plot}")


def read_norms(text: str) -> tuple[float, ...]:
    """`0.25,0.5,1` -> (0.25, 0.5, 1.0), ascending; UserError for anything else."""
    from modist.search.compare import check_norms

    found = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError:
            raise UserError(f"--norms {text}: {part.strip()!r} is no number; write distances as 0.25,0.5,1") from None
    return check_norms(found)


def draw(found: Comparison, path: Path) -> Path:
    """The picture of a comparison; UserError as `draw_distances`."""
    from modist.report.distance_picture import Line, Spot, draw_distances

    several = len(found.terms) > 1
    panels = [*found.labels, *(["their weighted sum"] if several else [])]
    shares = [asked is not None for asked in found.questions]

    def values(point: Point) -> tuple[float, ...]:
        return (*point.terms, *([point.score] if several else []))

    lines = []
    for curve in found.curves:
        columns = tuple(zip(*(values(point) for point in curve.points), strict=True))
        own = next(place for place, point in enumerate(curve.points) if point.own)
        lines.append(Line(curve.name, tuple(point.distance for point in curve.points), columns, own))
    base, *parents = [Spot(name, point.distance, values(point)) for name, point in (found.base, *found.parents)]
    return draw_distances(path, panels, lines, parents, base, [*shares, *([all(shares)] if several else [])])


def show(found: Comparison) -> None:
    """The table, for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    table = Table(box=box.SIMPLE, title=found.title, title_justify="left")
    table.add_column("", overflow="fold")
    names = [name for name, _ in found.parents]
    distances = sorted({point.distance for curve in found.curves for point in curve.points if point.distance and not point.own})
    for distance in distances:
        table.add_column(f"at {distance:g}", justify="right")
    for heading in ("as it stands", "at", *(f"cos {name}" for name in names)):
        table.add_column(heading, justify="right")
    for curve in found.curves:
        at = {point.distance: point for point in curve.points if not point.own}
        best = max(at[distance].score for distance in distances)
        cells = [_scores(found, at[distance]) + ("*" if at[distance].score == best else " ") for distance in distances]
        own = (_scores(found, curve.own), f"{curve.own.distance:.3g}")
        table.add_row(curve.name, *cells, *own, *(f"{cosine:.3f}" for cosine in curve.cosines))
    console.print(table)
    for name, point in (found.base, *found.parents):
        where = f"at {point.distance:.3g}" if point.distance else "the base"
        console.print(f"{name} ({where}): {_scores(found, point)}{_terms(found, point)}")
    asked = [f"{count} questions of {name}" for name, count in zip(found.labels, found.questions, strict=True) if count]
    console.print(
        f"distances in units of {found.unit:.4g}, the parents' mean L2 distance from the base; * each method's best of them;"
        + (f" {', '.join(asked)}" if asked else ""),
        soft_wrap=True,
    )
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _scores(found: Comparison, point: Point) -> str:
    return f"{point.score:.1%}" if all(count is not None for count in found.questions) else f"{point.score:.4f}"


def _terms(found: Comparison, point: Point) -> str:
    """Of a sum what each term gives, with Wilson's interval where it is a share of questions."""
    from modist.evaluation.statistics import wilson

    parts = []
    for name, value, count in zip(found.labels, point.terms, found.questions, strict=True):
        if count is None:
            parts.append(f"{name} {value:.4f}")
            continue
        low, high = wilson(round(value * count), count)
        parts.append(f"{name} {value:.1%} [{low:.1%}, {high:.1%}]")
    return f"  ({'; '.join(parts)})"
