"""Reinforced agent merging: what only one model changed is kept whole, what several changed is averaged.

    m_i    = |delta_i| > epsilon                            the elements model i changed
    n      = sum_i m_i                                      how many changed an element
    theta  = base + sum_i m_i delta_i lambda_i [n = 1]  +  sum_i m_i delta_i / n [n > 1]
    lambda = 1 (ram)   or   1 + r min(alpha, shared_i / unique_i) (ramplus_tl)

`shared_i` and `unique_i` count the elements of one tensor that model i changed together with others and alone: tensor-local,
where the paper counts over the whole model.

Source: Reinforced Agent Merging 2026 (arXiv 2601.13572), as mergekit 0.1.5 has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Tensor


def changed(block: Block, epsilon: np.float32) -> tuple[list[Floats], npt.NDArray[np.uint8]]:
    """Each delta [n] with what its model left alone zeroed, and how many models changed each element."""
    deltas = []
    count = np.zeros(len(block), np.uint8)
    for index in block.tensor.others:
        delta = block.delta(index)
        block.note(f"norm {index}", np.einsum("i,i->", delta, delta))
        moved = np.abs(delta) > epsilon
        np.multiply(delta, moved, out=delta)
        deltas.append(delta)
        np.add(count, moved, out=count)
    return deltas, count


def merge(tensor: Tensor, strength: Callable[[Tensor, np.float32], list[np.float32]]) -> Answer:
    """Unique changes times their strength, shared ones averaged."""
    assert tensor.base is not None
    epsilon = np.float32(tensor.number("epsilon"))
    strengths = strength(tensor, epsilon)

    def blend(block: Block) -> Floats:
        deltas, count = changed(block, epsilon)
        share = np.float32(1) / np.maximum(count, 1).astype(np.float32)
        merged = np.zeros(len(block), np.float32)
        for index, delta, factor in zip(tensor.others, deltas, strengths, strict=True):
            np.multiply(delta, share if factor == 1 else np.where(count == 1, factor, share), out=delta)
            block.note(f"kept {index}", np.einsum("i,i->", delta, delta))
            np.add(merged, delta, out=merged)
        merged = tensor.scale(block, merged)
        np.add(merged, block.base, out=merged)
        return merged

    return blend


def _plain(tensor: Tensor, epsilon: np.float32) -> list[np.float32]:
    return [np.float32(1)] * len(tensor.others)


def _by_overlap(tensor: Tensor, epsilon: np.float32) -> list[np.float32]:
    """1 + r min(alpha, shared / unique) of each model."""

    def counts(block: Block) -> list[tuple[int, int]]:
        moved = [np.abs(block.delta(index)) > epsilon for index in tensor.others]
        count = np.sum(moved, axis=0, dtype=np.uint8)
        alone, together = count == 1, count > 1
        return [(int(np.count_nonzero(m & together)), int(np.count_nonzero(m & alone))) for m in moved]

    r, alpha = tensor.number("r"), tensor.number("alpha")
    strengths = []
    for column in zip(*tensor.survey(counts), strict=True):
        shared, unique = (sum(part) for part in zip(*column, strict=True))
        # mergekit's floor: where nothing is unique the ratio is as large as can be, and nothing is scaled.
        strengths.append(np.float32(1 + r * min(alpha, shared / max(unique, float(epsilon), 1e-30))))
    return strengths


_EPSILON = Parameter("epsilon", "an element has changed when its delta is larger than this", 1e-5, low=0)

RAM = Method(
    name="ram",
    summary="changes only one model made are kept whole, changes several made are averaged",
    source="Reinforced Agent Merging 2026, arXiv 2601.13572",
    merge=lambda tensor: merge(tensor, _plain),
    parameters=(_EPSILON,),
    base="required",
    reports="delta",
    scales=True,
)
RAMPLUS_TL = Method(
    name="ramplus_tl",
    summary="the same, with a model's own changes enlarged the more of its changes are shared, tensor by tensor",
    source="Reinforced Agent Merging 2026, arXiv 2601.13572, RAM+, counted within each tensor",
    merge=lambda tensor: merge(tensor, _by_overlap),
    parameters=(
        _EPSILON,
        Parameter("r", "how much overlap enlarges a model's own changes", 0.1, low=0),
        Parameter("alpha", "the overlap counted at most", 0.2, low=0),
    ),
    base="required",
    reports="delta",
    scales=True,
)
