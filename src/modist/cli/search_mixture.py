"""`modist search mixture`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.cli.progress import stages
from modist.errors import UserError, nearest

if TYPE_CHECKING:
    from modist.search.mixture import MixtureSearch
    from modist.search.sweep import Sweep

METRICS = ("likelihood", "accuracy")


def search_mixture_command(
    recipe: str = typer.Argument(metavar="RECIPE", help="A recipe with experts and weights (YAML)."),
    data: Path = typer.Option(..., "--data", help="JSON lines with 'text' or 'messages', perhaps 'domain'."),
    out: Path = typer.Option(None, "--out", help="Write the recipe with the weights found; never over the recipe itself."),
    force: bool = typer.Option(False, "--force", help="Let --out replace a file that is not from here."),
    cache: Path = typer.Option(None, "--cache", help="Folder of scores and answers; ~/.cache/modist/search by default."),
    folds: int = typer.Option(5, "--folds", help="Parts of the data held out in turn."),
    replicates: int = typer.Option(1000, "--replicates", help="Times the rows are drawn again, for intervals."),
    seed: int = typer.Option(0, "--seed", help="Of folds and draws."),
    gate: bool = typer.Option(True, "--gate/--no-gate", help="Fit the bayes gate's discount and stride too."),
    choose: str = typer.Option("likelihood", "--choose", help="Which weights --out writes: likelihood, gate or accuracy."),
    metric: str = typer.Option(
        "likelihood", "--metric", help="likelihood, or accuracy: answer --benchmark at several weights."
    ),
    benchmark: list[str] = typer.Option([], "--benchmark", "-b", help="accuracy: a development split (YAML); may be repeated."),
    grid: str = typer.Option(None, "--grid", help="accuracy: the first of two weights, such as 0,0.1,...,1 (the default)."),
    limit: int = typer.Option(None, "--limit", min=1, help="accuracy: only so many questions of each benchmark."),
    benchmark_data: Path = typer.Option(None, "--benchmark-data", help="accuracy: folder with known benchmarks' rows."),
    picture: Path = typer.Option(
        None, "--picture", help="Draw it (png, svg, pdf): a curve for two experts, a triangle for three."
    ),
    device: str = options.DEVICE,
    dtype: str = options.DTYPE,
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Find the weights under which the mixture predicts the data best.

    Every expert scores the data once, and what it says is kept in --cache; the weights are then solved for. Of a chat only the
    last message, the assistant's, counts.
    """
    from modist.search.sweep import parse_grid

    if metric not in METRICS:
        raise UserError(f"--metric {metric!r}: known are {', '.join(METRICS)}{nearest(metric, METRICS)}")
    if metric == "accuracy" and not benchmark:
        raise UserError("--metric accuracy needs at least one --benchmark with development questions")
    if metric != "accuracy":
        others = {"--benchmark": benchmark, "--grid": grid, "--limit": limit, "--benchmark-data": benchmark_data}
        for flag, value in others.items():
            if value:
                raise UserError(f"{flag} belongs to --metric accuracy")
    asked = None if grid is None else parse_grid(grid)
    _check_choice(choose, gate, metric, out)
    made = options.read_recipe_or_model(recipe)
    from modist.search.data import check_mixture
    from modist.search.mixture import search_mixture
    from modist.search.mixture_drawing import check_drawing, draw
    from modist.search.solved import check_out, write_solved

    check_mixture(made)
    if out is not None:
        check_out(out, made, force)
    if picture is not None:
        check_drawing(picture, len(made.slices[0].sources))
    options.require()
    options.quiet()
    with stages() as advance:
        found = search_mixture(
            made,
            data,
            cache=cache,
            folds=folds,
            replicates=replicates,
            seed=seed,
            gate=gate,
            benchmarks=benchmark,
            grid=asked,
            limit=limit,
            benchmark_data=benchmark_data,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            say=options.note,
            advance=advance,
        )
    if out is not None:
        write_solved(made, found.chosen(choose), out, remark=_remark(found, choose, data), force=force)
    if picture is not None:
        draw(found, picture)
    if as_json:
        made_of = {"recipe": recipe, "data": str(data), "seed": seed, "chosen": {"by": choose, "weights": found.chosen(choose)}}
        files = {"out": out and str(out), "picture": picture and str(picture)}
        print(json.dumps(options.finite({**made_of, **found.as_dict(), **files})))
        return
    _show(found)
    for path, what in ((out, "the recipe"), (picture, "the picture")):
        if path is not None:
            print(f"{what} is {path}")


def _check_choice(choose: str, gate: bool, metric: str, out: Path | None) -> None:
    """Refuse a choice that will not be there, before anything is run."""
    from modist.search.mixture import CHOICES

    if choose not in CHOICES:
        raise UserError(f"--choose {choose!r}: known are {', '.join(CHOICES)}{nearest(choose, CHOICES)}")
    if choose != CHOICES[0] and out is None:
        raise UserError(f"--choose {choose} says which weights --out writes; give --out too")
    if choose == "gate" and not gate:
        raise UserError("--choose gate: the gate is not fitted; leave out --no-gate")
    if choose == "accuracy" and metric != "accuracy":
        raise UserError("--choose accuracy needs --metric accuracy")


def _remark(found: MixtureSearch, choose: str, data: Path) -> str:
    """What the recipe says of its weights."""
    where = f"{found.rows} rows of {data.name}"
    if choose == "gate" and found.gate is not None:
        return f"{where}, for --gate bayes --discount {found.gate.discount:.4g} --stride {found.gate.stride}"
    if choose == "accuracy" and found.sweep is not None:
        sweep = found.sweep
        return f"the best of {len(sweep.points)} on {sweep.questions} questions of {', '.join(sweep.benchmarks)}"
    return f"{where}, {found.fit.nats_per_token:.4f} nats a token"


def _show(found: MixtureSearch) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(_weights(found))
    console.print(_nats(found))
    if found.domains:
        console.print(_domains(found))
    if found.sweep is not None:
        console.print(_sweep(found.sweep))
    drawn = f"{len(found.intervals.replicates):,} draws of the rows"
    console.print(f"{found.tokens:,} tokens of {found.rows:,} rows; {found.held.folds} folds held out; intervals from {drawn}")
    for line in found.findings():
        console.print(line, soft_wrap=True)
    for line in found.notes:
        console.print(f"note: {line}", soft_wrap=True)


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    first, *others = headings
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _weights(found: MixtureSearch) -> Any:
    table = _table("expert", "the recipe's weight", "weight", "95% interval")
    columns = (found.names, found.given, found.weights, found.intervals.low, found.intervals.high)
    for name, given, weight, low, high in zip(*columns, strict=True):
        table.add_row(name, f"{given:g}", f"{weight:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def _nats(found: MixtureSearch) -> Any:
    table = _table("nats a token", "all rows", "held out")
    for name, alone, outside in zip(found.names, found.fit.experts, found.held.experts, strict=True):
        table.add_row(f"{name} alone", f"{alone:.4f}", f"{outside:.4f}")
    given = found.held.given
    assert given is not None
    table.add_row("the recipe's weights", f"{given:.4f}", f"{given:.4f}")
    table.add_row("these weights", f"{found.fit.nats_per_token:.4f}", f"{found.held.optimum:.4f}")
    if found.gate is not None:
        gate = found.gate
        weights = ", ".join(f"{weight:.4g}" for weight in gate.weights)
        what = f"[{weights}], gate bayes, discount {gate.discount:.4g}, stride {gate.stride}"
        table.add_row(what, f"{gate.nats_per_token:.4f}", f"{gate.held_out:.4f}")
    return table


def _domains(found: MixtureSearch) -> Any:
    table = _table("domain", "rows", "tokens", *(f"is {name}'s" for name in found.names), "nats a token", "best expert")
    for domain in found.domains:
        best = int(domain.experts.argmin())
        table.add_row(
            domain.name or "(none)",
            f"{domain.rows:,}",
            f"{domain.tokens:,}",
            *(f"{share:.1%}" for share in domain.responsibilities),
            f"{domain.nats_per_token:.4f}",
            f"{found.names[best]} {domain.experts[best]:.4f}",
        )
    return table


def _sweep(sweep: Sweep) -> Any:
    several = sweep.benchmarks if len(sweep.benchmarks) > 1 else ()
    table = _table("weights", "", *several, "right", "95% interval")
    for point in sweep.points:
        value, low, high = point.accuracy
        gate = point.place.gate
        labels = [label if gate is None else f"{label}: bayes {gate[0]:.4g}/{gate[1]}" for label in point.place.labels]
        table.add_row(
            ", ".join(f"{weight:.4g}" for weight in point.place.weights),
            ", ".join(labels),
            *(f"{point.of(number)[0]:.1%}" for number in range(len(several))),
            f"{value:.1%}",
            f"{low:.1%} to {high:.1%}",
        )
    return table
