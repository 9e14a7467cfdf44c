"""Which row of which parent stands at each id of an output vocabulary.

A parent that has a token keeps its own row for it.  One that lacks it takes, as in mergekit 0.1.5:

    the row that was asked for                      a model's, another token's, or zeros
    else the only row there is                      where one parent alone has the token
    else the base's                                 where there is a base that has it
    else the mean of the rows of those that have it
    else zeros                                      where nobody has it

and rows behind the last token (padding to a multiple) are the mean of the parent's rows of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

# In place of a parent's number: what a row is made of when it is no parent's.
ZERO, MEAN, MEAN_OF_ALL = -1, -2, -3


@dataclass(frozen=True)
class Holder:
    """A parent's vocabulary: token -> id, and the rows of its embeddings; ids without a row do not count."""

    tokens: Mapping[str, int]
    rows: int

    def row(self, token: str) -> int:
        """The token's row, -1 where there is none."""
        found = self.tokens.get(token, -1)
        return found if 0 <= found < self.rows else -1

    def row_of(self, tokens: Collection[str]) -> Ids:
        """The same for many; int64 [tokens]."""
        found = np.fromiter((self.tokens.get(token, -1) for token in tokens), np.int64, len(tokens))
        return np.where(found < self.rows, found, -1)


@dataclass(frozen=True)
class Wish:
    """What is asked for one token: the row of a parent (or zeros, with `parent` ZERO), for those that lack it or for all."""

    parent: int
    row: int = 0
    force: bool = False


@dataclass(frozen=True, eq=False)
class Alignment:
    """Rows of an output vocabulary.

    Attributes:
        own: for each parent its own row at each id, -1 where it takes `parent` and `row` instead; int64 [parents, rows].
        parent: whose row the others take, or ZERO, MEAN, MEAN_OF_ALL; int64 [rows].
        row: of that parent; int64 [rows].
        held: for each parent its row even where it must not keep it, for MEAN; int64 [parents, rows].
        tokens: ids from here on are padding.
        orphans: tokens that nobody has and nobody asked for.
    """

    own: Ids
    parent: Ids
    row: Ids
    held: Ids
    tokens: int
    orphans: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.parent)

    @property
    def filled(self) -> tuple[int, ...]:
        """For each parent how many tokens it lacks or must give up; padding does not count."""
        return tuple(int((own[: self.tokens] < 0).sum()) for own in self.own)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal."""
        whole = hashlib.sha256(str((self.own.shape, self.tokens)).encode())
        for part in (self.own, self.parent, self.row, self.held):
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()


def align(
    output: Mapping[str, int],
    holders: Sequence[Holder],
    *,
    base: int | None = None,
    taking_part: Sequence[int] | None = None,
    wishes: Mapping[str, Wish] | None = None,
    gaps: int | None = 0,
    multiple: int | None = None,
) -> Alignment:
    """Work out the rows.

    Args:
        output: token -> id of the output.
        holders: the parents.
        base: which of them is the base, or None.
        taking_part: whose rows are looked for first; all by default.  Where none of them has a token, others are asked.
        wishes: token -> what is asked for it.
        gaps: the parent whose ids the output has, so that its rows stand at ids without a token; None for zeros there.
        multiple: pad to a multiple of so many rows.
    """
    first = list(range(len(holders)) if taking_part is None else taking_part)
    size = 1 + max(output.values(), default=-1)
    rows = size if not multiple else -(-size // multiple) * multiple
    ids = np.fromiter(output.values(), np.int64, len(output))
    held = np.full((len(holders), rows), -1, np.int64)
    parent, row = np.full(rows, MEAN_OF_ALL, np.int64), np.zeros(rows, np.int64)
    parent[:size] = ZERO
    if gaps is not None:
        known = np.arange(min(size, holders[gaps].rows))
        parent[known], row[known], held[gaps, known] = gaps, known, known
    for index, holder in enumerate(holders):
        held[index, ids] = holder.row_of(output)
    parent[ids], row[ids], orphans = _filled(held[:, ids], first, base)
    lost = set(np.flatnonzero(orphans).tolist())
    named = [token for place, token in enumerate(output) if place in lost and token not in (wishes or {})] if lost else []
    own = held.copy()
    for token, wish in (wishes or {}).items():
        if (number := output.get(token)) is None:
            continue
        parent[number], row[number] = wish.parent, wish.row
        if wish.force:
            own[:, number] = -1
    averaged = held.copy()
    averaged[np.setdiff1d(np.arange(len(holders)), first)] = -1
    return Alignment(own, parent, row, averaged, size, tuple(named))


def _filled(held: Ids, first: Sequence[int], base: int | None) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
    """Whose row, and which, those take that lack a token; and which tokens nobody has.

    Args:
        held: each parent's row of each token, -1 for none; int64 [parents, tokens].
    """
    has = held >= 0
    asked = np.zeros_like(has)
    asked[list(first)] = has[list(first)]
    # Where none of those has a token, the others are asked.
    asked = np.where(asked.any(0), asked, has)
    count = asked.sum(0)
    parent = np.where(count == 0, ZERO, np.where(count == 1, asked.argmax(0), MEAN)).astype(np.int64)
    if base is not None:
        parent[asked[base]] = base
    row = np.where(parent >= 0, np.take_along_axis(held, np.maximum(parent, 0)[None], 0)[0], 0)
    return parent, row, count == 0


def pad(rows: Sequence[int], lead: int) -> Alignment:
    """The same where all ids mean the same and only the rows differ in number: the lead's rows, and its padding for others."""
    count = rows[lead]
    numbers = np.arange(count)
    own = np.stack([np.where(numbers < held, numbers, -1) for held in rows])
    return Alignment(own, np.full(count, lead, np.int64), numbers, own, count)
