"""MoD in weight space: each element of the result is taken whole from one expert.

Source: Dang and Ngo 2024, MoD (arXiv 2411.00406), section 2.3:  theta = theta_1 where normalize(theta_1) < a, else theta_2.

`normalize` and `select` say how an element finds its expert:
    minmax, threshold     u = (theta_1 - min) / (max - min), in bfloat16 as the released code computes it; expert i where u lies
                          in the i-th bracket of the cumulative weights A.  The share taken is what the extremes make it.
    quantile, threshold   u = the element's rank in theta_1 / n, the paper's quantile function Q: expert i gives exactly
                          round(n A_i) - round(n A_{i-1}) elements, ties in rank broken by flat index.
    random                the expert is drawn for each element with probability a_i, independently of its value: the merged
                          parameters are distributed as the mixture sum_i a_i p(theta_i), the paper's Figure 1b.  Neither
                          threshold rule is: they cut theta_1's distribution at a value.
`scope: mlp` (the released code's) merges tensors with "mlp" in their name and takes all others from the first expert.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Array, Floats, narrow, round_to_bfloat16, widen
from modist.merge.method import Method, Parameter
from modist.merge.selection import Keys, rising
from modist.merge.tensor import Answer, Block, Choice, Copy, Tensor

Experts = npt.NDArray[np.uint8]


def cumulative(tensor: Tensor) -> list[float]:
    """A_1, ..., A_{N-1}: where one expert's bracket of [0, 1] ends and the next begins."""
    weights = [tensor.number("weight", index) for index in range(len(tensor.sources))]
    return list(accumulate(weights))[:-1]


def merge(tensor: Tensor) -> Answer:
    """Elements from the expert whose bracket holds them."""
    if tensor.values["scope"] == "mlp" and "mlp" not in tensor.name:
        return Copy(0)
    if len(tensor.sources) == 1:
        return Copy(0)
    if tensor.values["select"] == "random":
        return _by_draw(tensor)
    return _by_quantile(tensor) if tensor.values["normalize"] == "quantile" else _by_minmax(tensor)


def released_rule(values: Floats, low: np.float32, high: np.float32, brackets: list[float]) -> Experts:
    """The released code's arithmetic on values that are bfloat16 already, each operation rounded to bfloat16.

    A constant tensor has u = 0.  The brackets' ends are rounded to bfloat16 too, as torch rounds the number that a bfloat16
    tensor is compared with.
    """
    span = round_to_bfloat16(np.subtract(high, low)[None])[0]
    if span == 0:
        u = np.zeros_like(values)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            u = round_to_bfloat16(round_to_bfloat16(values - low) / span)
    chosen = np.zeros(len(values), np.uint8)
    for end in round_to_bfloat16(np.array(brackets, np.float32)):
        # "not below" rather than "at least": a NaN falls to the last expert, as torch.where sends it there.
        chosen += ~(u < end)
    return chosen


def _as_bfloat16(tensor: Tensor, block: Block) -> Array:
    stored, dtype = block.stored(0), tensor.sources[0].dtype
    return stored if dtype == "BF16" else narrow(widen(stored, dtype), "BF16")


def _by_minmax(tensor: Tensor) -> Answer:
    def extremes(block: Block) -> tuple[np.float32, np.float32]:
        values = widen(_as_bfloat16(tensor, block), "BF16")
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            tensor.on_nonfinite(0)  # it would decide where every element comes from
        return low, high

    found = tensor.survey(extremes)
    low, high = min(pair[0] for pair in found), max(pair[1] for pair in found)
    # u depends on an element's 16 bits alone, so the rule is applied once to every pattern there is.
    patterns = widen(np.arange(1 << 16, dtype=np.uint16), "BF16")
    table = released_rule(patterns, low, high, cumulative(tensor))
    return lambda block: Choice(table[_as_bfloat16(tensor, block)])


def _by_quantile(tensor: Tensor) -> Answer:
    # The lowest values are the largest of the inverted keys.
    def keys(block: Block) -> Keys:
        values = block[0]
        if np.isnan(values).any():
            tensor.on_nonfinite(0)  # it has no rank
        return np.invert(rising(values))

    ends = [min(tensor.size, round(tensor.size * end)) for end in cumulative(tensor)]
    lowest = {end: tensor.largest(end, keys) for end in set(ends) if 0 < end < tensor.size}

    def blend(block: Block) -> Choice:
        here = keys(block)
        chosen = np.zeros(len(block), np.uint8)
        for end in ends:
            if end == 0:
                chosen += np.uint8(1)
            elif end < tensor.size:
                chosen += ~lowest[end].mask(block.number, here)
        return Choice(chosen)

    return blend


def _by_draw(tensor: Tensor) -> Answer:
    ends = cumulative(tensor)

    def blend(block: Block) -> Choice:
        drawn = block.uniform("mod")
        chosen = np.zeros(len(block), np.uint8)
        for end in ends:
            chosen += ~drawn.below(end)
        return Choice(chosen)

    return blend


def _refuses(tensor: Tensor) -> str | None:
    total = math.fsum(tensor.number("weight", index) for index in range(len(tensor.sources)))
    return f"the weights sum to {total:g}; they must sum to 1" if abs(total - 1) > 1e-6 else None


def _warns(tensor: Tensor, names: Sequence[str]) -> Sequence[str]:
    if tensor.values["select"] == "random" or tensor.values["normalize"] == "quantile" or len(names) < 2:
        return ()
    return (
        "normalize: minmax compares weights with a share of the distance between the two most extreme parameters, so the share"
        " each expert really gives is set by outliers, not by the weights; the report says what it was, and"
        " normalize: quantile gives each expert exactly its weight",
    )


MOD = Method(
    name="mod",
    summary="each element taken whole from one expert, by threshold, by rank or by draw",
    source="Dang and Ngo 2024, MoD, arXiv 2411.00406, section 2.3",
    merge=merge,
    parameters=(
        Parameter("weight", "the mixture weight of this expert; the weights sum to 1", scope="input", low=0, high=1),
        Parameter(
            "normalize",
            "minmax is the released code to the bit, quantile gives each expert its weight",
            "minmax",
            kind=("minmax", "quantile"),
        ),
        Parameter(
            "select",
            "threshold on expert 1's values, or a random draw",
            "threshold",
            kind=("threshold", "random"),
        ),
        Parameter(
            "scope",
            "mlp takes all else from the first expert, as the released code does",
            "mlp",
            kind=("mlp", "all"),
        ),
    ),
    base="ignored",
    random=lambda tensor: tensor.values["select"] == "random",
    reports="share",
    dtype=lambda tensor: "BF16" if tensor.values["normalize"] == "minmax" and tensor.values["select"] == "threshold" else None,
    contributes=lambda tensor, index: (
        index == 0 or ((tensor.values["scope"] == "all" or "mlp" in tensor.name) and tensor.number("weight", index) > 0)
    ),
    refuses=_refuses,
    warns=_warns,
)
