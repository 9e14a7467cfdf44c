"""Arcee Fusion: the other model's element where its change matters most, the base's everywhere else.

    s_k  = |delta_k| KL(softmax(theta_row) + e || softmax(base_row) + e)      the row along the last axis that holds k, e = 1e-8
    take = s >= median + 1.5 (q3 - q1)                                        quartiles of s over the tensor

The softmax is of weights, not of outputs.  Quartiles are exact here; mergekit takes them from a million random elements where a
tensor has more.

Source: mergekit 0.1.5's `arcee_fusion` (arcee.ai; no paper).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method
from modist.merge.selection import Keys, by_magnitude
from modist.merge.tensor import Answer, Block, Choice, Tensor

FLOOR = 1e-8
FENCE = 1.5


def divergences(theirs: Floats, base: Floats) -> npt.NDArray[np.float64]:
    """KL(softmax(theirs) + e || softmax(base) + e) of each row [rows, row] -> [rows].

    In float64: close rows differ in the second order, which float32's sum of first-order terms would drown.
    """
    p, q = (_softmax(rows) for rows in (theirs, base))
    np.divide(p, q, out=q)
    np.log(q, out=q)
    found: npt.NDArray[np.float64] = np.einsum("ij,ij->i", p, q)
    return np.maximum(found, 0)


def _softmax(rows: Floats) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    np.subtract(wide, wide.max(axis=1, keepdims=True), out=wide)
    np.exp(wide, out=wide)
    np.divide(wide, wide.sum(axis=1, keepdims=True), out=wide)
    np.add(wide, FLOOR, out=wide)
    return wide


def merge(tensor: Tensor) -> Answer:
    """Each element whole from the base or from the other model."""
    assert tensor.base is not None
    (other,), base = tensor.others, tensor.base
    divergence = np.concatenate(
        tensor.survey(lambda block: divergences(block.rows(block[other]), block.rows(block.base)))
    ).astype(np.float32)
    if not np.isfinite(divergence).all():
        tensor.on_nonfinite(other)  # its rows would be left out without a word

    def importance(block: Block) -> Keys:
        delta = block.delta(other)
        rows = block.rows(delta)
        np.multiply(rows, divergence[block.row_numbers, None], out=rows)
        return by_magnitude(delta)

    # The element of rank int(q (n - 1)) from below, as mergekit reads a quantile.
    ranks = [tensor.size - int(q * (tensor.size - 1)) for q in (0.25, 0.5, 0.75)]
    quartiles = np.array([found.threshold for found in tensor.largest_each(ranks, importance)], np.uint32).view(np.float32)
    low, median, high = quartiles
    threshold = median + np.float32(FENCE) * (high - low)

    def blend(block: Block) -> Choice:
        taken = importance(block).view(np.float32) >= threshold
        chosen = np.full(len(block), base, np.uint8)
        chosen[taken] = other
        return Choice(chosen)

    return blend


ARCEE_FUSION = Method(
    name="arcee_fusion",
    summary="the base, with the elements whose change stands out taken from the other model",
    source="mergekit 0.1.5's arcee_fusion, Arcee",
    merge=merge,
    base="required",
    inputs=(1, 1),
    reports="share",
    rows=lambda tensor: tensor.width,
)
