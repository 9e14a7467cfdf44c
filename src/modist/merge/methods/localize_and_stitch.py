"""Localize-and-Stitch without data: each model's largest changes anywhere in the network, averaged where they overlap.

    localize  m_i = the max(1, int(k n)) elements of the greatest |delta_i| of the whole model
    stitch    theta = base + lambda sum_i m_i w_i delta_i / sum_j m_j

Elements are ranked over all tensors of one density together, so that a density of 0 for some (the authors leave embeddings
out) takes them out of the ranking too.  Ties go to the earlier tensor and the lower index, where the released code drops all
that equal the threshold.

Source: He et al. 2024, Localize-and-Stitch (arXiv 2408.13656), section 3, the dataless variant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.selection import SAMPLE, Keys, Largest, by_magnitude, largest
from modist.merge.tensor import Answer, Block, Copy, Tensor

Mask = npt.NDArray[np.bool_]
_SAMPLE_RUN = 1 << 10


@dataclass
class Located:
    """Where one tensor's blocks stand in the ranking of a whole model, for each input."""

    masks: dict[int, tuple[Largest, int]] = field(default_factory=dict)

    def mask(self, block: Block, index: int, delta: Floats) -> Mask | None:
        """Which elements of a block were located for input `index`; None for all of them."""
        if index not in self.masks:
            return None
        chosen, first = self.masks[index]
        return chosen.mask(first + block.number, by_magnitude(delta.copy()))


def localize(tensors: Sequence[Tensor]) -> None:
    """Rank every model's deltas over all tensors of one density, and tell each tensor what was found."""
    for tensor in tensors:
        tensor.found = Located()
    for index in tensors[0].others:
        groups: dict[float, list[Tensor]] = {}
        for tensor in tensors:
            density = tensor.number("density", index)
            if 0 < density < 1 and tensor.number("weight", index) != 0:
                groups.setdefault(density, []).append(tensor)
        for density, group in groups.items():
            chosen = _largest_of_all(group, index, density)
            first = 0
            for tensor in group:
                tensor.found.masks[index] = (chosen, first)
                first += tensor.blocks


def _largest_of_all(group: Sequence[Tensor], index: int, density: float) -> Largest:
    """The elements of the greatest |delta| in several tensors seen as one row of blocks."""
    blocks = [0, *accumulate(tensor.blocks for tensor in group)]
    elements = [0, *accumulate(tensor.size for tensor in group)]

    def keys(number: int) -> Keys:
        place = bisect_right(blocks, number) - 1
        return by_magnitude(group[place].block(number - blocks[place]).delta(index))

    def run(start: int) -> Keys:
        place = bisect_right(elements, start) - 1
        tensor = group[place]
        inside = max(0, min(start - elements[place], tensor.size - _SAMPLE_RUN))
        return by_magnitude(Block(tensor, -1, inside, min(inside + _SAMPLE_RUN, tensor.size)).delta(index))

    size = elements[-1]
    starts = np.linspace(0, size - 1, max(1, max(SAMPLE, size >> 10) // _SAMPLE_RUN)).astype(np.int64)
    sample = np.concatenate([run(int(start)) for start in starts])
    each: Callable[..., list[object]] = group[0].crew.each
    group[0].on_survey()
    return largest(max(1, int(density * size)), size, blocks[-1], each, keys, sample, group[0].room)


def merge(tensor: Tensor) -> Answer:
    """The base plus what was located, averaged over the models that have an element."""
    assert tensor.base is not None
    moved = [index for index in tensor.others if tensor.number("weight", index) != 0 and tensor.number("density", index) > 0]
    if not moved:
        return Copy(tensor.base)
    located: Located = tensor.found
    weights = {index: np.float32(tensor.number("weight", index)) for index in moved}
    strength = np.float32(tensor.number("lambda"))

    def blend(block: Block) -> Floats:
        merged, count = np.zeros(len(block), np.float32), np.zeros(len(block), np.float32)
        for index in moved:
            delta = block.delta(index)
            block.note(f"norm {index}", np.einsum("i,i->", delta, delta))
            mask = located.mask(block, index, delta)
            if mask is not None:
                np.multiply(delta, mask, out=delta)
            np.add(count, np.float32(1) if mask is None else mask, out=count)
            block.note(f"kept {index}", np.einsum("i,i->", delta, delta))
            np.multiply(delta, weights[index] * strength, out=delta)
            np.add(merged, delta, out=merged)
        np.maximum(count, np.float32(1), out=count)
        np.divide(merged, count, out=merged)
        merged = tensor.scale(block, merged)
        np.add(merged, block.base, out=merged)
        return merged

    return blend


LOCALIZE_AND_STITCH = Method(
    name="localize_and_stitch",
    summary="each model's largest changes in the whole network, averaged where they overlap",
    source="He et al. 2024, Localize-and-Stitch, arXiv 2408.13656, section 3, dataless",
    merge=merge,
    parameters=(
        Parameter("weight", "how much of this model's delta", 1.0, "other"),
        Parameter("density", "the share of the model's elements that is located", 0.1, "other", low=0, high=1),
        Parameter("lambda", "strength of the merged delta", 1.0),
    ),
    base="required",
    reports="delta",
    contributes=lambda tensor, index: (
        index == tensor.base or (tensor.number("weight", index) != 0 and tensor.number("density", index) > 0)
    ),
    across=localize,
    scales=True,
)
