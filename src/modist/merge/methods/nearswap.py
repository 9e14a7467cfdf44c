"""Elements near the base's are taken from the other model, those farther off move towards it by a fixed step.

Source: alchemonaut 2024, NearSwap (model card of QuartetAnemoi-70B-t0.0001), as mergekit 0.1.5 has it.
"""

from __future__ import annotations

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor

# Differences below this count as this large (mergekit's floor), so a t below it takes a part of them only.
FLOOR = np.float32(1e-6)


def merge(tensor: Tensor) -> Answer:
    """theta = base + min(1, t / |delta|) delta."""
    assert tensor.base is not None
    (other,) = tensor.others
    t = np.float32(tensor.number("t"))
    if t == 0:
        return Copy(tensor.base)

    def blend(block: Block) -> Floats:
        theirs = block[other]
        delta = theirs - block.base
        block.note(f"norm {other}", np.einsum("i,i->", delta, delta))
        share = np.abs(delta)
        np.maximum(share, FLOOR, out=share)
        np.divide(t, share, out=share)
        np.minimum(share, np.float32(1), out=share)
        np.multiply(delta, share, out=delta)
        block.note(f"kept {other}", np.einsum("i,i->", delta, delta))
        np.add(delta, block.base, out=delta)
        # Taken whole it is taken exactly, which base + (theirs - base) need not be.
        np.copyto(delta, theirs, where=share == 1)
        return delta

    return blend


NEARSWAP = Method(
    name="nearswap",
    summary="the base, with elements within t of the other model's taken from it and all others moved t towards it",
    source="alchemonaut 2024, NearSwap, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    merge=merge,
    parameters=(Parameter("t", "how far an element may move, in the parameters' own units", low=0),),
    base="required",
    inputs=(1, 1),
    reports="delta",
    contributes=lambda tensor, index: index == tensor.base or tensor.number("t") > 0,
)
