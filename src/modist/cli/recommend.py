"""`modist recommend`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import typer

from modist.cli import experts as options
from modist.cli.progress import stages
from modist.errors import UserError


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
    with stages() as advance:
        reading = _Reading(advance)
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
            advance=advance,
            onlooker=Onlooker(reading.begin, reading.read),
        )
    plain = options.finite(found.as_dict(out))
    if out is not None:
        write(found, out, plain)
    if as_json:
        print(json.dumps(plain))
        return
    for line in found.lines(out):
        print(line)


class _Reading:
    """Bytes of models that several threads read, as a share of all."""

    def __init__(self, advance: Callable[[str, float], None]) -> None:
        self._advance, self._lock = advance, Lock()
        self._bytes, self._total = 0, 1

    def begin(self, total: int) -> None:
        self._total = max(1, total)

    def read(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._advance("reading the models", self._bytes / self._total)
