"""Which tokens stood for the same bytes in a corpus, and how often (mapping statistics, FuseChat)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modist.errors import UserError
from modist.vocabulary.positions import PositionMap
from modist.vocabulary.texts import TokenTexts

Ints = NDArray[np.int64]


@dataclass(eq=False)
class PairCounts:
    """Counts of (source id, target id), sparse; filled text by text.

    Attributes:
        source_digest, target_digest: of the tokenizers counted.
        target_size: one more than the largest target id.
    """

    source_digest: str
    target_digest: str
    target_size: int
    _keys: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    _counts: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    _fresh: list[Ints] = field(default_factory=list)
    _waiting: int = 0

    @classmethod
    def between(cls, source: TokenTexts, target: TokenTexts) -> PairCounts:
        return cls(source.digest, target.digest, target.size)

    def add(self, source_ids: ArrayLike, target_ids: ArrayLike, found: PositionMap) -> None:
        """Count one text: once for each target position and each source position of its run.

        Args:
            source_ids, target_ids: [n] and [m].
            found: of the same text.
        """
        source, target = np.asarray(source_ids, dtype=np.int64), np.asarray(target_ids, dtype=np.int64)
        if (len(source), len(target)) != (len(found.source_spans), len(found.target_spans)):
            raise ValueError(
                f"{len(source)} and {len(target)} ids, but {len(found.source_spans)} and {len(found.target_spans)} spans"
            )
        run = (found.stop - found.start).astype(np.int64)
        mine = np.repeat(np.arange(len(target)), run)
        within = np.arange(len(mine)) - np.repeat(np.cumsum(run) - run, run)
        self._fresh.append(source[found.start[mine] + within] * self.target_size + target[mine])
        self._waiting += len(mine)
        if self._waiting > 1 << 22:
            self._settle()

    def table(self) -> tuple[Ints, Ints, Ints]:
        """Source ids, target ids and counts of all pairs seen, by source id and then target id."""
        self._settle()
        return self._keys // self.target_size, self._keys % self.target_size, self._counts

    @property
    def digest(self) -> str:
        """SHA-256 of the counts and of what they are of."""
        told = hashlib.sha256(f"{self.source_digest} {self.target_digest}".encode())
        for part in self.table():
            told.update(part.tobytes())
        return told.hexdigest()

    def check(self, source: TokenTexts, target: TokenTexts) -> None:
        """Refuse to speak of other tokenizers than those counted.

        Raises:
            UserError: they are others.
        """
        if (source.digest, target.digest) != (self.source_digest, self.target_digest):
            raise UserError(f"the statistics are not of {source.name} to {target.name}, but of other tokenizers")

    def choose(self, source: TokenTexts, target: TokenTexts, wanted: Ints) -> tuple[Ints, Ints]:
        """For each wanted source id the target id that was seen with it: least (edit distance, -count, length, id).

        Facts of the field: FuseChat multiplies the distance by sigmoid(count) and takes the least, so that there seeing a pair
        often counts against it.

        Returns:
            Target ids and distances, int64 [wanted] each; -1 and -1 for an id that was never seen.
        """
        from modist.vocabulary.edit_distance import characters, pair_distances

        ids, others, counts = self.table()
        use = np.isin(ids, wanted) & np.array([bool(text) for text in target.texts], dtype=np.bool_)[others]
        ids, others, counts = ids[use], others[use], counts[use]
        chosen, far = np.full(len(wanted), -1, dtype=np.int64), np.full(len(wanted), -1, dtype=np.int64)
        if not len(ids):
            return chosen, far
        distances = pair_distances([source.texts[i] for i in ids.tolist()], [target.texts[i] for i in others.tolist()])
        lengths = np.array([len(characters(target.texts[i])) for i in others.tolist()])
        order = np.lexsort((others, lengths, -counts, distances, ids))
        seen, first = np.unique(ids[order], return_index=True)
        place = np.searchsorted(seen, wanted)
        known = (place < len(seen)) & (seen[np.minimum(place, len(seen) - 1)] == wanted)
        best = order[first[place[known]]]
        chosen[known], far[known] = others[best], distances[best]
        return chosen, far

    def _settle(self) -> None:
        if not self._fresh:
            return
        keys = np.concatenate([self._keys, *self._fresh])
        weights = np.concatenate([self._counts, np.ones(len(keys) - len(self._keys), dtype=np.int64)])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._counts = np.zeros(len(self._keys), dtype=np.int64)
        np.add.at(self._counts, inverse, weights)
        self._fresh, self._waiting = [], 0
