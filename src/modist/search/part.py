"""A part of some data: rows drawn from it, and several parts of which no two share a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from modist.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One of `count` parts of any data set: a row's question decides by its hash in which one it is, so a question that is
    there twice is in one part twice, and no two parts overlap.

    Attributes:
        index: 0 to count - 1.
        count: 1 or more.
        seed: another one deals the rows anew.
    """

    index: int
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UserError(f"part {self.index} of {self.count}: there must be 1 or more, counted from 0")

    def holds(self, question: str) -> bool:
        """Whether a question belongs to this part."""
        from modist.search.disjoint import words

        return int.from_bytes(_hash("part", self.seed, " ".join(words(question)))[:8]) % self.count == self.index


def drawn(name: str, rows: Sequence[T], questions: Sequence[str], limit: int | None, seed: int, part: Part | None) -> list[T]:
    """The rows of a part, or `limit` of them without replacement, in their order.

    A row's place in the draw is a hash of the seed and its question, so a larger limit keeps all rows of a smaller one.

    Args:
        name: for messages.
        rows, questions: of the same length.
        limit: at least 1; None is all.

    Raises:
        UserError: a limit below 1, or a part with no rows.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{name}: a limit of {limit} rows: must be at least 1")
    places = [place for place, question in enumerate(questions) if part is None or part.holds(question)]
    if not places:
        raise UserError(f"{name}: has no rows" if part is None else f"{name}: too few rows to make {part.count} parts of")
    if limit is not None and limit < len(places):
        places = sorted(sorted(places, key=lambda place: (_hash("draw", seed, questions[place]), place))[:limit])
    return [rows[place] for place in places]


def _hash(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()
