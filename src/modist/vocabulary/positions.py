"""Which tokens of one tokenization stand for the same stretch of a text as which tokens of another.

Both tokenizations are spans of one text, in bytes.  A target position and a source position belong together when they share
bytes; the source positions of a target position are therefore a run, found by two binary searches.  Where the boundaries of
both coincide that is all there is to say.  Where they cross, one source position is named the partner of each target position
by dynamic programming: the pairing, in order, that shares the most bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What a target position is to its run of source positions.
NONE, SAME, JOINED, PART, CROSSED = 0, 1, 2, 3, 4
KINDS = ("none", "same", "joined", "part", "crossed")

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PositionMap:
    """For each target position its run of source positions; m target positions, n source positions.

    Attributes:
        start, stop: the run is `range(start[j], stop[j])`; empty (start == stop) where nothing of the text is shared.
            int32 [m].
        kind: of each target position, uint8 [m]:
            NONE, an empty run (a special token, or text the source left out);
            SAME, one source token with the same span;
            JOINED, several source tokens that together have its span;
            PART, one source token that holds it and more, all of it covered by whole target tokens;
            CROSSED, anything else: boundaries cross.
        same_start: whether the run begins at the very byte the target position begins at, so that both models predict from the
            same text; bool [m].
        same_stop: the same of the ends; bool [m].
        source_spans, target_spans: what was aligned; int32 [n, 2] and [m, 2].
    """

    start: Ints
    stop: Ints
    kind: NDArray[np.uint8]
    same_start: Bools
    same_stop: Bools
    source_spans: Ints
    target_spans: Ints

    @property
    def one_to_one(self) -> Bools:
        """Whether a target position and one source position have the same span; bool [m]."""
        return np.equal(self.kind, SAME)

    @property
    def aligned(self) -> Bools:
        """Whether a target position has a source position at all; bool [m]."""
        return np.not_equal(self.kind, NONE)

    @property
    def is_identity(self) -> bool:
        """Whether every position that has text is one-to-one with the position of the same number."""
        same = len(self.source_spans) == len(self.target_spans)
        here = np.arange(len(self.start))
        return same and bool(np.all((self.kind == NONE) | ((self.kind == SAME) & (self.start == here))))

    @cached_property
    def partner(self) -> Ints:
        """The one source position of each target position, -1 where there is none; int32 [m].

        Of a run of one, that one.  Of a longer run whose target stands alone against it, the source position that shares the
        most bytes, the first of equals.  Where boundaries cross, that of the pairing in order which shares the most bytes in
        all, so that no source position serves twice there; then some target positions have none.
        """
        from modist.vocabulary.pairing import partners

        return partners(self)

    @cached_property
    def groups(self) -> Ints:
        """The least stretches that both tokenizations cut out whole; int32 [groups, 4].

        Each row is (source start, source stop, target start, target stop), in order.  Over a group the chain rule gives both
        models a probability of the same text.  Positions without text are in no group.
        """
        source = np.flatnonzero(self.source_spans[:, 1] > self.source_spans[:, 0])
        target = np.flatnonzero(self.target_spans[:, 1] > self.target_spans[:, 0])
        begins, ends = self.source_spans[source], self.target_spans[target]
        first = np.intersect1d(begins[:, 0], ends[:, 0])
        last = np.intersect1d(begins[:, 1], ends[:, 1])
        if not len(first) or not len(last):
            return np.empty((0, 4), dtype=np.int32)
        # From each common beginning to the next common end; of several beginnings before one end, the last.
        place = np.searchsorted(last, first, side="right")
        first, place = first[place < len(last)], place[place < len(last)]
        keep = np.append(place[1:] != place[:-1], True) if len(place) else np.empty(0, dtype=np.bool_)
        first, last = first[keep], last[place[keep]]
        return np.stack(
            [
                source[np.searchsorted(begins[:, 0], first)],
                source[np.searchsorted(begins[:, 1], last)] + 1,
                target[np.searchsorted(ends[:, 0], first)],
                target[np.searchsorted(ends[:, 1], last)] + 1,
            ],
            axis=1,
        ).astype(np.int32)


def align_positions(source_spans: ArrayLike, target_spans: ArrayLike) -> PositionMap:
    """Align two tokenizations of one text.

    Args:
        source_spans, target_spans: [n, 2] and [m, 2], begin and end of each token in bytes of the text (see `token_spans`), or
            in characters, if no token ends within one.  In order, not overlapping; a token without text has begin == end.

    Raises:
        ValueError: the spans are not in order.
    """
    source, target = _spans(source_spans, "source"), _spans(target_spans, "target")
    # Tokens without text lie on boundaries, hence at neither end of a run.
    begins, ends = source[:, 0], source[:, 1]
    begin, end = target[:, 0], target[:, 1]
    first = np.searchsorted(ends, begin, side="right")
    last = np.searchsorted(begins, end, side="left")
    some = (end > begin) & (last > first)

    start, stop = np.zeros(len(target), dtype=np.int32), np.zeros(len(target), dtype=np.int32)
    same_start, same_stop = np.zeros(len(target), dtype=np.bool_), np.zeros(len(target), dtype=np.bool_)
    kind = np.full(len(target), NONE, dtype=np.uint8)
    one, two = first[some], last[some] - 1
    start[some], stop[some] = one, two + 1
    from_here, to_here = begins[one], ends[two]
    same_start[some], same_stop[some] = from_here == begin[some], to_here == end[some]
    exact = same_start[some] & same_stop[some]
    # A source token that is exactly several target tokens: its own ends are target boundaries too.
    whole = (one == two) & np.isin(from_here, begin[end > begin]) & np.isin(to_here, end[end > begin])
    kind[some] = np.select([exact & (one == two), exact, whole], [SAME, JOINED, PART], CROSSED)
    return PositionMap(start, stop, kind, same_start, same_stop, source, target)


def _spans(given: ArrayLike, whose: str) -> Ints:
    spans = np.asarray(given, dtype=np.int32)
    if spans.size == 0:
        return np.empty((0, 2), dtype=np.int32)
    if spans.ndim != 2 or spans.shape[1] != 2:
        raise ValueError(f"{whose} spans: shape {list(spans.shape)}, not [positions, 2]")
    if spans[0, 0] < 0 or bool(np.any(spans[:, 1] < spans[:, 0])) or bool(np.any(spans[1:, 0] < spans[:-1, 1])):
        raise ValueError(f"{whose} spans: not in order, or overlapping (give spans in bytes, see token_spans)")
    return spans
