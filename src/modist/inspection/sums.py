"""One pass over the tensors that several models share: the few sums from which every comparison follows.

For models x_1..x_M and one tensor of n elements these are |x_i|^2, sum x_i, |x_i - x_j|^2 and counts.  They give the inner
products of deltas from *any* base b without reading again:

    <x_i - b, x_j - b> = (|x_i - b|^2 + |x_j - b|^2 - |x_i - x_j|^2) / 2

in which nothing larger than a delta is ever subtracted.  Differences are taken in float64 (exact for float32 and narrower),
summed in float64 in runs of fixed length, and the runs are added exactly, so neither the block size nor the number of threads
shows in a result.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import FLOATS, Array, widen
from modist.checkpoint.folder import Checkpoint
from modist.inspection.kind import Kind, kind_of
from modist.merge.crew import Crew
from modist.merge.heap import keep_freed_pages
from modist.merge.layer import layer_of
from modist.merge.tensor import run_dots, run_sums

BLOCK = 1 << 17

Float64s = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """One tensor that at least two of the models hold in one shape (or one model, where only one is inspected)."""

    name: str
    shape: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def kind(self) -> Kind:
        return kind_of(self.name)

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

    @property
    def is_matrix(self) -> bool:
        """Whether it is drawn around zero before training: norms and biases are not, and are alike in unrelated models."""
        return len(self.shape) > 1 and self.kind != "norms"


@dataclass(frozen=True)
class TensorSums:
    """What one pass found of one tensor; arrays are indexed by the places of its members.

    Attributes:
        tensor: which.
        counted: elements that are finite in every member; the others are left out of all sums.
        nonfinite: [m] elements that are NaN or infinite.
        squares: [m] sum of x_i^2.
        totals: [m] sum of x_i.
        distances: [m, m] sum of (x_i - x_j)^2.
        differing: [m, m] elements where x_i and x_j differ.
        agreeing: {base: [m, m]} elements where x_i - b and x_j - b are not zero and have one sign.
        moving: {base: [m, m]} elements where neither x_i - b nor x_j - b is zero.
    """

    tensor: Shared
    counted: int
    nonfinite: Counts
    squares: Float64s
    totals: Float64s
    distances: Float64s
    differing: Counts
    agreeing: Mapping[int, Counts]
    moving: Mapping[int, Counts]


def survey(
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[Shared],
    *,
    threads: int | None = None,
    block: int = BLOCK,
    advance: Callable[[int], None] = lambda count: None,
) -> list[TensorSums]:
    """Read every tensor once and sum; memory is `threads` times a few blocks, whatever the size of the models.

    Args:
        checkpoints: the models.
        tensors: what to read; members are places in `checkpoints`.
        threads: workers; None for one a core.
        block: elements read at a time from each model.
        advance: told of bytes read, from any thread.
    """
    keep_freed_pages()
    crew = Crew(threads or os.cpu_count() or 1)
    found: dict[int, TensorSums] = {}

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            found[number] = _sum(checkpoints, tensors[number], crew, max(1, block), advance)

        return run

    # The largest last: whoever is done helps with its blocks.
    crew.run([job(number) for number in sorted(range(len(tensors)), key=lambda k: tensors[k].elements)])
    return [found[number] for number in range(len(tensors))]


@dataclass
class _Part:
    """The sums of one block, floats still in runs."""

    runs: list[Float64s]
    counts: Counts
    counted: int


def _sum(
    checkpoints: Sequence[Checkpoint],
    tensor: Shared,
    crew: Crew,
    block: int,
    advance: Callable[[int], None],
) -> TensorSums:
    m = len(tensor.members)
    pairs = list(itertools.combinations(range(m), 2))
    triples = [(b, i, j) for b in range(m) for i, j in pairs if b not in (i, j)]

    def work(number: int) -> _Part:
        start = number * block
        stop = min(start + block, tensor.elements)
        part = _measure([_doubles(checkpoints[k], tensor.name, start, stop) for k in tensor.members], pairs, triples)
        advance(sum(checkpoints[k].tensors[tensor.name].nbytes * (stop - start) // tensor.elements for k in tensor.members))
        return part

    parts = crew.each(-(-tensor.elements // block), work)
    floats = [math.fsum(itertools.chain.from_iterable(column)) for column in zip(*(part.runs for part in parts), strict=True)]
    counts = np.sum([part.counts for part in parts], axis=0) if parts else np.zeros(m + len(pairs) + 2 * len(triples), np.int64)
    floats = floats or [0.0] * (2 * m + len(pairs))

    distances, differing = np.zeros((m, m)), np.zeros((m, m), np.int64)
    for k, (i, j) in enumerate(pairs):
        distances[i, j] = distances[j, i] = floats[2 * m + k]
        differing[i, j] = differing[j, i] = counts[m + k]
    agreeing = {b: np.zeros((m, m), np.int64) for b, _, _ in triples}
    moving = {b: np.zeros((m, m), np.int64) for b, _, _ in triples}
    for k, (b, i, j) in enumerate(triples):
        at = m + len(pairs) + 2 * k
        agreeing[b][i, j] = agreeing[b][j, i] = counts[at]
        moving[b][i, j] = moving[b][j, i] = counts[at + 1]
    return TensorSums(
        tensor,
        sum(part.counted for part in parts),
        counts[:m],
        np.array(floats[:m]),
        np.array(floats[m : 2 * m]),
        distances,
        differing,
        agreeing,
        moving,
    )


def _measure(values: list[Array], pairs: Sequence[tuple[int, int]], triples: Sequence[tuple[int, int, int]]) -> _Part:
    """The sums of one block.

    Args:
        values: one float64 array [n] a member; overwritten where they are not finite.
    """
    nonfinite, counted = np.zeros(len(values), np.int64), len(values[0])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [run_dots(x, x) for x in values]
    if not all(np.isfinite(runs).all() for runs in squares):
        finite = [np.isfinite(x) for x in values]
        nonfinite = np.array([len(x) - np.count_nonzero(x) for x in finite])
        whole = np.logical_and.reduce(finite)
        counted = int(np.count_nonzero(whole))
        # Zero in every model: no sum and no count sees these elements.
        values = [np.where(whole, x, 0.0) for x in values]
        with np.errstate(over="ignore"):
            squares = [run_dots(x, x) for x in values]
    distances, differing = [], []
    signs: dict[tuple[int, int], Array] = {}
    for i, j in pairs:
        difference = values[i] - values[j]
        distances.append(run_dots(difference, difference))
        if triples:
            sign = (difference > 0).view(np.int8) - (difference < 0).view(np.int8)
            signs[i, j], signs[j, i] = sign, -sign
            differing.append(np.count_nonzero(sign))
        else:
            differing.append(np.count_nonzero(difference))
    both = []
    for b, i, j in triples:
        product = signs[i, b] * signs[j, b]
        both += [np.count_nonzero(product > 0), np.count_nonzero(product)]
    counts = np.concatenate([nonfinite, np.array([*differing, *both], np.int64)])
    return _Part([*squares, *(run_sums(x) for x in values), *distances], counts, counted)


def _doubles(checkpoint: Checkpoint, name: str, start: int, stop: int) -> Array:
    """Elements [start, stop) as float64, exactly."""
    dtype = checkpoint.tensors[name].dtype
    stored = checkpoint.read(name, start, stop)
    if dtype == "F64":
        return stored
    return (widen(stored, dtype) if dtype == "BF16" else stored).astype(np.float64)


def is_readable(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor holds numbers that can be compared."""
    return checkpoint.tensors[name].dtype in FLOATS
