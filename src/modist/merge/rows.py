"""An input whose rows stand for tokens, read as if its vocabulary were the output's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from modist.checkpoint.dtype import Array, Floats, narrow, widen
from modist.merge.source import TensorSource
from modist.vocabulary.alignment import MEAN, MEAN_OF_ALL, Alignment, Ids

Read = Callable[[TensorSource, int, int], Array]

# Rows that lie within so many times their number are read as one piece and picked from it.
_SPAN = 2
_STEP = 1 << 18


class AlignedRows(TensorSource):
    """One parent's tensor with a row for each id of the output vocabulary.

    Attributes:
        width: elements of a row.
    """

    def __init__(self, index: int, sources: Sequence[TensorSource], alignment: Alignment) -> None:
        """
        Args:
            index: which of the alignment's parents this is.
            sources: every parent's tensor, in the alignment's order; [tokens, ...] or [1, tokens].
            alignment: the rows.
        """
        mine = sources[index]
        rows = rows_of(mine)
        self.width = mine.size // rows
        shape = (1, alignment.rows) if _is_flat(mine) else (alignment.rows, *mine.shape[1:])
        super().__init__(mine.model, mine.name, mine.dtype, shape, alignment.rows * (mine.nbytes // rows))
        self.identity = ("rows", index, alignment.digest, *(source.name for source in sources if source.present))
        most = max(source.reading_bytes for source in sources)
        # Rows in another order are read with those between them, and laid out anew.
        self.reading_bytes = most + 4 * _STEP * (_SPAN + 2)
        self._index, self._sources, self._alignment = index, sources, alignment
        self._mean: Floats | None = None
        self._lock = threading.Lock()

    def floats(self, start: int, stop: int) -> Floats:
        return self._read(start, stop, lambda source, first, last: source.floats(first, last), lambda values: values)

    def stored(self, start: int, stop: int) -> Array:
        return self._read(
            start,
            stop,
            lambda source, first, last: source.converted(first, last, self.dtype),
            lambda values: narrow(values, self.dtype),
        )

    def converted(self, start: int, stop: int, dtype: str) -> Array:
        # By way of the stored form, so that a row means the same whatever it is written as.
        stored = self.stored(start, stop)
        return stored if dtype == self.dtype else narrow(widen(stored, self.dtype), dtype)

    def _read(self, start: int, stop: int, read: Read, made: Callable[[Floats], Array]) -> Array:
        """Elements [start, stop).

        Args:
            read: elements of another source in the form wanted.
            made: the same form from rows computed here.
        """
        width = self.width
        first, last = start // width, -(-stop // width)
        own = self._alignment.own[self._index, first:last]
        mine = self._sources[self._index]
        if own[0] >= 0 and own[-1] - own[0] == last - first - 1 and (np.diff(own) == 1).all():
            shift = (int(own[0]) - first) * width
            return read(mine, start + shift, stop + shift)
        rows = self._rows(first, last, own, read, made)
        return rows.reshape(-1)[start - first * width : stop - first * width].copy()

    def _rows(self, first: int, last: int, own: Ids, read: Read, made: Callable[[Floats], Array]) -> Array:
        donors, numbers = self._alignment.parent[first:last], self._alignment.row[first:last]
        out = np.zeros((last - first, self.width), made(np.empty(0, np.float32)).dtype)
        has = own >= 0
        if has.any():
            out[has] = self._gather(self._sources[self._index], own[has], read)
        for donor in np.unique(donors[~has]):
            here = ~has & (donors == donor)
            if donor >= 0:
                out[here] = self._gather(self._sources[donor], numbers[here], read)
            elif donor == MEAN:
                out[here] = made(self._averaged(np.flatnonzero(here) + first).reshape(-1)).reshape(-1, self.width)
            elif donor == MEAN_OF_ALL:
                out[here] = made(self._mean_of_all())
        return out

    def _averaged(self, ids: Ids) -> Floats:
        """The mean of the rows of all parents that have these tokens, [tokens, width]."""
        total, count = np.zeros((len(ids), self.width)), np.zeros((len(ids), 1))
        for source, held in zip(self._sources, self._alignment.held[:, ids], strict=True):
            has = held >= 0
            if has.any():
                total[has] += self._gather(source, held[has], lambda one, first, last: one.floats(first, last))
                count[has] += 1
        return (total / count).astype(np.float32)

    def _mean_of_all(self) -> Floats:
        """The mean of this parent's rows of tokens, padding not counted; computed once, [width]."""
        with self._lock:
            if self._mean is None:
                count, total = self._alignment.tokens, np.zeros(self.width)
                step = max(1, _STEP // self.width)
                for first in range(0, count, step):
                    last = min(first + step, count)
                    total += self.floats(first * self.width, last * self.width).reshape(-1, self.width).sum(0, dtype=np.float64)
                self._mean = (total / max(count, 1)).astype(np.float32)
            return self._mean

    def _gather(self, source: TensorSource, numbers: Ids, read: Read) -> Array:
        """Rows of a source in any order, [len(numbers), width]."""
        width = self.width
        low, high = int(numbers.min()), int(numbers.max())
        if high - low < max(_SPAN * len(numbers), _STEP // width):
            return read(source, low * width, (high + 1) * width).reshape(-1, width)[numbers - low]
        runs = np.flatnonzero(np.diff(numbers) != 1) + 1
        edges = [0, *runs.tolist(), len(numbers)]
        pieces = [read(source, int(numbers[a]) * width, (int(numbers[b - 1]) + 1) * width) for a, b in pairwise(edges)]
        return np.concatenate(pieces).reshape(-1, width)


def rows_of(source: TensorSource) -> int:
    """How many rows a tensor has for its tokens: its first dimension, or the second of a bias [1, tokens]."""
    return source.shape[1] if _is_flat(source) else source.shape[0]


def _is_flat(source: TensorSource) -> bool:
    return len(source.shape) == 2 and source.shape[0] == 1 and source.name.endswith("bias")
