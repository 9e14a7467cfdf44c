"""Spherical interpolation between a base and one other model.

Source: Shoemake 1985, Animating rotation with quaternion curves, section 3.3, applied to whole tensors as vectors; like
mergekit, tensors that are nearly parallel (|cos| > 0.9995) are interpolated linearly.
"""

from __future__ import annotations

import math

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor

PARALLEL = 0.9995
TINY = 1e-8


def arc(t: float, cosine: float) -> tuple[float, float]:
    """The two coefficients sin((1-t)w)/sin(w), sin(tw)/sin(w) for an angle w of this cosine."""
    cosine = min(1.0, max(-1.0, cosine))
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def merge(tensor: Tensor) -> Answer:
    """theta = sin((1-t)w)/sin(w) base + sin(tw)/sin(w) other, w the angle between the two tensors."""
    assert tensor.base is not None
    t = tensor.number("t")
    (other,) = tensor.others
    if t in (0.0, 1.0):
        # Exact at both ends, also where an end is collinear with the other only up to rounding.
        return Copy(tensor.base if t == 0 else other)

    def products(block: Block) -> list[tuple[Floats, Floats]]:
        a, b = block.base, block[other]
        return [(a, a), (b, b), (a, b)]

    aa, bb, ab = tensor.dots(products)
    norms = [norm if norm > TINY else 1.0 for norm in (math.sqrt(aa), math.sqrt(bb))]
    first, second = arc(t, ab / (norms[0] * norms[1]))
    keep, take = np.float32(first), np.float32(second)

    def blend(block: Block) -> Floats:
        merged = np.multiply(block.base, keep)
        term = block[other]
        np.multiply(term, take, out=term)
        np.add(merged, term, out=merged)
        return merged

    return blend


SLERP = Method(
    name="slerp",
    summary="spherical interpolation between the base (t = 0) and one other model (t = 1)",
    source="Shoemake 1985, section 3.3; whole tensors as vectors",
    merge=merge,
    parameters=(Parameter("t", "position on the arc from the base to the other model", low=0, high=1),),
    base="required",
    inputs=(1, 1),
    contributes=lambda tensor, index: tensor.number("t") != (1 if index == tensor.base else 0),
)
