"""`modist study`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli.amount import show_amount

if TYPE_CHECKING:
    from modist.evaluation.study import Price


def study_command(
    study: Path = typer.Argument(help="YAML: parents, benchmarks and rows; see docs/evaluate.md."),
    out: Path = typer.Option(Path("study-output"), "--out", help="Folder for merges, answers, table and page."),
    data: Path = typer.Option(None, "--data", help="Folder of the benchmarks' rows, as for modist eval."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the price: downloads, disk, tokens, hours; write nothing."),
    limit: int = typer.Option(None, "--limit", min=1, help="Only so many questions of each benchmark, drawn by the seed."),
    only: list[str] = typer.Option([], "--only", help="Only this row, beside the parents; may be given again."),
    workers: int = typer.Option(None, "--workers", min=1, help="Models that answer at once, a process each."),
    device: str = typer.Option(None, "--device", help="Before the study's: cpu, cuda, cuda:1, mps, auto."),
    dtype: str = typer.Option(None, "--dtype", help="Before the study's: auto, bfloat16, float16, float32."),
    execute_code: bool = typer.Option(False, "--execute-code", help="Run the code that models write, where grading needs it."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Compare parents, merges, mixtures, routing and voting as STUDY says: one table, one page.

    Killed or stopped, the same command goes on.
    """
    from modist.evaluation.study import Options, load_study, price_study, run_study

    loaded = load_study(study)
    options = Options(data, limit, tuple(only), workers, device, dtype, execute_code)
    if dry_run:
        price = price_study(loaded, options)
        print(json.dumps(price.as_dict())) if as_json else _show_price(loaded.title, price)
        return
    from modist.cli.experts import require
    from modist.evaluation.study.publish import publish

    require()
    began = time.perf_counter()
    try:
        with _Progress() as progress:
            outcome = run_study(loaded, out, options, progress.watch)
            progress.phase("writing the table, the pictures and the page")
            published = publish(outcome)
    except KeyboardInterrupt:
        print("modist: stopped; the same command goes on from what is finished", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(published.results))
        return
    print(published.table.text())
    for line in published.lines:
        print(line)
    print(f"{len(outcome.entries)} rows in {_duration(time.perf_counter() - began)}; the page is {out / 'index.html'}")


class _Progress:
    """What is being done, on stderr: a bar with the time left in a terminal, else one line a phase."""

    def __init__(self) -> None:
        from rich.console import Console

        from modist.evaluation.study import Watch

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar: Any = None
        self._task: Any = None
        self.watch = Watch(phase=self.phase, done=self._done)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def phase(self, text: str) -> None:
        self._stop()
        if not self._console.is_terminal:
            print(f"modist: {text}", file=sys.stderr)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._bar.add_task(text, total=None)
        self._bar.start()

    def _done(self, name: str, number: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=number, total=total)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _show_price(title: str, price: Price) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)

    def amount(size: int | None) -> str:
        return "?" if size is None else show_amount(size)

    console.print(title)
    models = Table(box=box.SIMPLE)
    models.add_column("model", overflow="fold")
    for heading in ("size", "download", "says"):
        models.add_column(heading, justify="right")
    for model in price.models:
        models.add_row(model.name, amount(model.size), amount(model.download), model.source)
    console.print(models)
    table = Table(box=box.SIMPLE)
    table.add_column("row", overflow="fold")
    for heading in ("answers", "models a token", "tokens", "writes"):
        table.add_column(heading, justify="right")
    for line in price.lines:
        written = amount(line.written) if line.written != 0 else ""
        table.add_row(line.name, f"{line.answers:,}", str(line.passes), f"{line.tokens:,.0f}", written)
    console.print(table)
    console.print(f"questions  {price.questions:,} a row")
    console.print(f"download   {show_amount(price.download)}")
    console.print(f"disk       {show_amount(price.disk)}, downloads included")
    console.print(f"tokens     {price.tokens:,.0f}, at {price.tokens_per_answer:g} an answer")
    each = f" in each of {price.workers} processes" if price.workers > 1 else ""
    console.print(
        f"time       {_duration(3600 * price.hours)} at {price.tokens_per_second:,.0f} tokens a second{each} ({price.hardware})"
    )
    if price.unknown:
        console.print(f"note: the size of {', '.join(price.unknown)} is unknown: no hub answers, and `price.bytes` has none")
    console.print("note: a route and a vote are made of the parents' own answers", soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.1f} hours"
