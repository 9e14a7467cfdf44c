"""One model's tensors, as they are or scaled: what stacks are made of.

Source: mergekit's `passthrough` (Goddard et al. 2024, arXiv 2403.13257), which has no equation but theta = scale * theta_1.
"""

from __future__ import annotations

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor


def merge(tensor: Tensor) -> Answer:
    """theta = scale * theta_1; bit for bit theta_1 where scale is 1."""
    scale = tensor.number("scale", 0)
    if scale == 1:
        return Copy(0)

    def blend(block: Block) -> Floats:
        values = block[0]
        np.multiply(values, np.float32(scale), out=values)
        block.note("taken 0", len(block))
        return values

    return blend


PASSTHROUGH = Method(
    name="passthrough",
    summary="one model's tensors as they are, or scaled; with slices, layers stacked or left out",
    source="mergekit's passthrough; Goddard et al. 2024, arXiv 2403.13257",
    merge=merge,
    parameters=(Parameter("scale", "factor on the tensor", default=1.0, scope="input"),),
    inputs=(1, 1),
    reports="share",
)
