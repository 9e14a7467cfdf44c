"""`modist search merge`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.cli.candidates import Progress
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.search.found import Found

MODEL = "model"


def search_merge_command(
    recipe: str = typer.Argument(metavar="RECIPE", help="A recipe of a merge (YAML), whose coefficients the search begins at."),
    metric: list[str] = typer.Option(
        [], "--metric", help="accuracy:FILE.yml, likelihood:FILE.jsonl, or a sum: 0.7*accuracy:A.yml + 0.3*likelihood:B.jsonl."
    ),
    data: list[str] = typer.Option([], "--data", help="Data of a --metric that names none; may be repeated."),
    second: list[str] = typer.Option(
        [],
        "--second",
        help="Metric of the second split, which nothing is chosen on; by default half of the data is kept for it.",
    ),
    no_second: bool = typer.Option(
        False, "--no-second", help="Search on all of the data, and do not say what the result is worth."
    ),
    out: Path = typer.Option(None, "--out", help="Folder of the search; RECIPE's name and .search by default."),
    genes: str = typer.Option(None, "--genes", help="Parameters searched: weight,density,lambda,t ...; weight, density, t."),
    layer_blocks: str = typer.Option("all", "--layer-blocks", help="So many layers share their coefficients; or all of them."),
    modules: str = typer.Option("", "--modules", help="Coefficients of their own for attention,mlp,norms,embeddings."),
    bounds: list[str] = typer.Option([], "--bounds", help="weight=0:2; [0, 1] by default, for lambda [0, 2]. May be repeated."),
    start: list[str] = typer.Option([], "--start", help="weight=0.5 in place of the recipe's own. May be repeated."),
    sigma: float = typer.Option(1 / 6, "--sigma", help="First step, as a fraction of the bounds' range."),
    population: int = typer.Option(None, "--population", help="Candidates a generation; 4 + 3 ln(genes) by default."),
    budget: int = typer.Option(100, "--budget", help="Candidates in all; as many again are drawn at random to compare."),
    seed: int = typer.Option(0, "--seed", help="Of the search."),
    merge_seed: int = typer.Option(0, "--merge-seed", help="Of methods that draw; give it to modist merge too."),
    diagonal: bool = typer.Option(None, "--diagonal/--full", help="CMA-ES learns variances only; by default above 40 genes."),
    finalists: int = typer.Option(3, "--finalists", help="So many of the best are scored on the second split."),
    random: bool = typer.Option(True, "--random/--no-random", help="Compare with a random search of equal cost."),
    parents: bool = typer.Option(True, "--parents/--no-parents", help="Score the parents too."),
    limit: int = typer.Option(
        None, "--limit", min=1, help="Only so many rows of each term of the metric, the same for every search."
    ),
    benchmark_data: Path = typer.Option(None, "--benchmark-data", help="Folder with known benchmarks' rows."),
    test: list[str] = typer.Option(
        [], "--test", help="One more test set (name or YAML) the data must not hold. May be repeated."
    ),
    style: str = typer.Option(None, "--style", help="accuracy: prompts, where a benchmark has no own."),
    batch_size: int = typer.Option(None, "--batch-size", min=1, help="accuracy: questions at once."),
    max_new_tokens: int = typer.Option(
        None, "--max-new-tokens", min=1, help="accuracy: in place of each benchmark's own limit."
    ),
    ray: str = typer.Option(None, "--ray", help="Score candidates on Ray: a cluster's address, or local."),
    workers: int = typer.Option(None, "--workers", min=1, help="--ray: how many; one a device by default."),
    threads: int = typer.Option(None, "--threads", min=1, help="For merging; one a core by default, with --ray 1."),
    device: str = options.DEVICE,
    dtype: str = typer.Option(
        None, "--dtype", help="Candidates run in; auto is the output's own. float32 on a CPU by default."
    ),
    allow: list[str] = typer.Option([], "--allow", help="Accept a difference between parents, as modist merge."),
    merge: bool = typer.Option(False, "--merge", help="Merge what was found into OUT/model."),
    picture: Path = typer.Option(None, "--picture", help="Draw how it converged (png, svg, pdf)."),
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Search for the coefficients under which a merge scores best, by CMA-ES.

    Candidates are merged in memory. A search that was stopped goes on when the same command is given again.
    """
    from modist.search.merge import RECIPE, REPORT, search_merge
    from modist.search.settings import SearchSettings, read_bounds, read_layer_blocks, read_start, read_words

    settings = SearchSettings(
        genes=read_words(genes),
        layer_blocks=read_layer_blocks(layer_blocks),
        modules=read_words(modules) or (),
        bounds=read_bounds(bounds),
        start=read_start(start),
        sigma=sigma,
        population=population,
        budget=budget,
        seed=seed,
        merge_seed=merge_seed,
        diagonal=diagonal,
        finalists=finalists,
    )
    if second and no_second:
        raise UserError("--second and --no-second exclude each other")
    if workers is not None and ray is None:
        raise UserError("--workers belongs to --ray")
    if picture is not None:
        from modist.report.attribution import check_picture

        check_picture(picture, "--picture")
    options.require()
    options.quiet()
    folder = out or Path(f"{Path(recipe).stem}.search")
    asking: dict[str, Any] = {"given": data, "data": benchmark_data, "limit": limit, "tests": test}
    asking |= {
        key: value
        for key, value in (("style", style), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens))
        if value is not None
    }
    try:
        with Progress(budget, random) as progress:
            found = search_merge(
                recipe,
                metric,
                folder,
                settings,
                second=second,
                hold_out=not no_second,
                asking=asking,
                parents=parents,
                compare=random,
                ray=ray,
                workers=workers,
                device=device,
                dtype=dtype,
                threads=threads,
                allow=allow,
                trust_remote_code=trust_remote_code,
                say=options.note,
                begin=progress.begin,
            )
    except KeyboardInterrupt:
        print("modist: stopped; the same command goes on from what is scored", file=sys.stderr)
        raise typer.Exit(130) from None
    if picture is not None:
        _draw(picture, found, recipe)
    if merge:
        from modist.merge import merge as merge_models

        merge_models(
            folder / RECIPE,
            folder / MODEL,
            seed=merge_seed,
            resume=True,
            allow=allow,
            threads=threads,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        print(json.dumps(json.loads((folder / REPORT).read_text(encoding="utf-8"))))
    else:
        _show(found, folder, merge, merge_seed)


def _draw(picture: Path, found: Found, recipe: str) -> None:
    from modist.report.convergence import Level, Trace, draw_convergence

    traces = [Trace("CMA-ES, best so far", tuple(entry.score for entry in found.evolved.candidates))]
    if found.drawn is not None:
        traces.append(Trace("random search, best so far", tuple(entry.score for entry in found.drawn.candidates)))
    levels = [Level(mark.name, mark.first, mark.kind == "parent") for mark in found.marks if mark.kind in ("parent", "start")]
    # Of the data's files the names will do.
    metric = re.sub(r"[^\s:]*/", "", found.metric)
    count = len(found.genome)
    draw_convergence(picture, traces, levels, metric, f"{Path(recipe).name}: {count} coefficient{'s' * (count > 1)}")


def _show(found: Found, folder: Path, merged: bool, merge_seed: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from modist.search.merge import RECIPE

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=box.SIMPLE)
    table.add_column(found.metric, overflow="fold")
    table.add_column("searched on", justify="right")
    if found.best.second is not None:
        table.add_column("second split", justify="right")
    for mark in found.marks:
        scores = [mark.first] if mark.second is None else [mark.first, mark.second]
        table.add_row(mark.name, *(f"{score:.4g}" for score in scores))
    console.print(table)
    for label, number in found.coefficients.items():
        console.print(f"{label}: {number:.4g}", soft_wrap=True)
    for line in found.findings():
        console.print(line, soft_wrap=True)
    drawn = found.genome.plan.method.random(found.genome.plan.tensors[0].tensor)
    flags = f" --seed {merge_seed}" if drawn and merge_seed else ""
    made = f"{folder / MODEL} holds the merge" if merged else f"modist merge {folder / RECIPE} OUT{flags} makes the model"
    console.print(f"wrote {folder / RECIPE}; {made}", soft_wrap=True)
