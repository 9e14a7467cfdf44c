"""An expert's distributions over one response, told in the pivot's positions and ids.

A pivot position is *aligned* where the expert says something of the very same stretch of text, from the very same text before
it:

- one token of the expert has the pivot token's bytes: its ids become the pivot's, and what has no counterpart joins the tail;
- several tokens of the expert make up the pivot token's bytes (`chain`): by the chain rule the product of their probabilities
  is the expert's probability of the pivot's token, exactly; of other tokens the expert's next-token distributions say nothing
  that could be told without running it on them, so the rest is tail;
- both end the answer there.

Everywhere else (a token of the expert that reaches beyond the pivot's, boundaries that cross) the target is the label.
FuseLLM takes the last of several tokens' distributions in the second case, which is what the expert says after having read
most of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from modist.fusion.chat import Reading
from modist.fusion.distributions import Distribution

if TYPE_CHECKING:
    from modist.vocabulary import IdMap

_FILLER = np.iinfo(np.int32).max
Spans = Literal["chain", "label"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """What one expert says of a response, n positions of the pivot's.

    Attributes:
        ids: the pivot's, int32 [n, k]; each at most once in a row, in ascending order; -1 fills up.
        probs: float64 [n, k], 0 where ids are -1; with `tail` they sum to 1.
        tail: of all other ids, float64 [n].
        gold: log p of the pivot's token, float64 [n]; of no meaning where not aligned.
        aligned: whether the expert says something of the position; elsewhere its row is the label's, bool [n].
        nats: -sum log p of the whole response, by the expert's own tokens.
        tokens: how many those are.
    """

    ids: NDArray[np.int32]
    probs: NDArray[np.float64]
    tail: NDArray[np.float64]
    gold: NDArray[np.float64]
    aligned: NDArray[np.bool_]
    nats: float
    tokens: int


def align_distribution(
    said: Distribution, source: Reading, target: Reading, id_map: IdMap | None, spans: Spans = "chain"
) -> Aligned:
    """Tell an expert's distributions in the pivot's terms.

    Args:
        said: by the expert.
        source, target: the chat as the expert and as the pivot read it.
        id_map: expert's ids -> pivot's; None for the pivot itself.
        spans: what becomes of pivot tokens that several of the expert's make up.
    """
    labels = target.response
    if id_map is None:
        return _filled(said.ids, said.probs, said.gold, np.ones(len(labels), dtype=bool), labels, said, source.count)
    from modist.vocabulary import align_positions
    from modist.vocabulary.positions import JOINED, SAME

    found = align_positions(source.spans, target.spans)
    n, k = len(labels), said.ids.shape[1]
    one = found.kind == SAME
    at = found.start.astype(np.int64)
    if source.ends and target.ends:
        one[-1], at[-1] = True, source.count - 1
    ids = np.full((n, k), -1, dtype=np.int32)
    probs = np.zeros((n, k))
    gold = np.zeros(n)
    if one.any():
        given = said.ids[at[one]]
        mapped = id_map.apply(given)
        # The tokens that stand here say the same bytes, whatever the map makes of their ids elsewhere.
        mapped = np.where(given == source.response[at[one]][:, None], labels[one][:, None], mapped)
        ids[one] = mapped
        probs[one] = np.where(mapped >= 0, said.probs[at[one]], 0.0)
        gold[one] = said.gold[at[one]]
    joined = (found.kind == JOINED) & ~one
    if spans == "chain" and joined.any():
        # Sums of runs, not differences of one running sum: a -inf would make all that follow it NaN.
        sums = np.array([said.gold[a:b].sum() for a, b in zip(found.start[joined], found.stop[joined], strict=True)])
        ids[joined, 0] = labels[joined]
        probs[joined, 0] = np.exp(sums)
        gold[joined] = sums
        one = one | joined
    return _filled(ids, probs, gold, one, labels, said, source.count)


def _filled(
    ids: NDArray[np.int32],
    probs: NDArray[np.float64],
    gold: NDArray[np.float64],
    aligned: NDArray[np.bool_],
    labels: NDArray[np.int32],
    said: Distribution,
    tokens: int,
) -> Aligned:
    """With the label where nothing is said, each id once, and a tail that makes the sum 1."""
    # An expert all of whose ids have no counterpart says nothing either.
    aligned = aligned & (ids >= 0).any(1)
    ids = np.where(aligned[:, None], ids, np.int32(-1))
    probs = np.where(aligned[:, None], probs, 0.0)
    ids[~aligned, 0], probs[~aligned, 0] = labels[~aligned], 1.0
    ids, probs = gathered(ids, probs)
    return Aligned(ids, probs, np.clip(1 - probs.sum(1), 0.0, 1.0), gold, aligned, said.nats, tokens)


def gathered(ids: NDArray[np.int32], probs: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Each id once a row, with the sum of its probabilities; ascending, -1 behind, no wider than need be."""
    keyed = np.where(ids < 0, _FILLER, ids)
    order = np.argsort(keyed, axis=1, kind="stable")
    keyed, probs = np.take_along_axis(keyed, order, 1), np.take_along_axis(probs, order, 1)
    fresh = np.ones(keyed.shape, dtype=bool)
    fresh[:, 1:] = keyed[:, 1:] != keyed[:, :-1]
    place = np.cumsum(fresh, axis=1) - 1
    out = np.full(keyed.shape, _FILLER, dtype=np.int32)
    summed = np.zeros(keyed.shape)
    rows = np.arange(len(keyed))[:, None]
    out[rows, place] = keyed
    np.add.at(summed, (np.broadcast_to(rows, place.shape), place), probs)
    width = max(1, int((out != _FILLER).sum(1).max(initial=1)))
    out, summed = out[:, :width], summed[:, :width]
    filler = out == _FILLER
    return np.where(filler, np.int32(-1), out), np.where(filler, 0.0, summed)
