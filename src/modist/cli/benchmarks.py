"""`modist benchmarks`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.errors import HubError, UserError

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark

benchmarks_app = typer.Typer(help="List the benchmarks, and download their questions.", rich_markup_mode=None)
DATA = typer.Option(None, "--data", help="The folder of the questions; else $MODIST_DATA, else ~/.cache/modist/data.")


@benchmarks_app.callback(invoke_without_command=True)
def benchmarks_command(
    context: typer.Context,
    data: Path = DATA,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON list."),
) -> None:
    """List the benchmarks: name, rows found, rows expected and where they come from."""
    context.obj = data
    if context.invoked_subcommand is not None:
        if as_json:
            raise UserError("--json lists the benchmarks; it goes with no further command")
        return
    from modist.evaluation.benchmarks import known

    if data is not None and not data.is_dir():
        raise UserError(f"{data}: there is no such folder")
    rows = [_row(benchmark, data) for benchmark in known().values()]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    _show(rows)


@benchmarks_app.command("download")
def download_command(
    context: typer.Context,
    names: list[str] = typer.Argument(None, metavar="[NAMES]...", help="Benchmarks; else all that have a verified source."),
    data: Path = DATA,
    mirror: str = typer.Option(None, "--mirror", help="Another host with the paths of raw.githubusercontent.com."),
) -> None:
    """Fetch the questions from their pinned public sources; every file's SHA-256 is checked."""
    from modist.evaluation.download import HOST, download

    with _progress() as watch:
        found = download(names or [], data or context.obj, mirror or HOST, watch)
    for fetch in found:
        print(f"{fetch.name}: {fetch.message}" if fetch.outcome != "fetched" else f"{fetch.name}: fetched into {fetch.message}")
    bad = [fetch.name for fetch in found if not fetch.good]
    if bad:
        raise HubError(f"not here: {', '.join(bad)} (see above)")


def _row(benchmark: Benchmark, data: Path | None) -> dict[str, Any]:
    rows, problem = None, None
    if benchmark.where(data) is not None:
        try:
            rows = len(benchmark.items(data))
        except UserError as error:
            problem = str(error)
        else:
            if rows != benchmark.expected:
                problem = f"{rows:,} rows where {benchmark.expected:,} are expected"
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "rows": rows,
        "expected": benchmark.expected,
        "kind": benchmark.kind,
        "shots": benchmark.shots,
        "split": benchmark.split,
        "source": benchmark.source,
        "problem": problem,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    table = Table(box=box.SIMPLE)
    table.add_column("name", no_wrap=True)
    for heading in ("rows", "expected"):
        table.add_column(heading, justify="right")
    table.add_column("source", overflow="fold")
    for row in rows:
        found = "-" if row["rows"] is None else f"{row['rows']:,}"
        name = row["name"] + (" (development)" if row["split"] == "development" else "")
        table.add_row(name, found + (" !" if row["problem"] else ""), f"{row['expected']:,}", row["source"])
    console.print(table)
    for row in rows:
        if row["problem"]:
            print(f"! {row['name']}: {row['problem']}")
    if any(row["rows"] is None and not row["problem"] for row in rows):
        print("-: not in the data folder; modist benchmarks download fetches what has a verified source")


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar for each file with the time left, on stderr, in a terminal."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield watch
