"""Which string each id of a tokenizer stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import read_json
from modist.errors import CheckpointError


def token_map(folder: Path) -> Mapping[str, int] | None:
    """Token -> id of a folder's tokenizer.json, or None where there is none to read; not to be changed by who asks."""
    path = folder / "tokenizer.json"
    try:
        held = path.stat()
    except OSError:
        return None
    return _tokens(path, held.st_mtime_ns, held.st_size)


# A large file takes a third of a second, and a merge asks for it in several places.
@lru_cache(maxsize=8)
def _tokens(path: Path, modified: int, size: int) -> Mapping[str, int] | None:
    try:
        data = read_json(path)
        vocabulary = data.get("model", {}).get("vocab", {})
        tokens = (
            dict(vocabulary)
            if isinstance(vocabulary, Mapping)
            else {str(entry[0]): number for number, entry in enumerate(vocabulary)}
        )
        return tokens | {entry["content"]: entry["id"] for entry in data.get("added_tokens", [])}
    except (CheckpointError, KeyError, TypeError, AttributeError, IndexError):
        return None


def tokens_of(source: Any) -> dict[str, int] | None:
    """The same from whatever is at hand.

    Args:
        source: a model's folder, a transformers tokenizer (anything with `get_vocab`), a map token -> id, or None.

    Returns:
        None where nothing is known: no tokenizer.json in the folder, or no source.
    """
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        found = token_map(Path(source))
        return None if found is None else dict(found)
    if isinstance(source, Mapping):
        return dict(source)
    return dict(source.get_vocab())
