"""SCE: select what varies between models, calculate each model's weight, erase the minority's signs.

    select     the int(tau n) elements of greatest variance over the deltas, n of the tensor's having any
    calculate  w_i = mean of delta_i^2 over the selected / the sum of these means
    erase      deltas whose sign is not that of sum_i delta_i
    theta      = base + sum_i w_i delta_i [kept] / sum_i w_i [kept]

`select: deltas` merges the selected elements only and leaves the others at the base: mergekit's `sce`, contributed by the
authors.  `select: weights` is the authors' own fork, where the selection decides the weights alone and all elements merge.  At
tau = 1 they are one method.

Source: Wan et al. 2024, FuseChat (arXiv 2408.07990), section 3.3; floors as in mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.selection import Keys, Largest, by_magnitude
from modist.merge.tensor import Answer, Block, Copy, Tensor

# Below this sum of mean squares models weigh the same, and a smaller divisor counts as this large.
TINY = 1e-6


def variation(block: Block) -> Keys:
    """Keys that order as the variance of the deltas over the models does; 0 where all models agree.

    The base drops out of a variance.  Of two models it is a quarter of the squared difference, so the difference itself will
    do, which is exact; of more, it is taken about the first.
    """
    first, *rest = (block[index] for index in block.tensor.others)
    apart = [np.subtract(values, first, out=values) for values in rest]
    if len(apart) == 1:
        return by_magnitude(apart[0])
    mean = _sum(apart)
    np.divide(mean, np.float32(len(apart) + 1), out=mean)
    spread = np.multiply(mean, mean)
    for values in apart:
        np.subtract(values, mean, out=values)
        np.multiply(values, values, out=values)
        np.add(spread, values, out=spread)
    return by_magnitude(spread)


def _sum(terms: Sequence[Floats]) -> Floats:
    """The sum of several arrays [n], in order, in a new one."""
    total = terms[0].copy()
    for term in terms[1:]:
        np.add(total, term, out=total)
    return total


def selected(tensor: Tensor, topk: float) -> Largest | None:
    """The elements that vary most; None where that is none of them."""
    if len(tensor.others) < 2 or topk <= 0:
        return None
    varying = sum(tensor.survey(lambda block: int(np.count_nonzero(variation(block)))))
    count = int(varying * topk)
    return tensor.largest(count, variation) if count else None


def shares(tensor: Tensor, mask: Largest | None) -> list[float]:
    """w_i: each model's part of the squares of the selected deltas."""

    def squares(block: Block) -> list[tuple[Floats, Floats]]:
        deltas = [block.delta(index) for index in tensor.others]
        if mask is not None:
            chosen = mask.mask(block.number, variation(block))
            deltas = [np.multiply(delta, chosen, out=delta) for delta in deltas]
        return [(delta, delta) for delta in deltas]

    means = tensor.dots(squares) / tensor.size
    total = float(means.sum())
    return [1 / len(means)] * len(means) if total < TINY else [float(mean) / total for mean in means]


def merge(tensor: Tensor) -> Answer:
    """Select, calculate, erase."""
    assert tensor.base is not None
    topk, deltas_too = tensor.number("select_topk"), tensor.values["select"] == "deltas"
    mask = None
    if topk < 1:
        mask = selected(tensor, topk)
        if mask is None and deltas_too:
            return Copy(tensor.base)
    nothing = topk < 1 and mask is None
    weights = [1 / len(tensor.others)] * len(tensor.others) if nothing else shares(tensor, mask)
    factors = [np.float32(weight) for weight in weights]

    def blend(block: Block) -> Floats:
        deltas = [block.delta(index) for index in tensor.others]
        for index, delta in zip(tensor.others, deltas, strict=True):
            block.note(f"norm {index}", np.einsum("i,i->", delta, delta))
        if mask is not None and deltas_too:
            chosen = mask.mask(block.number, variation(block))
            deltas = [np.multiply(delta, chosen, out=delta) for delta in deltas]
        merged = _erased(block, deltas, factors)
        merged = tensor.scale(block, merged)
        np.add(merged, block.base, out=merged)
        return merged

    return blend


def _erased(block: Block, deltas: list[Floats], factors: list[np.float32]) -> Floats:
    """The weighted mean of the deltas that have the sign of their sum, [n]."""
    mass = _sum(deltas)
    positive = mass >= 0
    divisor = np.zeros(len(block), np.float32)
    merged = mass
    merged.fill(0)
    for index, delta, factor in zip(block.tensor.others, deltas, factors, strict=True):
        # A zero has no sign, so it agrees with neither.
        agrees = np.equal(delta > 0, positive)
        np.logical_and(agrees, delta != 0, out=agrees)
        np.multiply(delta, agrees, out=delta)
        block.note(f"kept {index}", np.einsum("i,i->", delta, delta))
        np.multiply(delta, factor, out=delta)
        np.add(merged, delta, out=merged)
        np.add(divisor, agrees * factor, out=divisor)
    np.maximum(divisor, np.float32(TINY), out=divisor)
    np.divide(merged, divisor, out=merged)
    return merged


SCE = Method(
    name="sce",
    summary="select what varies between models, weigh each model by it, erase the minority's signs",
    source="Wan et al. 2024, FuseChat, arXiv 2408.07990, section 3.3",
    merge=merge,
    parameters=(
        Parameter("select_topk", "tau: the share of the varying elements that is selected", 1.0, low=0, high=1),
        Parameter(
            "select",
            "deltas leaves all else at the base (mergekit), weights selects for the weights alone (the authors' fork)",
            "deltas",
            kind=("deltas", "weights"),
        ),
        Parameter("int8_mask", "accepted, as mergekit does, and without effect", False, kind=bool),
    ),
    base="required",
    reports="delta",
    scales=True,
)
