"""`modist inspect`."""

from __future__ import annotations

from pathlib import Path

import typer


def inspect_command(
    models: list[str] = typer.Argument(help="Model folders or hub ids."),
    plot: Path = typer.Option(None, "--plot", help="Draw it into this file (png, svg or pdf)."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what a model is; for several, how far apart they lie and whether one descends from another."""
    raise NotImplementedError
