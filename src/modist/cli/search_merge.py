"""`modist search merge`."""

from __future__ import annotations

import json
import re
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.search.candidate import Workshop
    from modist.search.genome import Genome
    from modist.search.journal import Entry, Journal
    from modist.search.merge import Found
    from modist.search.metric import Sum
    from modist.search.pool import Pool
    from modist.search.settings import SearchSettings

RECIPE, REPORT, MODEL = "recipe.yml", "report.json", "model"
# Without a terminal: a line each time so much of the search is done.
_STEP = 0.1


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
    from modist.search.candidate import check_dtype
    from modist.search.genes import open_genome
    from modist.search.journal import Journal
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
    check_dtype(dtype)
    if workers is not None and ray is None:
        raise UserError("--workers belongs to --ray")
    if picture is not None:
        from modist.report.attribution import check_picture

        check_picture(picture, "--picture")
    options.require()
    options.quiet()
    folder = out or Path(f"{Path(recipe).stem}.search")
    genome = open_genome(recipe, settings, allow=allow, trust_remote_code=trust_remote_code)
    asking: dict[str, Any] = {"given": data, "data": benchmark_data, "limit": limit, "tests": test}
    asking |= {
        key: value
        for key, value in (("style", style), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens))
        if value is not None
    }
    measured = _Measured(metric, second, no_second, asking)
    how = (dtype, threads, tuple(allow), trust_remote_code)
    where = _Here(genome, device, how) if ray is None else _OnRay(genome, ray, workers, device, how)
    plan = {**genome.identity, **settings.identity, **measured.identity, "dtype": dtype}
    began = time.monotonic()
    try:
        with Journal(folder, plan) as journal:
            for text in (*genome.warnings, *measured.notes):
                options.note(text)
            if journal.replayed:
                options.note(f"{folder}: going on with a search that has {journal.replayed} scores")
            found = _search(genome, settings, journal, measured, where, parents, random, (device, dtype, trust_remote_code))
            told = {**found.as_dict(), **_run(settings, journal, time.monotonic() - began)}
            _write(journal, found, told)
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
        print(json.dumps(options.finite(told)))
    else:
        _show(found, folder, merge, merge_seed)


class _Measured:
    """The metric on the two splits, its data read."""

    def __init__(self, texts: list[str], second: list[str], no_second: bool, asking: dict[str, Any]) -> None:
        from modist.search.disjoint import separate
        from modist.search.merge import FIRST, SECOND
        from modist.search.metric import read_metrics
        from modist.search.part import Part

        halves = not second and not no_second
        self.asked: dict[str, tuple[list[str], dict[str, Any]]] = {
            FIRST: (texts, {**asking, "part": Part(0, 2)} if halves else asking)
        }
        if halves:
            self.asked[SECOND] = (texts, {**asking, "part": Part(1, 2)})
        elif second:
            self.asked[SECOND] = (second, asking)
        self.metrics: dict[str, Sum] = {split: read_metrics(given, **more) for split, (given, more) in self.asked.items()}
        if second:
            separate(self.metrics[FIRST].samples(), self.metrics[SECOND].samples(), self.metrics[SECOND].name)
        self.first, self.second = self.metrics[FIRST], self.metrics.get(SECOND)

    @property
    def notes(self) -> list[str]:
        """What could not be looked at."""
        absent = list(dict.fromkeys(name for metric in self.metrics.values() for name in metric.absent))
        if not absent:
            return []
        return [f"the data could not be compared with test sets that are not on this machine: {', '.join(absent)}"]

    @property
    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for split, metric in self.metrics.items():
            found |= {f"{split} metric": metric.name, f"{split} data": metric.digest()}
        return found


class _Here:
    """Candidates are scored in this process; both splits use one workshop."""

    def __init__(self, genome: Genome, device: str | None, how: tuple[Any, ...]) -> None:
        dtype, threads, _, trust = how

        @cache
        def workshop() -> Workshop:
            from modist.search.candidate import Workshop

            return Workshop(genome, device=device, dtype=dtype, threads=threads, trust_remote_code=trust)

        self._workshop = workshop

    def pool(self, measured: _Measured, split: str) -> Pool:
        from modist.search.pool import LocalPool

        return LocalPool(self._workshop(), measured.metrics[split])


class _OnRay:
    """Candidates are scored by Ray's actors."""

    def __init__(self, genome: Genome, address: str, workers: int | None, device: str | None, how: tuple[Any, ...]) -> None:
        from modist.search.candidate import open_workshop
        from modist.search.written import recipe_text

        dtype, threads, allow, trust = how
        self._threads = threads or 1
        # A worker has another working directory, so models are named by whole paths.
        self._made = partial(open_workshop, recipe_text(genome.plan), genome.settings, dtype, self._threads, allow, trust)
        self._address, self._workers, self._device = address, workers, device or "cpu"

    def pool(self, measured: _Measured, split: str) -> Pool:
        from modist.search.metric import read_metrics
        from modist.search.ray_pool import RayPool

        texts, asking = measured.asked[split]
        return RayPool(
            self._made,
            # Compared with the test sets here already.
            partial(read_metrics, texts, **{**asking, "compare": False}),
            address=self._address,
            workers=self._workers,
            device=self._device,
            threads=self._threads,
            note=options.note,
        )


def _search(
    genome: Genome,
    settings: SearchSettings,
    journal: Journal,
    measured: _Measured,
    where: _Here | _OnRay,
    parents: bool,
    random: bool,
    how: tuple[str | None, str | None, bool],
) -> Found:
    from modist.search.merge import FIRST, SECOND, LaterPool, Parents, search_merge

    first = LaterPool(partial(where.pool, measured, FIRST))
    second = LaterPool(partial(where.pool, measured, SECOND)) if measured.second is not None else None
    held = Parents(genome, dict(measured.metrics), *how) if parents else None
    total = settings.budget + (settings.budget - 1 if random else 0)
    try:
        with _Progress(total, settings.budget, journal) as progress:
            return search_merge(
                genome, settings, journal, first, second, measured.first.name, parents=held, compare=random, watch=progress.told
            )
    finally:
        for pool in (first, second):
            if pool is not None:
                pool.close()


class _Progress:
    """How far it is, the best so far and the time left: a bar in a terminal, else a line now and then; on stderr."""

    def __init__(self, total: int, budget: int, journal: Journal) -> None:
        self._total, self._budget = total, budget
        # What is replayed takes no time, and tells nothing of what the rest will take.
        self._replayed = set(journal.scores)
        self._fresh = 0
        self._done = 0
        self._said = 0.0
        self._start: float | None = None
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("searching", total=self._total, left="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def told(self, entry: Entry, done: int, best: Entry) -> None:
        """One more score."""
        if self._start is None:
            self._start, self._began = entry.score, time.monotonic()
        drawing = entry.stage == "random" or (entry.stage == "start" and self._done >= self._budget)
        self._done = done if not drawing else self._budget + max(0, done - 1)
        self._fresh += (entry.stage, entry.number) not in self._replayed
        what = "random search" if drawing else "searching"
        text = f"{what}: best {best.score:.4g} (start {self._start:.4g})"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=text, left=self._left())
        elif self._fresh and (self._done / self._total >= self._said + _STEP or self._done == self._total):
            self._said = self._done / self._total
            left = self._left()
            print(f"modist: {self._done} of {self._total} candidates, {text}{left and ', '}{left}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        if self._fresh < 2 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / (self._fresh - 1) * (self._total - self._done)
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def _run(settings: SearchSettings, journal: Journal, seconds: float) -> dict[str, Any]:
    """How it was run."""
    from dataclasses import asdict

    from modist.merge.manifest import versions

    return {
        "out": str(journal.folder),
        "settings": asdict(settings),
        "versions": versions(),
        "replayed": journal.replayed,
        "seconds": round(seconds, 3),
    }


def _write(journal: Journal, found: Found, told: dict[str, Any]) -> None:
    best = found.best
    worth = "" if best.second is None else f", {best.second:.6g} on the second split"
    lines = [
        f"# Found by modist search merge: candidate {best.candidate} of {len(found.evolved.candidates)}",
        f"# {found.metric}: {best.first:.6g}{worth}",
    ]
    # A name of a file may hold anything.
    head = "".join("".join(letter if letter.isprintable() else "?" for letter in line) + "\n" for line in lines)
    journal.write_whole(RECIPE, (head + found.recipe).encode("utf-8", "replace"))
    journal.write_whole(REPORT, (json.dumps(options.finite(told), indent=1) + "\n").encode("utf-8", "replace"))


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
