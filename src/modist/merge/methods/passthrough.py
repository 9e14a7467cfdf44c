"""One model's tensors, as they are or scaled: what layer stacking is made of.

Source: mergekit 0.1.5's `passthrough`; Kim et al. 2023, SOLAR (arXiv 2312.15166), section 2, stacks layers so.
"""

from __future__ import annotations

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor


def merge(tensor: Tensor) -> Answer:
    """theta = scale * theta_1; at 1 the stored bits."""
    scale = np.float32(tensor.number("scale", 0))
    if scale == 1:
        return Copy(0)

    def blend(block: Block) -> Floats:
        values = block[0]
        np.multiply(values, scale, out=values)
        block.note("taken 0", len(block))
        return values

    return blend


PASSTHROUGH = Method(
    name="passthrough",
    summary="one model's tensors, as they are or times `scale`",
    source="Kim et al. 2023, SOLAR, arXiv 2312.15166, section 2 (stacking); `scale` as in mergekit 0.1.5",
    merge=merge,
    parameters=(Parameter("scale", "what every element is multiplied by", 1.0, "input"),),
    inputs=(1, 1),
    reports="share",
)
