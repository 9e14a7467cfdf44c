"""`modist merge`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli.amount import read_amount, show_amount

if TYPE_CHECKING:
    from modist.merge import Aspect, MergeReport, Plan
    from modist.merge.adapters import AdapterPlan
    from modist.merge.run import Prepared


def merge_command(
    recipe: Path = typer.Argument(help="YAML: the paper's Configuration 1, or a merge in mergekit's dialect."),
    out: Path = typer.Argument(None, help="Folder to write; it appears whole or not at all. Not needed for --dry-run."),
    seed: int = typer.Option(0, help="For methods that draw; recorded in the manifest."),
    resume: bool = typer.Option(False, "--resume", help="Go on from what a killed run left."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the plan from the headers alone; write nothing."),
    allow: list[str] = typer.Option(
        [],
        help="Accept a difference between parents: rope, context, vocabulary, tying, architecture, tensors, nonfinite.",
    ),
    memory: str = typer.Option("1GiB", help="Memory to use above the interpreter."),
    threads: int = typer.Option(0, min=0, help="Worker threads; 0 for one a core."),
    shard_size: str = typer.Option("5GB", help="Largest weight file."),
    hash_inputs: bool = typer.Option(False, "--hash-inputs", help="Record the SHA-256 of the inputs too."),
    trust_remote_code: bool = typer.Option(
        False, "--trust-remote-code", help="Carry the base's own Python files along. Nothing here runs them."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Merge the models of RECIPE into one checkpoint OUT."""
    from modist.errors import UserError
    from modist.merge import Watch, merge, prepare
    from modist.merge.adapters import merges_adapters, plan_adapters
    from modist.merge.compare import refuse
    from modist.recipe import load_recipe

    budget, shard_bytes = read_amount(memory, "--memory"), read_amount(shard_size, "--shard-size")
    if dry_run:
        read = load_recipe(recipe)
        if merges_adapters(read):
            _show_adapters(plan_adapters(read), as_json)
            return
        prepared = prepare(read, seed=seed, allow=allow, allow_code=trust_remote_code)
        _show_dry_run(prepared, budget, threads, as_json)
        refuse(prepared.aspects)
        return
    if out is None:
        raise UserError("OUT is missing: modist merge RECIPE OUT")
    try:
        with _Progress(quiet=as_json) as progress:
            watch = Watch(
                planned=progress.planned,
                warning=lambda text: print(f"modist: warning: {text}", file=sys.stderr),
                phase=progress.phase,
                advance=progress.advance,
            )
            report = merge(
                recipe,
                out,
                seed=seed,
                resume=resume,
                allow=allow,
                threads=threads or None,
                memory=budget,
                shard_bytes=shard_bytes,
                hash_inputs=hash_inputs,
                trust_remote_code=trust_remote_code,
                watch=watch,
            )
    except KeyboardInterrupt:
        print("modist: stopped; the same command with --resume goes on from what is finished", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        _show(report)


class _Progress:
    """A bar with the time left, on stderr, in a terminal; and the parents' table where they differ."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def planned(self, plan: Plan | AdapterPlan, aspects: tuple[Aspect, ...]) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            console.width = max(console.width, 120)
        if self._quiet and not console.is_terminal:
            return
        if any(aspect.gravity != "same" for aspect in aspects):
            console.print(comparison_table(plan.names, aspects))
        if console.is_terminal:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (
                TextColumn("{task.description:8}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("merge", total=plan.write_bytes)
            self._bar.start()

    def phase(self, name: str) -> None:
        if self._bar is not None and name in ("fsync", "verify", "rename"):
            self._bar.update(self._task, description=name)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)


def comparison_table(names: tuple[str, ...], aspects: tuple[Aspect, ...]) -> Any:
    """The parents side by side, what differs marked."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, title="parents", title_justify="left")
    for heading in ("", *map(escape, names), "", ""):
        table.add_column(heading, overflow="fold")
    marks = {"same": "", "note": "note", "allowed": "allowed", "error": "error"}
    for aspect in aspects:
        table.add_row(aspect.name, *map(escape, aspect.values), marks[aspect.gravity], escape(aspect.reason))
    return table


def _show_dry_run(prepared: Prepared, memory: int, threads: int, as_json: bool) -> None:
    import os

    from modist.merge.engine import Engine

    plan = prepared.plan
    engine = Engine(threads or os.cpu_count() or 1, memory)
    workers = engine.workers(plan)
    merged = [p for p in plan.tensors if sum(p.used) > 1]
    dtypes = sorted({p.dtype for p in plan.tensors})
    summary: dict[str, Any] = {
        "method": plan.method.name,
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "memory_bytes": workers * engine.worker_bytes(plan),
        "threads": workers,
        "tensors": len(plan.tensors),
        "tensors_of_several": len(merged),
        "tensors_by_parent": {name: sum(p.uses(index) for p in plan.tensors) for index, name in enumerate(plan.names)},
        "dtypes": dtypes,
        "download_bytes": prepared.models.download_bytes,
        "warnings": list(plan.warnings),
    }
    if as_json:
        from dataclasses import asdict

        print(json.dumps(summary | {"comparison": [asdict(aspect) for aspect in prepared.aspects]}))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(comparison_table(plan.names, prepared.aspects))
    lines = [
        f"method   {plan.method.name}: {plan.method.summary}",
        f"reads    {show_amount(plan.read_bytes)}; writes {show_amount(plan.write_bytes)} as {', '.join(dtypes)}",
        f"memory   {show_amount(workers * engine.worker_bytes(plan))} for {workers} threads, beside the interpreter",
        f"tensors  {len(plan.tensors)}, of which {len(merged)} are made of several parents",
        *(f"         {sum(p.uses(i) for p in plan.tensors)} use {name}" for i, name in enumerate(plan.names)),
    ]
    if prepared.models.download_bytes:
        lines.append(f"download {show_amount(prepared.models.download_bytes)}")
    lines += [f"warning  {text}" for text in plan.warnings]
    print("\n".join(lines))


def _show_adapters(plan: AdapterPlan, as_json: bool) -> None:
    low, high = plan.ranks
    summary: dict[str, Any] = {
        "method": plan.method.name,
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "modules": len(plan.modules),
        "ranks": [low, high],
        "weights": dict(zip(plan.names, plan.weights, strict=True)),
        "dtypes": [plan.dtype],
        "warnings": list(plan.warnings),
    }
    if as_json:
        print(json.dumps(summary))
        return
    rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
    lines = [
        f"method   {plan.method.name}: {plan.method.summary}, of adapters",
        f"reads    {show_amount(plan.read_bytes)}; writes {show_amount(plan.write_bytes)} as {plan.dtype}",
        f"modules  {len(plan.modules)}, of {rank}",
        *(f"         {name}: weight {weight:.4g}" for name, weight in zip(plan.names, plan.weights, strict=True)),
        *(f"warning  {text}" for text in plan.warnings),
    ]
    print("\n".join(lines))


def _show(report: MergeReport) -> None:
    if report.already:
        print(f"{report.out} is already the finished result of this merge")
    for parent in report.parents:
        print(f"{parent.name}: {parent.phrase}")
        layers = [value for key, value in parent.layers.items() if key.isdigit() and value is not None]
        if layers and max(layers) != min(layers) and parent.quantity != "weight":
            from modist.merge.share import percent

            print(f"    by layer: {percent(min(layers))} to {percent(max(layers))}")
    if report.lost is not None:
        print(f"cut to the recipe's rank, which loses {100 * report.lost:.2g}% of the merged delta's norm")
    if not report.already:
        speed = report.write_bytes / max(report.seconds["engine"], 1e-9)
        print(
            f"wrote {show_amount(report.write_bytes)} to {report.out} in {report.seconds['total']:.1f} s"
            f" ({show_amount(speed)}/s; fsync {report.seconds['fsync']:.1f} s), seed {report.seed}"
        )
