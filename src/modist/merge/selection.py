"""The k largest of a tensor's keys, exactly, without sorting and without holding the tensor.

Keys are uint32 that order as the quantity does (see `rising` and `by_magnitude`).  A sample brackets the k-th largest; one
pass counts what lies above the bracket and keeps what lies inside, and a selection among those few finds the key.  Where the
bracket misses, or too much lies inside it, two histograms over the bits find it instead.  Ties go to the lower flat index, so
exactly k elements are chosen and the same ones each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats

Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint32]
KeysOf = Callable[[int], Keys]

SAMPLE = 1 << 16
# Keys held at once for one tensor, whatever its size: 16 MiB.
ROOM = 1 << 22
MARGIN = 0.006
_LOW_BITS = 15


def by_magnitude(values: Floats, out: Floats | None = None) -> Keys:
    """Keys that order as |value| does; `values` is overwritten unless there is an `out`."""
    return np.abs(values, out=values if out is None else out).view(np.uint32)


def rising(values: Floats) -> Keys:
    """Keys that order as the values do, both zeros alike; `values` is overwritten."""
    np.add(values, np.float32(0), out=values)
    bits = values.view(np.int32)
    # Negative floats order backwards: flip all their bits; of the others, only the sign.
    flips = np.right_shift(bits, 31)
    np.bitwise_or(flips, np.int32(-(1 << 31)), out=flips)
    np.bitwise_xor(bits, flips, out=bits)
    return bits.view(np.uint32)


@dataclass(frozen=True)
class Largest:
    """Which elements of a tensor are among its k largest keys.

    Attributes:
        threshold: the k-th largest key.
        ties: for each block, how many of its elements that equal the threshold are kept, lowest index first; None for all.
    """

    threshold: np.uint32
    ties: tuple[int | None, ...]

    def mask(self, block: int, keys: Keys) -> Mask:
        """Which elements of one block are kept; `keys` must be the ones the selection was made from."""
        ties = self.ties[block]
        if ties is None:
            return keys >= self.threshold
        kept = keys > self.threshold
        if ties:
            kept[np.flatnonzero(keys == self.threshold)[:ties]] = True
        return kept


def largest(
    count: int,
    size: int,
    blocks: int,
    each: Callable[[int, Callable[[int], object]], Sequence[object]],
    keys: KeysOf,
    sample: Keys,
    room: int,
) -> Largest:
    """Find the `count` largest of `size` keys; see `largest_each`."""
    return largest_each([count], size, blocks, each, keys, sample, room)[0]


def largest_each(
    counts: Sequence[int],
    size: int,
    blocks: int,
    each: Callable[[int, Callable[[int], object]], Sequence[object]],
    keys: KeysOf,
    sample: Keys,
    room: int,
) -> list[Largest]:
    """For each of several counts, find so many largest of `size` keys, all in one pass as a rule.

    Args:
        counts: how many to keep, 1 <= count <= size.
        size: how many keys there are.
        blocks: in how many blocks they come.
        each: `each(n, f)` gives `[f(0), ..., f(n - 1)]`, possibly in parallel.
        keys: `keys(b)`: the keys of block b; a fresh array each time.
        sample: some of the keys, to guess from; a bad guess costs time, never correctness.
        room: how many keys may be held at once.
    """
    brackets = [_bracket(sample, count / size, 0.45 * room / size / len(counts)) for count in counts]
    wide = [k for k, (low, high) in enumerate(brackets) if low is None or low != high]
    sifted = _from_brackets([(counts[k], *brackets[k]) for k in wide], blocks, each, keys, room) if wide else []
    found = dict(zip(wide, sifted, strict=True))

    def settle(k: int) -> Largest:
        known = found.get(k)
        if known is not None:
            return known
        guess = brackets[k][0] if k not in found else None
        return _at(counts[k], blocks, each, keys, guess)

    return [settle(k) for k in range(len(counts))]


def _at(
    count: int,
    blocks: int,
    each: Callable[[int, Callable[[int], object]], Sequence[object]],
    keys: KeysOf,
    guess: np.uint32 | None,
) -> Largest:
    """The `count` largest, whose threshold is the guess or else found by histograms."""
    exact = _from_histograms(count, blocks, each, keys) if guess is None else guess

    def around(block: int) -> tuple[int, int]:
        values = keys(block)
        return int(np.count_nonzero(values > exact)), int(np.count_nonzero(values == exact))

    counted: Sequence[tuple[int, int]] = each(blocks, around)  # type: ignore[assignment]
    above, equal = sum(c[0] for c in counted), [c[1] for c in counted]
    if not above < count <= above + sum(equal):
        return _at(count, blocks, each, keys, None)
    return Largest(exact, _share_out(count - above, equal))


def _bracket(sample: Keys, share: float, widest: float) -> tuple[np.uint32 | None, np.uint32 | None]:
    """Values that most likely enclose the quantile, no farther than `widest` of all keys to either side; None for no bound."""
    n = len(sample)
    if not n:
        return None, None
    margin = min(widest, MARGIN + 4 * float(np.sqrt(share * (1 - share) / n)))
    top, bottom = int(np.floor((share - margin) * n)), int(np.ceil((share + margin) * n))
    ranks = [min(max(n - 1 - rank, 0), n - 1) for rank in (top, bottom)]
    ordered = np.partition(sample, sorted(set(ranks)))
    high = ordered[ranks[0]] if top >= 0 else None
    low = ordered[ranks[1]] if bottom < n else None
    return low, high


def _from_brackets(
    wanted: Sequence[tuple[int, np.uint32 | None, np.uint32 | None]],
    blocks: int,
    each: Callable[[int, Callable[[int], object]], Sequence[object]],
    keys: KeysOf,
    room: int,
) -> list[Largest | None]:
    """For each (count, low, high): the count largest keys if the count-th lies from low to high, and what does fits."""
    held = 0

    def sift(block: int) -> list[tuple[int, Keys | None]]:
        nonlocal held
        values = keys(block)
        kept: list[tuple[int, Keys | None]] = []
        for _, low, high in wanted:
            above = 0
            inside = values >= (low if low is not None else np.uint32(0))
            if high is not None:
                beyond = values > high
                above = int(np.count_nonzero(beyond))
                np.greater(inside, beyond, out=inside)
            # A race here only lets a few more in than there is room for; it cannot lose any.
            held += int(np.count_nonzero(inside))
            kept.append((above, None if held > room else values[np.flatnonzero(inside)]))
        return kept

    found: Sequence[list[tuple[int, Keys | None]]] = each(blocks, sift)  # type: ignore[assignment]
    return [_sifted(count, column) for (count, _, _), column in zip(wanted, zip(*found, strict=True), strict=True)]


def _sifted(count: int, blocks: Sequence[tuple[int, Keys | None]]) -> Largest | None:
    kept = [part for _, part in blocks if part is not None]
    above = sum(number for number, _ in blocks)
    inside = sum(map(len, kept))
    if len(kept) < len(blocks) or not above < count <= above + inside:
        return None
    threshold = kth_largest(kept, count - above)
    above += sum(int(np.count_nonzero(part > threshold)) for part in kept)
    equal = [int(np.count_nonzero(part == threshold)) for part in kept]
    return Largest(threshold, _share_out(count - above, equal))


def _from_histograms(
    count: int,
    blocks: int,
    each: Callable[[int, Callable[[int], object]], Sequence[object]],
    keys: KeysOf,
) -> np.uint32:
    lock = threading.Lock()

    def total(bins: int, index: Callable[[Keys], npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        histogram = np.zeros(bins, np.int64)

        def add(block: int) -> None:
            counted = np.bincount(index(keys(block)), minlength=bins)
            with lock:
                np.add(histogram, counted, out=histogram)

        each(blocks, add)
        return histogram

    upper, left = _rank_from_top(total(1 << (32 - _LOW_BITS), lambda bits: bits >> _LOW_BITS), count)
    low_mask = np.uint32((1 << _LOW_BITS) - 1)
    lower, _ = _rank_from_top(
        total(1 << _LOW_BITS, lambda bits: bits[np.flatnonzero((bits >> _LOW_BITS) == upper)] & low_mask),
        left,
    )
    return np.uint32((upper << _LOW_BITS) | lower)


def _rank_from_top(histogram: npt.NDArray[np.int64], count: int) -> tuple[int, int]:
    """The bin that holds the count-th largest, and its rank from the top within that bin."""
    from_top = np.cumsum(histogram[::-1])
    position = int(np.searchsorted(from_top, count))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, count - above


def kth_largest(parts: Sequence[Keys], count: int) -> np.uint32:
    """The count-th largest of some keys held in memory, by histograms over the bits in which they differ.

    Keys of deltas repeat a lot, which is where a quickselect is at its slowest and a histogram is not.
    """
    while True:
        parts = [part for part in parts if len(part)]
        lowest = min(int(part.min()) for part in parts)
        span = max(int(part.max()) for part in parts) - lowest
        if not span:
            return np.uint32(lowest)
        base, shift = np.uint32(lowest), np.uint32(max(0, span.bit_length() - 14))
        histogram = np.zeros((span >> int(shift)) + 1, np.int64)
        for part in parts:
            histogram += np.bincount((part - base) >> shift, minlength=len(histogram))
        chosen, count = _rank_from_top(histogram, count)
        parts = [part[np.flatnonzero((part - base) >> shift == chosen)] for part in parts]


def _share_out(number: int, equal: Sequence[int]) -> tuple[int | None, ...]:
    """Give the first `number` ties a place, in the order of the blocks; None where a block's have one each."""
    given: list[int | None] = []
    for available in equal:
        given.append(None if available <= number else number)
        number -= min(number, available)
    return tuple(given)
