"""Finished id maps on disk, so that two large vocabularies are compared once.

A file's name is the hash of all that decides its content; the file carries a hash of its own arrays.  One that does not read
back whole is made again, and two processes that finish at once write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modist.errors import UserError

if TYPE_CHECKING:
    from modist.vocabulary.counts import PairCounts
    from modist.vocabulary.id_map import IdMap
    from modist.vocabulary.texts import TokenTexts

# Raised whenever an alignment would come out otherwise than before.
_EDITION = 1


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
    file = folder / f"{hashlib.sha256(' '.join(told).encode()).hexdigest()[:40]}.npz"
    found = _read(file, source, target)
    if found is None:
        found = make()
        _write(file, found)
    return found


def _read(file: Path, source: TokenTexts, target: TokenTexts) -> IdMap | None:
    """What a file holds, or None where there is none or it is damaged."""
    from modist.vocabulary.id_map import IdMap

    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays: list[NDArray[Any]] = [kept[name] for name in ("ids", "reason", "distance")]
            seal = kept["seal"].tobytes()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
        return None
    kinds = [np.dtype(np.int32), np.dtype(np.uint8), np.dtype(np.int32)]
    if seal != _seal(arrays) or [(a.dtype, a.shape) for a in arrays] != [(kind, (source.size,)) for kind in kinds]:
        return None
    return IdMap(source.name, target.name, arrays[0], arrays[1], arrays[2], target.size)


def _write(file: Path, found: IdMap) -> None:
    arrays: list[NDArray[Any]] = [found.ids, found.reason, found.distance]
    whole = io.BytesIO()
    seal = np.frombuffer(_seal(arrays), dtype=np.uint8)
    np.savez_compressed(whole, ids=found.ids, reason=found.reason, distance=found.distance, seal=seal)
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=".part-")
        with os.fdopen(descriptor, "wb") as growing:
            growing.write(whole.getbuffer())
        os.replace(part, file)
    except OSError as error:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
        raise UserError(f"{file.parent}: the alignment cannot be kept there: {error.strerror or error}") from None


def _seal(arrays: Sequence[NDArray[Any]]) -> bytes:
    told = hashlib.sha256()
    for array in arrays:
        told.update(array.tobytes())
    return told.digest()
