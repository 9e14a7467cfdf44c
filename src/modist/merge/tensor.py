"""One tensor being merged, seen as a row of blocks: what a method reads, measures and answers with.

A method is a function of a `Tensor`.  It may survey the tensor first (sums, extremes, the k largest), each survey being one
streaming pass, and it returns how to blend a block:

    Blend    a function from a block to its merged values (float32) or, when every element is taken untouched from one of
             the inputs, to a `Choice`;
    Copy     the whole tensor is one input's, bit for bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Array, Floats
from modist.merge.crew import Crew
from modist.merge.draw import Uniform, stream_key, wide_draws
from modist.merge.selection import ROOM, SAMPLE, Keys, Largest, largest_each
from modist.merge.source import TensorSource
from modist.recipe import Scalar

BLOCK = 1 << 19
# Sums are rounded in runs of this many elements and then added in float64, in order: the same for any block size.
GRAIN = 1 << 12
_SAMPLE_RUN = 1 << 10
_SAMPLED_SHARE = 128


@dataclass(frozen=True)
class Copy:
    """The tensor is taken from one input as it is stored."""

    input: int


@dataclass(frozen=True)
class Choice:
    """Each element is taken as it is stored from one input: `inputs[k]` (uint8 or bool) says which, for element k."""

    inputs: npt.NDArray[Any]


Blend = Callable[["Block"], Floats | Choice]
Answer = Blend | Copy
# Scales a merged delta of one block [n], in place, and returns it.
Scale = Callable[["Block", Floats], Floats]


class Block:
    """Elements [start, stop) of a tensor, in flat order."""

    def __init__(self, tensor: Tensor, number: int, start: int, stop: int) -> None:
        self.tensor = tensor
        self.number = number
        self.start = start
        self.stop = stop
        self._base: Floats | None = None
        self.tally: dict[str, float] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Floats:
        """Input `index` as float32 [n], in a new array that may be overwritten."""
        return self.tensor.sources[index].floats(self.start, self.stop)

    def stored(self, index: int) -> Array:
        """Input `index` as it is stored [n]."""
        return self.tensor.sources[index].stored(self.start, self.stop)

    @property
    def base(self) -> Floats:
        """The base as float32 [n], read once a block: not to be overwritten."""
        if self._base is None:
            assert self.tensor.base is not None
            self._base = self[self.tensor.base]
        return self._base

    def delta(self, index: int) -> Floats:
        """Input `index` minus the base, float32 [n], in a new array."""
        values = self[index]
        np.subtract(values, self.base, out=values)
        return values

    def uniform(self, stream: str) -> Uniform:
        """This block's part of a random stream, the same for any block size and thread count."""
        return Uniform(stream_key(self.tensor.seed, self.tensor.name, stream), self.start, self.stop)

    def draws(self, stream: str) -> npt.NDArray[np.uint32]:
        """The same as numbers below 2^32 [n], for decisions finer than a comparison with one probability."""
        return wide_draws(stream_key(self.tensor.seed, self.tensor.name, stream), self.start, self.stop)

    def rows(self, values: Array) -> Array:
        """Elements [n] of this block as whole rows [rows, row], where the method works by rows."""
        assert self.tensor.row is not None
        return values.reshape(-1, self.tensor.row)

    @property
    def row_numbers(self) -> slice:
        """Which rows of the tensor this block holds, where the method works by rows."""
        assert self.tensor.row is not None
        return slice(self.start // self.tensor.row, self.stop // self.tensor.row)

    def note(self, quantity: str, amount: float) -> None:
        """Add to a quantity that the report sums over blocks and tensors."""
        self.tally[quantity] = self.tally.get(quantity, 0.0) + float(amount)


@dataclass
class Tensor:
    """One output tensor and what it is made from.

    Attributes:
        name, shape: of the output.
        sources: the inputs, in the recipe's order.
        base: which input is the base, or None.
        values: parameters shared by all inputs, resolved for this tensor.
        each: parameters of each input, resolved for this tensor; the base's entry holds only what bases have.
        seed: of the whole merge.
        row: elements of the rows that every block holds whole, for methods that work by rows; else None.
        found: what the method's survey of the whole model found for this tensor; see `Method.across`.
        scale: what a method that `scales` applies to a merged delta before it adds the base; see `modist.merge.scaling`.
    """

    name: str
    shape: tuple[int, ...]
    sources: Sequence[TensorSource]
    base: int | None
    values: Mapping[str, Scalar]
    each: Sequence[Mapping[str, Scalar]]
    seed: int = 0
    row: int | None = None
    found: Any = None
    scale: Scale = field(default=lambda block, delta: delta, repr=False)
    crew: Crew = field(default_factory=lambda: Crew(1), repr=False)
    block_size: int = BLOCK
    room: int = ROOM
    on_survey: Callable[[], None] = lambda: None
    on_nonfinite: Callable[[int], None] = lambda index: None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def others(self) -> tuple[int, ...]:
        """The inputs that are not the base, in order."""
        return tuple(index for index in range(len(self.sources)) if index != self.base)

    @property
    def width(self) -> int | None:
        """Elements along the last axis; None where there are none."""
        return (self.shape[-1] if self.shape else 1) if self.size else None

    @property
    def grain(self) -> int:
        """Sums are rounded in runs of so many elements: whole rows where the method works by rows."""
        return GRAIN if self.row is None else self.row * max(1, GRAIN // self.row)

    def fit(self, block: int) -> int:
        """The block size nearest to `block` that holds whole rows, where the method works by rows."""
        return block if self.row is None else self.grain * max(1, block // self.grain)

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block_size)

    def number(self, name: str, index: int | None = None) -> float:
        """A numeric parameter: shared, or input `index`'s."""
        return float((self.values if index is None else self.each[index])[name])

    def flag(self, name: str) -> bool:
        """A true/false parameter shared by all inputs."""
        return bool(self.values[name])

    def block(self, number: int) -> Block:
        start = number * self.block_size
        return Block(self, number, start, min(start + self.block_size, self.size))

    def survey(self, measure: Callable[[Block], Any]) -> list[Any]:
        """One pass over all blocks: what `measure` says of each, in order."""
        self.on_survey()
        return self.crew.each(self.blocks, lambda number: measure(self.block(number)))

    def total(self, terms: Callable[[Block], Iterable[Array]]) -> npt.NDArray[np.float64]:
        """Sum over the tensor.

        Args:
            terms: for a block, m arrays of elementwise terms [n]; each is done with before the next is asked for.

        Returns:
            The m sums, float64.
        """
        runs = self.survey(lambda block: [run_sums(term, self.grain) for term in terms(block)])
        return np.array([math.fsum(np.concatenate(column)) for column in zip(*runs, strict=True)])

    def dots(self, pairs: Callable[[Block], Sequence[tuple[Floats, Floats]]]) -> npt.NDArray[np.float64]:
        """Dot products over the tensor: m sums, float64, for m pairs of arrays [n] a block."""
        runs = self.survey(lambda block: [run_dots(a, b, self.grain) for a, b in pairs(block)])
        return np.array([math.fsum(np.concatenate(column)) for column in zip(*runs, strict=True)])

    def row_dots(self, pairs: Callable[[Block], Sequence[tuple[Array, Array]]]) -> npt.NDArray[np.float64]:
        """Dot products over each row: float64 [m, rows], for m pairs of arrays [n] a block, summed in their own precision."""

        def products(block: Block) -> npt.NDArray[np.float64]:
            dots = [np.einsum("ij,ij->i", block.rows(a), block.rows(b)) for a, b in pairs(block)]
            return np.array(dots, np.float64)

        return np.concatenate(self.survey(products), axis=1)

    def column_dots(self, pairs: Callable[[Block], Sequence[tuple[Array, Array]]]) -> npt.NDArray[np.float64]:
        """The same over each column, the same place in all rows: float64 [m, row]."""
        assert self.row is not None
        height, row = self.grain // self.row, self.row
        sums = _InOrder()

        def products(block: Block) -> None:
            grains = []
            for a, b in pairs(block):
                rows = [block.rows(a), block.rows(b)]
                whole = len(rows[0]) // height * height
                x, y = (part[:whole].reshape(-1, height, row) for part in rows)
                dots = np.einsum("uij,uij->uj", x, y)
                if whole < len(rows[0]):
                    rest = np.einsum("ij,ij->j", rows[0][whole:], rows[1][whole:])
                    dots = np.concatenate([dots, rest[None]])
                grains.append(dots)
            sums.add(block.number, np.stack(grains, axis=1))

        self.survey(products)
        assert sums.total is not None
        return sums.total

    def largest(self, count: int, keys: Callable[[Block], Keys]) -> Largest:
        """The exact `count` largest of some keys, ties to the lower flat index.

        Args:
            count: how many; 1 <= count <= size.
            keys: uint32 [n] for a block, a new array each time; see `by_magnitude` and `rising`.
        """
        return self.largest_each([count], keys)[0]

    def largest_each(self, counts: Sequence[int], keys: Callable[[Block], Keys]) -> list[Largest]:
        """The same for several counts of the same keys, in one pass as a rule."""
        self.on_survey()
        return largest_each(
            counts,
            self.size,
            self.blocks,
            self.crew.each,
            lambda number: keys(self.block(number)),
            self._sample(keys),
            self.room,
        )

    def _sample(self, keys: Callable[[Block], Keys]) -> Keys:
        # Whole rows where the method works by rows.
        row = self.row or 1
        run = row * max(1, _SAMPLE_RUN // row)
        # Large tensors need a sharper guess, so that what lies inside the bracket still fits.
        wanted = max(min(SAMPLE, self.size // _SAMPLED_SHARE), self.size >> 10)
        if wanted < 4 * run:
            return keys(Block(self, -1, 0, min(self.size, 4 * run)))
        starts = np.linspace(0, self.size - run, wanted // run).astype(np.int64) // row * row
        return np.concatenate([keys(Block(self, -1, int(start), int(start) + run)) for start in starts])


class _InOrder:
    """Sums what blocks give, in the order of the blocks whichever comes first, so that rounding never depends on threads."""

    def __init__(self) -> None:
        self.total: npt.NDArray[np.float64] | None = None
        self._next = 0
        self._waiting: dict[int, Array] = {}
        self._lock = threading.Lock()

    def add(self, number: int, terms: Array) -> None:
        """The terms [k, ...] of one block; each is added by itself, so that block sizes change nothing either."""
        with self._lock:
            self._waiting[number] = terms
            while (ready := self._waiting.pop(self._next, None)) is not None:
                if self.total is None:
                    self.total = np.zeros(ready.shape[1:])
                for term in ready:
                    self.total += term
                self._next += 1


def run_sums(values: Array, grain: int = GRAIN) -> npt.NDArray[np.float64]:
    """Sums of consecutive runs of `grain` elements, float64 [ceil(n / grain)]."""
    whole = len(values) // grain * grain
    sums = values[:whole].reshape(-1, grain).sum(axis=1, dtype=np.float32 if values.dtype == np.float32 else None)
    rest = values[whole:]
    return np.append(sums.astype(np.float64), rest.sum(dtype=np.float64)) if len(rest) else sums.astype(np.float64)


def run_dots(a: Floats, b: Floats, grain: int = GRAIN) -> npt.NDArray[np.float64]:
    """The same for the products of two arrays."""
    whole = len(a) // grain * grain
    products = np.einsum("ij,ij->i", a[:whole].reshape(-1, grain), b[:whole].reshape(-1, grain))
    sums: npt.NDArray[np.float64] = products.astype(np.float64)
    if whole == len(a):
        return sums
    rest = np.einsum("i,i->", a[whole:].astype(np.float64), b[whole:].astype(np.float64))
    return np.append(sums, rest)
