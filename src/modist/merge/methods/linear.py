"""Weighted averages of the parameters themselves.

Source: Wortsman et al. 2022, Model soups (arXiv 2203.05482), eq. 1 with weights; mergekit's `linear`.
"""

from __future__ import annotations

import math

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Tensor


def merge(tensor: Tensor) -> Answer:
    """theta = sum_i w_i theta_i, divided by sum_i w_i when normalised."""
    given = {index: tensor.number("weight", index) for index in range(len(tensor.sources))}
    total = math.fsum(given.values()) if tensor.flag("normalize") else 1.0
    weights = [(index, np.float32(weight / total)) for index, weight in given.items() if weight]
    if not weights:
        return lambda block: np.zeros(len(block), np.float32)

    def blend(block: Block) -> Floats:
        (first, weight), *rest = weights
        merged = block[first]
        np.multiply(merged, weight, out=merged)
        for index, weight in rest:
            term = block[index]
            np.multiply(term, weight, out=term)
            np.add(merged, term, out=merged)
        return merged

    return blend


def _refuses(tensor: Tensor) -> str | None:
    total = math.fsum(tensor.number("weight", index) for index in range(len(tensor.sources)))
    return "the weights sum to 0, which cannot be normalised" if total == 0 and tensor.flag("normalize") else None


LINEAR = Method(
    name="linear",
    summary="weighted average of the models",
    source="Wortsman et al. 2022, Model soups, arXiv 2203.05482, eq. 1",
    merge=merge,
    parameters=(
        Parameter("weight", "how much of this model", scope="input"),
        Parameter("normalize", "divide by the sum of the weights", default=True, kind=bool),
    ),
    refuses=_refuses,
    contributes=lambda tensor, index: tensor.number("weight", index) != 0,
)
