"""Joining the merge tables of two BPE tokenizers: the first cuts as it did, and the second's tokens can still be reached.

The first's pairs keep their ranks and the second's follow, so a text is cut as the first cuts it, and then joined further.  A
token of the second may be out of reach then: where the first has already joined `b` and `c`, the pair (`ab`, `c`) never comes.
A pair of our own is added behind for each token that two pieces are left of: it makes no token that its owner would not.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from modist.vocabulary.tokenizer import Merge


@dataclass(frozen=True)
class Joined:
    """Merge tables made one.

    Attributes:
        merges: the joined table, first the pair that is tried first.
        bridges: how many pairs neither had.
        unreachable: tokens that texts were cut into and are no longer.
    """

    merges: tuple[Merge, ...]
    bridges: int
    unreachable: tuple[str, ...]


def join(first: Sequence[Merge], second: Sequence[Merge], new: Iterable[str], known: Container[str]) -> Joined:
    """Put a second table behind a first.

    Args:
        first, second: pairs in order of rank.
        new: the tokens that only the second has.
        known: all tokens of the union, for the letters to begin with.
    """
    ranks = {pair: rank for rank, pair in enumerate(first)}
    for pair in second:
        ranks.setdefault(pair, len(ranks))
    if len(ranks) == len(first):
        return Joined(tuple(first), 0, ())
    own = {pair: rank for rank, pair in enumerate(second)}
    # Short ones first: a bridge may need the token another bridge makes, and opens the way to others.
    unreachable, bridges, before = sorted(new, key=lambda text: (len(text), text)), 0, -1
    while before != bridges:
        before, waiting, unreachable = bridges, unreachable, []
        for token in waiting:
            pieces = cut(token, ranks)
            if len(pieces) == 1 or len(cut(token, own)) > 1:  # or its owner never made it either
                continue
            if len(pieces) == 2 and all(piece in known for piece in pieces):
                ranks[pieces[0], pieces[1]] = len(ranks)
                bridges += 1
            else:
                unreachable.append(token)
    return Joined(tuple(ranks), bridges, tuple(unreachable))


def cut(word: str, ranks: dict[Merge, int]) -> list[str]:
    """The pieces BPE leaves of a word: the pair of lowest rank is joined, the leftmost first, until none is left."""
    pieces = list(word)
    while len(pieces) > 1:
        found = [(rank, at) for at, pair in enumerate(pairwise(pieces)) if (rank := ranks.get(pair)) is not None]
        if not found:
            break
        _, at = min(found)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
