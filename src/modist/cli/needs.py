"""What running a recipe's experts takes, before anything is loaded: `--dry-run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from modist.cli.amount import show_amount
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.recipe import Recipe


def needs_of(recipe: Recipe, dtype: str | None, max_new_tokens: int) -> dict[str, Any]:
    """Memory and download of a recipe's experts, from configs and headers alone."""
    from modist.checkpoint import Checkpoint
    from modist.checkpoint.dtype import HOLDERS
    from modist.checkpoint.outline import outline
    from modist.inspection.memory import context_of, memory_of
    from modist.merge.layer import text_config

    widths = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
    if dtype not in (None, "auto", *widths):
        raise UserError(f"there is no dtype {dtype!r}; one of auto, {', '.join(widths)}")
    given = recipe.model_kwargs.get("dtype", recipe.model_kwargs.get("torch_dtype", recipe.dtype))
    asked = dtype or (given if isinstance(given, str) else None)
    rows: list[dict[str, Any]] = []
    assumptions: list[str] = []
    for source in recipe.slices[0].sources:
        reference, download = source.model, 0
        if reference.is_local:
            checkpoint = Checkpoint.open(reference.folder, str(reference))
        else:
            found = outline(reference)
            checkpoint, download = found.checkpoint, found.download_bytes
        memory = memory_of(checkpoint)
        stored = {tensor.dtype for tensor in checkpoint.tensors.values()}
        scale = 1.0
        if asked in widths and len(stored) == 1 and (kind := next(iter(stored))) in HOLDERS:
            scale = widths[asked] / HOLDERS[kind].itemsize
        per_token, full = memory.cache_bytes_per_token, memory.cache_bytes_full
        rows.append(
            {
                "name": reference.name,
                "weight": source.parameters["weight"].at("", 0.0),
                "weights_bytes": round(memory.weights_bytes * scale),
                "cache_bytes_per_token": None if per_token is None else round(per_token * scale),
                "cache_bytes_full": None if full is None else round(full * scale),
                "context": context_of(text_config(checkpoint.config)),
                "download_bytes": download,
            }
        )
        # What concerns the dtype of the cache is said by `dtype` where one is asked for.
        assumptions += [line for line in memory.assumptions if scale == 1 or "the cache holds" not in line]
        checkpoint.close()
    caches = [row["cache_bytes_per_token"] for row in rows]
    known = None not in caches
    new = sum(int(cache) for cache in caches) * max_new_tokens if known else None
    weights = sum(row["weights_bytes"] for row in rows)
    return {
        "experts": rows,
        "dtype": asked or "as stored",
        "weights_bytes": weights,
        "cache_bytes_of_the_answer": new,
        "memory_bytes": weights + (new or 0),
        "download_bytes": sum(row["download_bytes"] for row in rows),
        "assumptions": list(dict.fromkeys(assumptions)),
    }


def show_needs(needs: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(needs))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=box.SIMPLE)
    table.add_column("expert", overflow="fold")
    for heading in ("weight", "weights", "cache a token", "cache, whole context", "download"):
        table.add_column(heading, justify="right")

    def amount(value: int | None) -> str:
        return "?" if value is None else show_amount(value)

    for row in needs["experts"]:
        full = f"{amount(row['cache_bytes_full'])}" + (f" ({row['context']:,} tokens)" if row["context"] else "")
        sizes = (amount(row["weights_bytes"]), amount(row["cache_bytes_per_token"]), full, amount(row["download_bytes"]))
        table.add_row(row["name"], f"{row['weight']:g}", *sizes)
    console.print(table)
    cache = needs["cache_bytes_of_the_answer"]
    console.print(
        f"memory    {show_amount(needs['weights_bytes'])} for the weights, {amount(cache)} for an answer's keys and values"
    )
    console.print(f"download  {show_amount(needs['download_bytes'])}")
    console.print(f"dtype     {needs['dtype']}")
    for line in needs["assumptions"]:
        console.print(f"note: {line}", soft_wrap=True)
    console.print("note: the prompt's keys and values come on top; tensors that experts share will be held once")
