"""The nearest of many texts by Levenshtein's distance, exactly, for a whole vocabulary at once.

Texts are grouped by length.  A pair's distance is at least the difference of their lengths, so for sources of one length the
targets are visited by that difference, and a source is done as soon as it has a target nearer than any length still to come.
Within a block of two lengths rapidfuzz computes all distances with its vectorised kernels; blocks are bounded in memory, and
sources are shared among threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Distances computed at a time by one thread; a byte each.
_BLOCK = 1 << 24
# Sources of one length that one task takes: enough to fill the kernels, few enough to share out.
_SOURCES = 2048

Ints = NDArray[np.int64]


def characters(text: bytes) -> str:
    """A token's bytes as characters; a byte that belongs to no whole character counts as one."""
    return text.decode("utf-8", "surrogateescape")


def nearest_texts(
    sources: Sequence[bytes],
    targets: Sequence[bytes],
    *,
    workers: int | None = None,
    advance: Callable[[int, int], object] | None = None,
) -> tuple[Ints, Ints]:
    """The nearest target of each source.

    Least is (distance, characters of the target, place of the target), among the targets that keep at least one character of
    the source in its place: whose distance is less than the longer one's length.

    Args:
        sources, targets: texts, [n] and [m].
        workers: threads; None for one a core.
        advance: told (pairs done or ruled out, pairs in all), by one thread at a time.

    Returns:
        places of the targets and their distances, int64 [n] each; -1 and -1 where no target has anything in common.

    Raises:
        ImportError: rapidfuzz is not here.
    """
    _rapidfuzz()
    by_source, by_target = _by_length(sources), _by_length(targets)
    places, distances = np.full(len(sources), -1, dtype=np.int64), np.full(len(sources), -1, dtype=np.int64)
    total, done, lock = len(sources) * len(targets), 0, threading.Lock()
    tasks = [
        (length, members[low : low + _SOURCES], texts[low : low + _SOURCES])
        for length, (members, texts) in by_source.items()
        for low in range(0, len(members), _SOURCES)
    ]

    def work(task: tuple[int, Ints, list[str]]) -> None:
        nonlocal done
        length, members, texts = task
        places[members], distances[members] = _nearest_of_length(length, texts, by_target)
        if advance is not None:
            with lock:
                done += len(members) * len(targets)
                advance(done, total)

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        # The longest first: they cost the most.
        list(pool.map(work, sorted(tasks, key=lambda task: -task[0])))
    return places, distances


def _nearest_of_length(length: int, sources: list[str], by_target: dict[int, tuple[Ints, list[str]]]) -> tuple[Ints, Ints]:
    """The same for sources that all have `length` characters."""
    best = np.full(len(sources), np.iinfo(np.int64).max)  # distance, then length of the target, as one number
    places = np.full(len(sources), -1, dtype=np.int64)
    scale = 1 + max(by_target, default=0)
    open_ = np.arange(len(sources))
    for other in sorted(by_target, key=lambda other: (abs(other - length), other)):
        open_ = open_[best[open_] // scale >= abs(other - length)]
        if not len(open_):
            break
        members, targets = by_target[other]
        longest = max(length, other)
        step = max(1, _BLOCK // max(1, len(targets)))
        for low in range(0, len(open_), step):
            rows = open_[low : low + step]
            found = _distances([sources[row] for row in rows.tolist()], targets, longest)
            nearest = found.argmin(axis=1)  # the first of equals: members are in order
            far = found[np.arange(len(rows)), nearest].astype(np.int64)
            key = far * scale + other
            better = (far < longest) & ((key < best[rows]) | ((key == best[rows]) & (members[nearest] < places[rows])))
            best[rows[better]], places[rows[better]] = key[better], members[nearest[better]]
    return places, np.where(places >= 0, best // scale, -1)


def _distances(sources: list[str], targets: list[str], longest: int) -> NDArray[Any]:
    """Every source against every target, [sources, targets]."""
    fuzz = _rapidfuzz()
    kind = np.uint8 if longest < 256 else np.int32
    return np.asarray(fuzz.process.cdist(sources, targets, scorer=fuzz.distance.Levenshtein.distance, dtype=kind, workers=1))


def pair_distances(sources: Sequence[bytes], targets: Sequence[bytes]) -> Ints:
    """The distance of each source to the target of the same place; int64 [n]."""
    fuzz = _rapidfuzz()
    one, two = [characters(text) for text in sources], [characters(text) for text in targets]
    return np.asarray(fuzz.process.cpdist(one, two, scorer=fuzz.distance.Levenshtein.distance, dtype=np.int32), dtype=np.int64)


def _by_length(texts: Sequence[bytes]) -> dict[int, tuple[Ints, list[str]]]:
    """Characters -> places and texts of that length, in the order given."""
    found: dict[int, list[tuple[int, str]]] = {}
    for place, text in enumerate(texts):
        told = characters(text)
        found.setdefault(len(told), []).append((place, told))
    return {
        length: (np.array([place for place, _ in entries], dtype=np.int64), [told for _, told in entries])
        for length, entries in found.items()
    }


def _rapidfuzz() -> Any:
    try:
        import rapidfuzz.distance
        import rapidfuzz.process
    except ImportError:
        raise ImportError("edit distances between vocabularies need rapidfuzz: pip install 'modist[fuse]'") from None
    return rapidfuzz
