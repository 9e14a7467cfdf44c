"""`modist statistics`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from modist.cli import experts as options
from modist.cli.progress import counting


def statistics_command(
    model: str = typer.Argument(help="The base that recipes name: a folder or a hub id."),
    out: Path = typer.Argument(help="The .safetensors file to write; recipes name it under 'scaling'."),
    kind: str = typer.Option(..., "--kind", help="aim (how busy channels are) or fisher (how much hangs on each tensor)."),
    data: Path = typer.Option(None, "--data", help="JSON lines with 'text' or 'messages'; a few hundred are enough."),
    random_tokens: str = typer.Option(None, "--random-tokens", help="Sequences x tokens, in place of data: 8x64."),
    seed: int = typer.Option(0, "--seed", help="Of random tokens, and of the labels that fisher draws."),
    device: str = typer.Option(None, "--device", help="cpu, cuda, cuda:1, mps, auto."),
    dtype: str = typer.Option("float32", "--dtype", help="To run the model in: float32, bfloat16, float16, float64."),
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Compute what recipes scale merged deltas by: once, with the base alone; merging then needs no torch."""
    options.require()
    options.quiet()
    from modist.search.statistics_file import make_statistics, read_random_tokens

    shape = None if random_tokens is None else read_random_tokens(random_tokens)
    with counting("reading") as advance:
        report = make_statistics(
            model,
            out,
            kind=kind,
            data=data,
            random_tokens=shape,
            seed=seed,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            advance=advance,
        )
    if as_json:
        print(json.dumps(asdict(report)))
        return
    if report.cut:
        rows = "1 row is" if report.cut == 1 else f"{report.cut:,} rows are"
        options.note(f"{rows} longer than the model's context; only the beginning was read")
    print(
        f"{report.kind} statistics of {report.tensors:,} tensors ({report.parameters:.1%} of {report.model}'s parameters) from"
        f" {report.tokens:,} tokens ({report.data})"
    )
    print(f"written to {report.out}; in a recipe: scaling: {{kind: {report.kind}, statistics: {report.out}}}")
