"""WIDEN: each column of a delta enters by how much that model changed its length and its direction, against the other models.

    m, D    a matrix as columns' lengths and directions (the tokens' rows, of an embedding)
    change  |m_i - m_base|  and  1 - cos(D_i, D_base), for each column
    rank    of a column's change among its model's columns, in [0, 1)
    score   softmax of the ranks over the models; `score_calibration_value` where a rank is above its model's mean
            times `above_average_value_ratio`
    theta   = base + sum_i (score_m + score_D)_i / 2 delta_i

Vectors (norms, biases) have one score for each element, from |delta_i| itself in place of ranks.

Source: Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained Large Language Models via Weight Disentanglement
(arXiv 2408.03092), section 3; what the text leaves open as in the authors' code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.plan import is_embedding
from modist.merge.tensor import Answer, Block, Tensor

Values = npt.NDArray[np.float64]


def changes(bb: Values, dd: Values, bd: Values) -> tuple[Values, Values]:
    """How far a model moved each column's length and direction, from dot products of base and delta.

    Written in deltas: a difference of two near norms, or 1 less a cosine near 1, would lose what is being ranked.
    """
    xx = np.maximum(bb + 2 * bd + dd, 0.0)
    norms = np.sqrt(bb), np.sqrt(xx)
    length = np.abs(2 * bd + dd) / np.maximum(norms[0] + norms[1], 1e-300)
    product = np.maximum(norms[0] * norms[1], 1e-300)
    cosine = np.clip((bb + bd) / product, -1, 1)
    sine_squared = np.maximum(bb * dd - bd * bd, 0.0) / (product * product)
    near = sine_squared / (1 + np.maximum(cosine, 0.0))
    turned = np.where(cosine > 0, near, 1 - cosine)
    return length, np.where(bb * xx > 0, turned, (dd > 0).astype(np.float64))


def ranks(values: Values) -> Values:
    """Each model's values [models, columns] -> their ranks within the model over the number of columns; ties by place."""
    order = np.argsort(values, axis=1, kind="stable")
    found = np.empty(values.shape)
    np.put_along_axis(found, order, np.arange(values.shape[1]) / values.shape[1] * np.ones((len(values), 1)), axis=1)
    return found


def scores(significance: Values, means: Values, ratio: float, calibration: float) -> Values:
    """Softmax over the models [models, k], and the calibration value where a model's significance is above its mean."""
    raised = np.exp(significance - significance.max(axis=0))
    found = raised / raised.sum(axis=0)
    return np.where(significance > means[:, None] * ratio, calibration, found)


def merge(tensor: Tensor) -> Answer:
    """The base plus every model's delta, column by column as its scores say."""
    ratio, calibration = tensor.number("above_average_value_ratio"), tensor.number("score_calibration_value")
    if len(tensor.shape) < 2:
        return _vector(tensor, ratio, calibration)

    def products(block: Block) -> list[tuple[Values, Values]]:
        # Neighbours in a ranking of many thousand columns differ by less than float32 sums are known to.
        base = block.base.astype(np.float64)
        deltas = [block[index] - base for index in tensor.others]
        return [(base, base), *((d, d) for d in deltas), *((base, d) for d in deltas)]

    by_rows = is_embedding(tensor.name)
    dots = tensor.row_dots(products) if by_rows else tensor.column_dots(products)
    count = len(tensor.others)
    moved = [changes(dots[0], dots[1 + i], dots[1 + count + i]) for i in range(count)]
    found = np.zeros((count, dots.shape[1]))
    for kind in (0, 1):
        significance = ranks(np.array([change[kind] for change in moved]))
        # The mean of 0, 1/k, ..., (k-1)/k, so that no rounding decides on the middle one.
        means = np.full(count, (significance.shape[1] - 1) / 2 / significance.shape[1])
        found += scores(significance, means, ratio, calibration) / 2
    factors = found.astype(np.float32)

    def blend(block: Block) -> Floats:
        merged = np.zeros(len(block), np.float32)
        for index, factor in zip(tensor.others, factors, strict=True):
            delta = block.delta(index)
            block.note(f"norm {index}", np.einsum("i,i->", delta, delta))
            rows = block.rows(delta)
            np.multiply(rows, factor[block.row_numbers, None] if by_rows else factor, out=rows)
            block.note(f"kept {index}", np.einsum("i,i->", delta, delta))
            np.add(merged, delta, out=merged)
        return _onto_base(block, merged)

    return blend


def _vector(tensor: Tensor, ratio: float, calibration: float) -> Answer:
    means = tensor.total(lambda block: [np.abs(block.delta(index)) for index in tensor.others]) / tensor.size

    def blend(block: Block) -> Floats:
        deltas = [block.delta(index) for index in tensor.others]
        found = scores(np.abs(np.array(deltas, np.float64)), means, ratio, calibration)
        merged = np.zeros(len(block), np.float32)
        for index, delta, score in zip(tensor.others, deltas, found, strict=True):
            block.note(f"norm {index}", np.einsum("i,i->", delta, delta))
            np.multiply(delta, score.astype(np.float32), out=delta)
            block.note(f"kept {index}", np.einsum("i,i->", delta, delta))
            np.add(merged, delta, out=merged)
        return _onto_base(block, merged)

    return blend


def _onto_base(block: Block, merged: Floats) -> Floats:
    merged = block.tensor.scale(block, merged)
    np.add(merged, block.base, out=merged)
    return merged


WIDEN = Method(
    name="widen",
    summary="deltas weighed column by column, by how much each model changed a column's length and direction",
    source="Yu et al. 2024, WIDEN, arXiv 2408.03092, section 3",
    merge=merge,
    parameters=(
        Parameter("above_average_value_ratio", "a column counts fully above its model's mean rank times this", 1.0, low=0),
        Parameter("score_calibration_value", "the score of a column that counts fully", 1.0, low=0),
    ),
    base="required",
    reports="delta",
    rows=lambda tensor: tensor.width if len(tensor.shape) > 1 else None,
    scales=True,
)
