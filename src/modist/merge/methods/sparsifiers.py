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
    return lambda block, delta: chosen.mask(block.number, by_magnitude(delta, np.empty_like(delta)))


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
        keys = by_magnitude(delta, np.empty_like(delta))
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
    """Each element with a probability that rises with the rank of its magnitude within its row; equals share the lowest rank.

    p = d - e + 2 e rank / (n - 1) needs no ranks: a draw below d - e keeps any element, one above d + e none, and between
    them an element stays if it is larger than a random one of its row, the row's largest apart.  That is true of rank out
    of n - 1.
    """
    density, epsilon = tensor.number("density", index), tensor.number("epsilon", index)
    stream, row = f"della {index}", tensor.row
    assert row is not None
    low, high = (np.uint32(min(round(p * (1 << 32)), (1 << 32) - 1)) for p in (density - epsilon, density + epsilon))
    if row == 1 or low == high:
        # A row of one has no ranks: it stays with the density itself.
        return lambda block, delta: block.draws(stream) < np.uint32(round(density * (1 << 32)))
    # Of a draw's place between low and high, in 2^32nds, to one of n - 1.
    step = np.uint64(((row - 1) << 32) // int(high - low))

    def survive(block: Block, delta: Floats) -> Mask:
        drawn = block.draws(stream)
        mask = drawn < low
        undecided = drawn < high
        np.not_equal(undecided, mask, out=undecided)
        places = np.flatnonzero(undecided)
        keys = by_magnitude(delta, np.empty_like(delta))
        own = keys.take(places)
        # From here each row's first n - 1 keys are all but one largest, whose place the last has taken.
        rows = block.rows(keys)
        np.put_along_axis(rows, rows.argmax(axis=1)[:, None], rows[:, -1:], axis=1)
        rival = (drawn.take(places) - low).astype(np.uint64)
        np.multiply(rival, step, out=rival)
        np.right_shift(rival, 32, out=rival)
        found = rival.view(np.int64)
        found += np.repeat(np.arange(0, len(delta), row), np.count_nonzero(block.rows(undecided), axis=1))
        mask[places] = own > keys.take(found)
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
