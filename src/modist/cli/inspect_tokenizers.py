"""`modist inspect --tokenizers A B`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modist.cli.wait_bar import WaitBar
from modist.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from modist.vocabulary.coverage import Coverage


def inspect_tokenizers(names: Sequence[str], text: str | None, as_json: bool) -> None:
    """Say how well the first tokenizer's ids can be said by the second's."""
    from modist.vocabulary import TokenTexts, align_ids, cache_folder
    from modist.vocabulary.coverage import SENTENCE, cover, side_by_side

    if len(names) != 2:
        raise UserError(f"--tokenizers compares two: {len(names)} named ({', '.join(names)})")
    folders = [_folder(name) for name in names]
    one, two = (TokenTexts.of(folder) for folder in folders)
    if one.name == two.name:
        one, two = (dataclasses.replace(texts, name=name) for texts, name in zip((one, two), names, strict=True))
    with WaitBar("comparing") as bar:
        found = align_ids(one, two, cache=cache_folder(), advance=bar.reach)
    sentence = SENTENCE if text is None else text
    stretches, kinds = side_by_side(one, two, *(_tokenizer(folder) for folder in folders), sentence)
    coverage = dataclasses.replace(cover(one, two, found), text=sentence, stretches=stretches, positions=kinds)
    if as_json:
        print(json.dumps(coverage.as_dict()))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    _show(console, coverage)


def _folder(name: str) -> Path:
    """Where a tokenizer.json is: here, or a copy of the hub's small files."""
    from modist.merge.models import outline_models
    from modist.recipe import ModelReference

    if Path(name).exists():
        return Path(name)
    try:
        reference = ModelReference.parse(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.is_local:
        raise UserError(f"{name}: there is no such folder")
    with outline_models([reference]).checkpoints[str(reference)] as checkpoint:
        return checkpoint.folder


def _tokenizer(folder: Path) -> object:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError("cutting a text needs tokenizers: pip install 'modist[fuse]'") from None
    return Tokenizer.from_file(str(folder / "tokenizer.json" if folder.is_dir() else folder))


def _show(console: Console, found: Coverage) -> None:
    from rich import box
    from rich.table import Table

    def share(count: int) -> str:
        return f"{100 * count / max(1, found.source_tokens):.1f}%"

    table = Table(box=box.SIMPLE, title=f"{found.source} in the tokens of {found.target}", title_justify="left")
    table.add_column("")
    table.add_column("ids", justify="right")
    table.add_column("share", justify="right")
    for label, count in (
        ("exact", found.exact),
        ("by role", found.role),
        ("by edit distance", found.edit),
        ("aligned", found.aligned),
        ("unaligned", found.unaligned),
    ):
        table.add_row(label, f"{count:,}", share(count))
    console.print(table)
    console.print(
        f"{found.source}: {found.source_tokens:,} tokens, {found.source_family}; "
        f"{found.target}: {found.target_tokens:,} tokens, {found.target_family}"
    )
    if found.distances:
        told = ", ".join(f"{count:,} at {distance}" for distance, count in found.distances.items())
        console.print(f"edit distances in characters: {told}", soft_wrap=True)
    if found.worst:
        worst = Table(box=box.SIMPLE, title="worst matches", title_justify="left")
        for heading in ("id", found.source, found.target, "id", "distance"):
            worst.add_column(heading, justify="left" if heading in (found.source, found.target) else "right", overflow="fold")
        for match in found.worst:
            worst.add_row(
                str(match.id), _quoted(match.text), _quoted(match.target_text), str(match.target_id), str(match.distance)
            )
        console.print(worst)
    if found.lost:
        some = ", ".join(_quoted(match.text) for match in found.lost)
        console.print(f"unaligned, among others: {some}", soft_wrap=True)
    console.print()
    for line in side_lines(found, console.width):
        console.print(line, soft_wrap=True)
    kinds = found.positions or {}
    console.print(
        f"of {sum(kinds.values())} positions of {found.target}: "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    )


def side_lines(found: Coverage, width: int) -> list[str]:
    """The sentence as lines of text: tokens of the source above those of the target, stretches in columns."""
    from rich.cells import cell_len

    size = max(len(found.source), len(found.target))
    heads = [f"{name:<{size}} " for name in (found.source, found.target)]
    lines: list[str] = []
    rows = list(heads)
    for stretch in found.stretches:
        cells = [" ".join(_visible(token) for token in tokens) for tokens in (stretch.source, stretch.target)]
        wide = max(map(cell_len, cells))
        if cell_len(rows[0]) + wide + 2 > width and rows != heads:
            lines += [*rows, ""]
            rows = list(heads)
        rows = [f"{row}| {cell}{' ' * (wide - cell_len(cell) + 1)}" for row, cell in zip(rows, cells, strict=True)]
    return [*lines, *rows, ""] if rows != heads else lines


def _quoted(text: str) -> str:
    return f"'{text}'"


def _visible(token: str) -> str:
    return token.replace(" ", "␣")
