"""The fused target: what the experts say, as one sparse distribution a position.

    mince            the whole response by the expert with the lowest cross-entropy of it (FuseLLM, FuseChat)
    mince_position   each position by the expert that gives its token the highest probability
    avgce            sum_i a_i p_i, a = softmax(-CE / T) by response
    weights          sum_i a_i p_i with the recipe's weights: what their mixture says (the MoD paper's law), as a teacher

An expert that says nothing of a position stands for the label there.  FuseLLM's AvgCE takes the softmax of exp(-CE), which
lies between 0 and 1, so that its weights are nearly uniform whatever the experts say; softmax(-CE / T) is what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modist.fusion.aligned import Aligned, gathered

Kind = Literal["mince", "mince_position", "avgce", "weights"]
Compare = Literal["text", "token"]


@dataclass(frozen=True, eq=False)
class Target:
    """One response's target, n positions.

    Attributes:
        ids: int32 [n, k]; -1 fills up, never in the first place.
        probs: float64 [n, k].
        tail: float64 [n].
        shares: of each expert, summing to 1: how much of the target is its, float64 [experts].
        aligned: positions at which it is not the label alone.
    """

    ids: NDArray[np.int32]
    probs: NDArray[np.float64]
    tail: NDArray[np.float64]
    shares: NDArray[np.float64]
    aligned: int


def cross_entropies(experts: Sequence[Aligned], compare: Compare = "text") -> NDArray[np.float64]:
    """Of one response by each expert, nats, float64 [experts].

    `text`: -log p of the whole response over the pivot's tokens.  All experts say the same text, so this is fair whatever
    their tokenizers.  `token`: over the expert's own tokens, by which one with small tokens seems surer than it is.
    """
    positions = len(experts[0].gold)
    return np.array([expert.nats / (positions if compare == "text" else expert.tokens) for expert in experts])


def fused_target(
    experts: Sequence[Aligned],
    kind: Kind,
    *,
    compare: Compare = "text",
    temperature: float = 1.0,
    weights: Sequence[float] = (),
) -> Target:
    """Fuse what experts say of one response.

    Args:
        experts: at least one; of several that are equally good the first is taken.
        kind: of the fusion.
        compare: see `cross_entropies`; of `mince` and `avgce`.
        temperature: T of `avgce`.
        weights: of `weights`, summing to 1.
    """
    n = len(experts[0].gold)
    if kind == "mince":
        shares = np.zeros(len(experts))
        shares[int(np.argmin(cross_entropies(experts, compare)))] = 1.0
        best = experts[int(np.argmax(shares))]
        return Target(best.ids, best.probs, best.tail, shares, int(best.aligned.sum()))
    if kind == "mince_position":
        gold = np.stack([np.where(expert.aligned, expert.gold, -np.inf) for expert in experts])
        chosen = np.argmax(gold, axis=0)
        # Where nobody says anything all are the label, and argmax takes the first.
        by = [chosen == index for index in range(len(experts))]
        each = np.stack([mine.astype(np.float64) for mine in by])
    else:
        if kind == "avgce":
            share = -cross_entropies(experts, compare) / temperature
            share = np.where(np.isfinite(share), share, -np.inf)
            share = np.exp(share - share.max()) if np.isfinite(share).any() else np.ones(len(experts))
            share = share / share.sum()
        else:
            share = np.asarray(weights, dtype=np.float64)
        each = np.repeat(share[:, None], n, axis=1)
    ids = np.concatenate([np.where(each[i][:, None] > 0, expert.ids, -1) for i, expert in enumerate(experts)], axis=1)
    probs = np.concatenate([each[i][:, None] * expert.probs for i, expert in enumerate(experts)], axis=1)
    ids, probs = gathered(ids.astype(np.int32), probs)
    tail = sum(each[i] * expert.tail for i, expert in enumerate(experts))
    heard = np.any([expert.aligned & (each[i] > 0) for i, expert in enumerate(experts)], axis=0)
    return Target(ids, probs, np.asarray(tail), each.mean(axis=1) if n else each[:, 0], int(heard.sum()))
