"""One source position for each target position, where boundaries cross: dynamic programming over shared bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from modist.vocabulary.positions import PositionMap

Ints = NDArray[np.int32]


def partners(found: PositionMap) -> Ints:
    """See `PositionMap.partner`; int32 [m]."""
    from modist.vocabulary.positions import CROSSED, JOINED, NONE

    chosen = np.where(found.kind == NONE, -1, found.start).astype(np.int32)
    for j in np.flatnonzero(found.kind == JOINED).tolist():
        run = found.source_spans[found.start[j] : found.stop[j]]
        chosen[j] = found.start[j] + int(np.argmax(run[:, 1] - run[:, 0]))
    crossed = np.flatnonzero(found.kind == CROSSED)
    # Neighbours whose runs touch compete for the same source positions.
    breaks = np.flatnonzero((np.diff(crossed) > 1) | (found.start[crossed[1:]] >= found.stop[crossed[:-1]])) + 1
    for stretch in np.split(crossed, breaks):
        if len(stretch):
            low, high = int(found.start[stretch[0]]), int(found.stop[stretch[-1]])
            pairs = pair_spans(found.source_spans[low:high], found.target_spans[stretch])
            chosen[stretch] = np.where(pairs < 0, -1, pairs + low)
    return chosen


def pair_spans(source: Ints, target: Ints) -> Ints:
    """The pairing in order, each span used once at most, that shares the most bytes; int32 [m], -1 for an unpaired target.

    Of equal pairings, the one that pairs the earliest target positions with the earliest source positions.

    Args:
        source, target: spans, [n, 2] and [m, 2].
    """
    n, m = len(source), len(target)
    shared = np.minimum(source[:, None, 1], target[None, :, 1]) - np.maximum(source[:, None, 0], target[None, :, 0])
    gain = np.maximum(shared, 0).tolist()
    # best[i][j]: the most that source[i:] and target[j:] can share.
    best = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], gain[i][j] + best[i + 1][j + 1] if gain[i][j] else 0)
    pairs = np.full(m, -1, dtype=np.int32)
    i = j = 0
    while i < n and j < m:
        if gain[i][j] and best[i][j] == gain[i][j] + best[i + 1][j + 1]:
            pairs[j] = i
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
