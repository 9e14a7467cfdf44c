"""`modist recommend`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

import typer

from modist.cli import experts as options
from modist.errors import UserError

# A wait that is shorter needs no line.
_PATIENCE_S = 2.0


def recommend_command(
    models: list[str] = typer.Argument(metavar="MODEL MODEL...", help="Folders or hub ids, two or more."),
    data: Path = typer.Option(None, "--data", help="JSON lines with 'text' or 'messages', like what the models are for."),
    base: str = typer.Option(None, "--base", help="The model they were tuned from; else what their cards and weights show."),
    benchmark: list[str] = typer.Option(
        [], "--benchmark", "-b", help="A development split (YAML or name), whose answers then decide; may be repeated."
    ),
    limit: int = typer.Option(None, "--limit", min=1, help="Only so many questions of each benchmark."),
    benchmark_data: Path = typer.Option(None, "--benchmark-data", help="Folder with known benchmarks' rows."),
    out: Path = typer.Option(None, "--out", help="Folder for mix.yml, merge.yml and recommendation.json."),
    cache: Path = typer.Option(None, "--cache", help="Folder of scores and answers; ~/.cache/modist/search by default."),
    seed: int = typer.Option(0, "--seed", help="Of folds and draws."),
    device: str = typer.Option(None, "--device", help="cpu, cuda, cuda:1, mps, auto; the best there is where left out."),
    dtype: str = typer.Option(None, "--dtype", help="auto, bfloat16, float16, float32, float64; float32 on a CPU."),
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what to do with some models: use one alone, mix them, or merge them so, with the evidence and what it cost.

    The mixture's weights are solved for, and a few cheap merges are made in memory; all are compared on data held out. A merge
    is recommended if it is better than the best model and the mixture is not better still, by more than sampling error; else
    the mixture, if it is better than the best model; else that model alone.
    """
    if data is None:
        raise UserError("a recommendation rests on data: --data FILE, JSON lines of text or messages like what they are for")
    if len(models) < 2:
        raise UserError("a recommendation compares models: name at least two")
    from modist.inspection import Onlooker
    from modist.search.advice import check_out, write
    from modist.search.recommend import recommend

    if out is not None:
        check_out(out)
    options.require()
    options.quiet()
    with _Progress() as progress:
        found = recommend(
            models,
            data,
            base=base,
            benchmarks=benchmark,
            benchmark_data=benchmark_data,
            limit=limit,
            cache=cache,
            seed=seed,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            say=options.note,
            advance=progress.advance,
            onlooker=Onlooker(progress.begin, progress.read),
        )
    plain = options.finite(found.as_dict(out))
    if out is not None:
        write(found, out, plain)
    if as_json:
        print(json.dumps(plain))
        return
    for line in found.lines(out):
        print(line)


class _Progress:
    """What is being done, on one line of a terminal."""

    def __init__(self) -> None:
        self._began, self._shown = time.monotonic(), 0
        self._bytes, self._total, self._lock = 0, 1, Lock()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._show("")

    def advance(self, what: str, share: float) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._began > _PATIENCE_S:
            self._show(f"{what} {share:.0%}")

    def begin(self, total: int) -> None:
        self._total = max(1, total)

    def read(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self.advance("reading the models", self._bytes / self._total)

    def _show(self, line: str) -> None:
        if line or self._shown:
            print(f"\r{line:{self._shown}}", end="" if line else "\r", file=sys.stderr, flush=True)
            self._shown = len(line)
