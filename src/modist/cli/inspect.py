"""`modist inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli.amount import show_amount
from modist.cli.wait_bar import WaitBar
from modist.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from modist.inspection import Inspection, ModelFacts


def inspect_command(
    models: list[str] = typer.Argument(help="Model folders or hub ids."),
    base: str = typer.Option(None, "--base", help="Take deltas from this model; else from the ancestor that the weights show."),
    plot: Path = typer.Option(None, "--plot", help="Draw it into this file (png, svg or pdf)."),
    tokenizers: bool = typer.Option(False, "--tokenizers", help="Compare the tokenizers of two models or folders instead."),
    text: str = typer.Option(None, "--text", help="With --tokenizers: the sentence shown side by side."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what a model is; for several, how far apart they lie and whether one descends from another."""
    if tokenizers:
        from modist.cli.inspect_tokenizers import inspect_tokenizers

        if base is not None or plot is not None:
            raise UserError(f"--tokenizers reads no weights, so it goes without {'--base' if base is not None else '--plot'}")
        inspect_tokenizers(models, text, as_json)
        return
    if text is not None:
        raise UserError("--text is for --tokenizers: the sentence to show side by side")

    from modist.inspection import Onlooker, inspect_models

    if plot is not None:
        from modist.inspection.picture import check_plot

        check_plot(plot)
    with WaitBar("reading", amounts=True) as progress:
        found = inspect_models(models, base=base, norms=plot is not None, onlooker=Onlooker(progress.begin, progress.advance))
    if plot is not None:
        from modist.inspection.picture import draw

        draw(found, plot)
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if len(found.models) == 1:
        _show_model(console, found.models[0])
    else:
        _show_several(console, found)
    if plot is not None:
        console.print(f"drawn into {plot}", soft_wrap=True)


def _show_model(console: Console, model: ModelFacts) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=model.name, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _lines(model):
        table.add_row(name, value)
    console.print(table)
    for note in (*model.memory.assumptions, *model.notes):
        console.print(f"note: {note}")


def _lines(model: ModelFacts) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{kind} {_count(n)}" for kind, n in model.parameters_by_kind.items())
    heads = f"{model.heads or '?'} of {model.head_dim or '?'}, {model.kv_heads or '?'} with keys and values of their own"
    files = f"{len(model.files)} weight file{'' if len(model.files) == 1 else 's'}"
    place = model.folder if model.here else f"at the hub, {show_amount(sum(model.files.values()))} to download"
    memory = model.memory
    lines = [
        ("folder", place + (f" (commit {model.commit[:12]})" if model.commit else "")),
        ("architecture", model.architecture),
        ("parameters", f"{model.parameters:,} ({kinds})"),
        ("layers", f"{model.layers or '?'}, hidden size {model.hidden or '?'}"),
        ("heads", heads),
        ("context", f"{model.context:,} tokens" if model.context else "not stated"),
        ("positions", model.rope),
        ("vocabulary", f"{model.vocabulary or '?'} rows, head {'tied to the embeddings' if model.tied else 'of its own'}"),
        ("tokenizer", f"{model.tokenizer or 'none'}" + (f", {model.tokens:,} tokens" if model.tokens else "")),
        ("chat template", "yes" if model.template else "no"),
        ("stored as", ", ".join(model.dtypes) + (f", quantised ({model.quantisation})" if model.quantisation else "")),
        ("on disk", f"{show_amount(model.folder_bytes)}, {files}"),
        ("licence", model.licence or "not stated"),
    ]
    if model.made_by:
        origin = model.made_by
        parents = f" of {', '.join(origin.parents)}" if origin.parents else ""
        lines.append(("made by", f"modist {origin.modist}: {origin.method}{parents}, seed {origin.seed}"))
    need = f"{show_amount(memory.weights_bytes)} for the weights"
    if memory.cache_bytes_per_token is not None:
        need += f", {show_amount(memory.cache_bytes_per_token)} a token for keys and values"
    if memory.cache_bytes_full is not None and memory.total_bytes is not None:
        need += f" ({show_amount(memory.cache_bytes_full)} for the whole context): {show_amount(memory.total_bytes)}"
    return [*lines, ("memory to run", need)]


def _show_several(console: Console, found: Inspection) -> None:
    from rich import box
    from rich.table import Table

    names = [model.name for model in found.models]

    def table(title: str, *headings: str) -> Any:
        made = Table(box=box.SIMPLE, title=title, title_justify="left")
        for place, heading in enumerate(headings):
            made.add_column(heading, overflow="fold", justify="left" if place == 0 or title == "models" else "right")
        return made

    models = table("models", "", *names, "")
    for aspect in found.comparison:
        models.add_row(aspect.name, *aspect.values, aspect.reason)
    sizes = [model.memory for model in found.models]
    models.add_row("memory to run", *(show_amount(m.total_bytes or m.weights_bytes) for m in sizes), "")
    console.print(models)

    for verdict in found.verdicts:
        console.print(f"{verdict.text}.", soft_wrap=True)
        for line in verdict.evidence:
            console.print(f"    {line}", soft_wrap=True)

    weights = table("weights", "", "cosine", "Pearson", "distance", "relative", "elements that differ")
    for pair in found.pairs:
        row = (
            _number(pair.cosine),
            _number(pair.pearson),
            f"{pair.distance:.4g}",
            _percent(pair.relative),
            _percent(pair.differing),
        )
        weights.add_row(f"{pair.one} and {pair.other}", *(row if pair.tensors else ("-",) * len(row)))
    console.print(weights)

    if found.deltas:
        _show_layers(console, found, table)
    if found.kinships:
        kin = table(
            f"kinship of the deltas from {found.base}", "", "cosine", "Pearson", "distance", "signs agree", "both moved"
        )
        for entry in found.kinships:
            agree, moved = _percent(entry.sign_agreement), _percent(entry.both_moved)
            row = (_number(entry.cosine), _number(entry.pearson), f"{entry.distance:.4g}", agree, moved)
            kin.add_row(f"{entry.one} and {entry.other}", *row)
        console.print(kin)
    if found.left_out:
        console.print(f"not compared between all: {len(found.left_out)} tensors (--json lists them)")
        for left in found.left_out[:3]:
            console.print(f"    {left.tensor}: {left.reason}", soft_wrap=True)
    for name, count in found.nonfinite.items():
        console.print(f"{name}: {count:,} NaN or infinite elements, left out in every model")


def _show_layers(console: Console, found: Inspection, table: Any) -> None:
    console.print(f"base: {found.base}, {found.base_reason}", soft_wrap=True)
    layers = table("|delta| / |base|: all (attention, mlp)", "layer", *(delta.model for delta in found.deltas))
    numbers = sorted({row.layer for delta in found.deltas for row in delta.layers})
    for number in numbers:
        cells = []
        for delta in found.deltas:
            entry = next((row for row in delta.layers if row.layer == number), None)
            text = "-" if entry is None else f"{_percent(entry.all)} ({_percent(entry.attention)}, {_percent(entry.mlp)})"
            cells.append(text)
        layers.add_row(str(number), *cells)
    for kind in dict.fromkeys(kind for delta in found.deltas for kind in delta.outside):
        label = "final norm" if kind == "norms" else kind
        layers.add_row(label, *(_percent(delta.outside.get(kind)) for delta in found.deltas))
    layers.add_row("whole", *(_percent(delta.relative) for delta in found.deltas))
    console.print(layers)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 0.99995 or abs(value) == 1 else f"{value:.8f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%" if value >= 0.0001 or value == 0 else f"{100 * value:.2g}%"


def _count(value: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)
