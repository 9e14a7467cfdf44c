"""`modist verify`."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def verify_command(
    out: Path = typer.Argument(help="A folder that `modist merge` wrote."),
    recipe: Path = typer.Option(None, "--recipe", help="Also check that this is the recipe recorded."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Check a result: hashes, headers, NaN and infinite values, and the recipe recorded."""
    from modist.merge.verify import verify

    report = verify(out, recipe)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        for check in report.checks:
            print(f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}")
    if not report.passed:
        raise typer.Exit(1)
