"""Which elements of a delta survive: the first step of every method of the task-vector family.

    largest    the int(d n) largest magnitudes, at least one                                   TIES
    middle     the int(d n) largest below the int(g n) largest, which are outliers             breadcrumbs
    random     each with probability d                                                         DARE
    by rank    each with probability d - e at the smallest of its row to d + e at the largest  DELLA

Sources: Yadav et al. 2023 (arXiv 2306.01708), algorithm 1; Davari and Belilovsky 2023, Model Breadcrumbs (2312.06795),
section 3; Yu et al. 2024 (2311.03099), eq. 2; Deep et al. 2024, DELLA (2406.11617), section 3.1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.selection import by_magnitude
from modist.merge.tensor import Block, Tensor

Mask = npt.NDArray[np.bool_]
# Takes a block and its delta there, and says which elements survive.
Survivors = Callable[[Block, Floats], Mask]


def keep_none(block: Block, delta: Floats) -> Mask:
    return np.zeros(len(delta), np.bool_)


def keep_largest(tensor: Tensor, index: int) -> Survivors:
    """The int(density n) largest magnitudes, at least one."""
    count = max(1, int(tensor.number("density", index) * tensor.size))
    chosen = tensor.largest(count, lambda block: by_magnitude(block.delta(index)))
    return lambda block, delta: chosen.mask(block.number, by_magnitude(delta.copy()))


def keep_middle(tensor: Tensor, index: int) -> Survivors:
    """Not the int(gamma n) largest magnitudes but the int(density n) after them; fewer outliers go where too few would stay."""
    size = tensor.size
    kept = int(tensor.number("density", index) * size)
    outliers = min(int(tensor.number("gamma", index) * size), size - kept)
    if not kept:
        return keep_none
    ranks = [rank for rank in (outliers, outliers + kept) if 0 < rank < size]
    found = dict(zip(ranks, tensor.largest_each(ranks, lambda block: by_magnitude(block.delta(index))), strict=True))

    def survive(block: Block, delta: Floats) -> Mask:
        keys = by_magnitude(delta.copy())
        last = found.get(outliers + kept)
        mask = np.ones(len(delta), np.bool_) if last is None else last.mask(block.number, keys)
        if outliers:
            np.greater(mask, found[outliers].mask(block.number, keys), out=mask)
        return mask

    return survive


def keep_random(tensor: Tensor, index: int) -> Survivors:
    """Each element with probability `density`."""
    density = tensor.number("density", index)
    stream = f"dare {index}"
    return lambda block, delta: block.uniform(stream).below(density)


def keep_by_rank(tensor: Tensor, index: int) -> Survivors:
    """Each element with a probability that rises with the rank of its magnitude within its row."""
    density, epsilon = tensor.number("density", index), tensor.number("epsilon", index)
    stream, row = f"della {index}", tensor.row
    assert row is not None
    ranks = np.linspace(0.0, 1.0, row) if row > 1 else np.full(1, 0.5)
    probabilities = density - epsilon + 2 * epsilon * ranks

    def survive(block: Block, delta: Floats) -> Mask:
        # Draws belong to ranks, not to places: they are alike, and a sorted row needs no way back.
        survivors = block.uniform(stream).below_each(probabilities)
        keys = block.rows(by_magnitude(delta.copy())).astype(np.uint64)
        np.left_shift(keys, np.uint64(32), out=keys)
        # The place breaks ties, and comes out with the sorted keys.
        places = np.arange(len(delta), dtype=np.uint64).reshape(keys.shape)
        np.bitwise_or(keys, places, out=keys)
        keys.sort(axis=1)
        mask = np.empty(len(delta), np.bool_)
        mask[keys.reshape(-1).astype(np.uint32)] = survivors
        return mask

    return survive


def remembered(tensor: Tensor, survivors: Survivors, room: int) -> Survivors:
    """The same, each block's answer kept as bits until it is asked for again, as far as `room` bytes go."""
    held: dict[int, npt.NDArray[np.uint8]] = {}
    left = room
    lock = threading.Lock()

    def survive(block: Block, delta: Floats) -> Mask:
        nonlocal left
        with lock:
            bits = held.pop(block.number, None)
        if bits is not None:
            return np.unpackbits(bits, count=len(block)).view(np.bool_)
        mask = survivors(block, delta)
        bits = np.packbits(mask)
        with lock:
            if len(bits) <= left:
                held[block.number] = bits
                left -= len(bits)
        return mask

    return survive
