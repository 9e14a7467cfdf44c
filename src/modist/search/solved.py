"""A recipe with solved weights: the user's own document, in which nothing else has changed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from modist.errors import RecipeError, UserError
from modist.recipe import Document, Key, Recipe, parse_recipe

# A file that begins so is ours to write again.
MARK = "# weights by modist search mixture"
_DIGITS = 6


def rounded(weights: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Weights as a recipe says them: six decimals, summing to 1, and none that is needed rounded to 0."""
    unit = 10**_DIGITS
    wanted = np.asarray(weights, dtype=np.float64) * unit
    whole = np.where(wanted > 0, np.maximum(np.floor(wanted), 1), 0).astype(np.int64)
    # What rounding down left over goes to those that lost most.
    order = np.argsort(whole - wanted, kind="stable")
    for place in range(max(0, unit - int(whole.sum()))):
        whole[order[place % len(order)]] += 1
    if (over := int(whole.sum()) - unit) > 0:
        whole[int(whole.argmax())] -= over
    return tuple(int(part) / unit for part in whole)


def check_out(out: Path, recipe: Recipe, force: bool = False) -> None:
    """Refuse to write where something would be lost.

    Raises:
        UserError: `out` is the recipe itself, a folder, in no folder, no YAML by its suffix, or a file that is not ours.
    """
    if out.suffix.lower() not in (".yml", ".yaml"):
        raise UserError(f"--out {out}: a recipe's file ends in .yml or .yaml")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if not out.exists():
        return
    source = Path(recipe.document.name)
    if source.exists() and out.samefile(source):
        raise UserError(f"--out {out}: is the recipe itself, which is never overwritten; name another file")
    if force:
        return
    try:
        with out.open("rb") as file:
            ours = file.read(len(MARK)) == MARK.encode()
    except OSError as error:
        raise UserError(f"--out {out}: cannot be read ({error.strerror})") from None
    if not ours:
        raise UserError(f"--out {out}: is there, and was not written by modist search mixture; --force replaces it")


def solved_text(recipe: Recipe, weights: Sequence[float], out: Path, remark: str = "") -> str:
    """The recipe's YAML with these weights, to stand in `out`; folders it names relative to itself are found from there too.

    Args:
        weights: one for each expert.
        remark: ends the first line, a comment.
    """
    document = recipe.document
    wanted = rounded(weights)
    changes: dict[tuple[Key, ...], str] = {("weights",): "[" + ", ".join(map(_plain, wanted)) + "]"}
    for path, text in _moved(recipe, out).items():
        changes[path] = json.dumps(text, ensure_ascii=False)
    first = f"{MARK}{f': {remark}' if remark else ''}\n"
    body = _edited(document, changes)
    # Solved again: the new remark stands for the old one.
    text = first + (body.partition("\n")[2] if body.startswith(MARK) else body)
    text = text if text.endswith("\n") else f"{text}\n"
    if not _says(text, out, wanted):
        # An alias, a tag, two documents' worth of style: plain YAML of the same data then.
        data: Any = json.loads(json.dumps(document.data))
        data["weights"] = list(wanted)
        for path, moved in _moved(recipe, out).items():
            part = data
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = moved
        text = first + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def write_solved(recipe: Recipe, weights: Sequence[float], out: Path, *, remark: str = "", force: bool = False) -> Path:
    """Write the recipe with these weights; the file appears whole.

    Raises:
        UserError: as `check_out`, or the file cannot be written.
    """
    check_out(out, recipe, force)
    text = solved_text(recipe, weights, out, remark)
    growing = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        growing.write_text(text, encoding="utf-8")
        os.replace(growing, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    finally:
        growing.unlink(missing_ok=True)
    return out


def _plain(weight: float) -> str:
    """A number that YAML reads as one: never with an exponent."""
    return f"{weight:.{_DIGITS}f}".rstrip("0").rstrip(".")


def _moved(recipe: Recipe, out: Path) -> dict[tuple[Key, ...], str]:
    """Where a folder stands beside the recipe and not beside `out`: path of the key -> the folder as seen from there."""
    here, there = Path(recipe.document.name).absolute().parent, out.absolute().parent
    if here == there:
        return {}
    data = recipe.document.data
    named: list[tuple[tuple[Key, ...], str, Any]] = [
        (("experts", index, "source_model"), data["experts"][index]["source_model"], source.model)
        for index, source in enumerate(recipe.slices[0].sources)
    ]
    if recipe.base is not None:
        named.append((("base_model",), data["base_model"], recipe.base))
    return {
        path: Path(os.path.relpath(reference.folder.absolute(), there)).as_posix()
        for path, text, reference in named
        # Found as it stands (an absolute path, one from here, a hub id): it stays as the user wrote it.
        if reference.is_local and reference.source != text.strip()
    }


def _edited(document: Document, changes: Mapping[tuple[Key, ...], str]) -> str:
    """The document's text with values replaced, comments and all else as they were."""
    root = yaml.compose(document.text, yaml.SafeLoader)
    spans = []
    for path, text in changes.items():
        begin, end = _span(root, path)
        spans.append((begin, end, text))
    found = document.text
    for begin, end, text in sorted(spans, reverse=True):
        found = f"{found[:begin]}: {text}{found[end:]}"
    return found


def _span(root: Any, path: tuple[Key, ...]) -> tuple[int, int]:
    """From behind a key to the end of its value, in characters."""
    node, begin = root, 0
    for key in path:
        if isinstance(key, int):
            node = node.value[key]
        else:
            name, node = next(pair for pair in node.value if pair[0].value == key)
            begin = name.end_mark.index
    # A list of lines ends, for the parser, where the next key begins: comments between would be lost.
    while isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        node = node.value[-1]
    return begin, int(node.end_mark.index)


def _says(text: str, out: Path, weights: Sequence[float]) -> bool:
    """Whether it is a recipe with these weights."""
    try:
        found = parse_recipe(text, str(out))
    except RecipeError:
        return False
    values = [source.parameters["weight"].at("", 0.0) for source in found.slices[0].sources]
    return all(
        isinstance(value, (int, float)) and math.isclose(value, weight, abs_tol=1e-9)
        for value, weight in zip(values, weights, strict=True)
    )
