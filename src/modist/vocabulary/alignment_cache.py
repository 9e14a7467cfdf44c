"""Finished id maps on disk, so that two large vocabularies are compared once.

A file's name is the hash of all that decides its content, and the file begins with the hash of the rest.  One that does not
read back whole is made again, and two processes that finish at once write the same map.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modist.errors import UserError

if TYPE_CHECKING:
    from modist.vocabulary.counts import PairCounts
    from modist.vocabulary.id_map import IdMap
    from modist.vocabulary.texts import TokenTexts

# Raised whenever an alignment would come out otherwise than before.
_EDITION = 1
# Bytes of the hash before a file's arrays.
_SEAL = 32


def cache_folder() -> Path:
    """Where id maps are kept: $MODIST_CACHE/alignment, else ~/.cache/modist/alignment."""
    named = os.environ.get("MODIST_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "modist") / "alignment"


def recall(
    folder: Path | None,
    source: TokenTexts,
    target: TokenTexts,
    how: str,
    make: Callable[[], IdMap],
    statistics: PairCounts | None = None,
) -> IdMap:
    """The map kept in a folder, else a new one, which is kept.

    Args:
        folder: None to keep nothing.
        source, target: the tokenizers.
        how: the way of aligning.
        make: makes the map.
        statistics: what else decides it.

    Raises:
        UserError: the folder cannot be written.
    """
    if folder is None:
        return make()
    told = [str(_EDITION), source.digest, target.digest, how, statistics.digest if statistics else ""]
    file = folder / f"{hashlib.sha256(' '.join(told).encode()).hexdigest()[:40]}.ids"
    found = _read(file, source, target)
    if found is None:
        found = make()
        _write(file, found)
    return found


def _read(file: Path, source: TokenTexts, target: TokenTexts) -> IdMap | None:
    """What a file holds, or None where there is none or it is damaged."""
    from modist.vocabulary.id_map import IdMap

    try:
        whole = file.read_bytes()
    except OSError:
        return None
    seal, body = whole[:_SEAL], whole[_SEAL:]
    if hashlib.sha256(body).digest() != seal:
        return None
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as kept:
            ids, reason, distance = (kept[name] for name in ("ids", "reason", "distance"))
    except (ValueError, KeyError, zipfile.BadZipFile):  # sealed, but not by this edition
        return None
    if [part.shape for part in (ids, reason, distance)] != [(source.size,)] * 3 or int(ids.max(initial=-1)) >= target.size:
        return None
    return IdMap(source.name, target.name, ids, reason, distance, target.size)


def _write(file: Path, found: IdMap) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, ids=found.ids, reason=found.reason, distance=found.distance)
    body = packed.getvalue()
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=".part-")
        with os.fdopen(descriptor, "wb") as growing:
            growing.write(hashlib.sha256(body).digest() + body)
        os.replace(part, file)
    except OSError as error:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
        raise UserError(f"{file.parent}: the alignment cannot be kept there: {error.strerror or error}") from None
