"""Model Stock: from the base towards the average of its fine-tunes, the farther the more they agree.

    t     = N cos / (1 + (N - 1) cos)          cos: mean cosine between two of the N deltas
    theta = base + t mean_i delta_i

Source: Jang et al. 2024, Model Stock (arXiv 2403.19522), eq. 4 and its generalisation to N models; floors as in mergekit 0.1.5.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Tensor

# Below these a cosine is taken for smaller than it is, and a denominator for zero: the base is then kept.
TINY_NORMS = 1e-6
SINGULAR = 1e-6

Values = npt.NDArray[np.float64]


def interpolation(cosine: Values, count: int) -> Values:
    """t = N cos / (1 + (N - 1) cos); 0 where the denominator vanishes."""
    denominator = 1 + (count - 1) * cosine
    singular = np.abs(denominator) < SINGULAR
    return np.where(singular, 0.0, count * cosine / np.where(singular, 1.0, denominator))


def merge(tensor: Tensor) -> Answer:
    """theta = base + t mean_i delta_i, t for the whole tensor or for each of its rows."""
    others = tensor.others
    pairs = list(combinations(range(len(others)), 2))

    def products(block: Block) -> list[tuple[Floats, Floats]]:
        deltas = [block.delta(index) for index in others]
        return [(delta, delta) for delta in deltas] + [(deltas[a], deltas[b]) for a, b in pairs]

    dots = tensor.row_dots(products) if tensor.row is not None else tensor.dots(products)[:, None]
    norms = np.sqrt(dots[: len(others)])
    cosines = [
        np.clip(dot / np.maximum(norms[a] * norms[b], TINY_NORMS), -1, 1)
        for (a, b), dot in zip(pairs, dots[len(others) :], strict=True)
    ]
    t = interpolation(np.mean(cosines, axis=0), len(others))
    share = (t / len(others)).astype(np.float32)

    def blend(block: Block) -> Floats:
        here = block.row_numbers if tensor.row is not None else slice(0, 1)
        squares = t[here] ** 2
        merged = np.zeros(len(block), np.float32)
        for index in others:
            delta = block.delta(index)
            rows = delta.reshape(len(squares), -1)
            norm = np.einsum("ij,ij->i", rows, rows)
            block.note(f"norm {index}", math.fsum(norm))
            block.note(f"kept {index}", math.fsum(norm * squares))
            np.add(merged, delta, out=merged)
        rows = merged.reshape(len(squares), -1)
        np.multiply(rows, share[here, None], out=rows)
        np.add(merged, block.base, out=merged)
        return merged

    return blend


MODEL_STOCK = Method(
    name="model_stock",
    summary="from the base towards the average of its fine-tunes, the farther the smaller the angles between them",
    source="Jang et al. 2024, Model Stock, arXiv 2403.19522, eq. 4",
    merge=merge,
    parameters=(Parameter("filter_wise", "one angle for each row instead of one for the tensor", False, kind=bool),),
    base="required",
    inputs=(2, None),
    reports="delta",
    rows=lambda tensor: tensor.width if tensor.flag("filter_wise") else None,
)
