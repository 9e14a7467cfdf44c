"""Spherical interpolation of two models or, with a base, of their deltas.

    t     = w_2 / (w_1 + w_2)
    theta = [base +] sin((1 - t) a) / sin(a) v_1 + sin(t a) / sin(a) v_2          a: the angle between v_1 and v_2

The vectors are whole tensors (`nuslerp_flatten`, the default), else what lies along the last axis, else, with
`nuslerp_row_wise`, what lies along the first: names and defaults as in mergekit 0.1.5.

Source: Shoemake 1985, Animating rotation with quaternion curves, section 3.3; mergekit's `nuslerp`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor

TINY_NORM = 1e-7
TINY_WEIGHT = 1e-6
COLINEAR = 1e-16

Values = npt.NDArray[np.float64]


def arcs(t: float, aa: Values, bb: Values, ab: Values) -> tuple[Values, Values]:
    """The two coefficients for each pair of vectors, from their dot products; linear where a pair is collinear."""
    norms = [np.maximum(np.sqrt(square), TINY_NORM) for square in (aa, bb)]
    cosine = np.clip(ab / (norms[0] * norms[1]), -1, 1)
    line = 1 - cosine * cosine <= COLINEAR
    angle = np.arccos(np.where(line, 0.0, cosine))
    sine = np.sin(angle)
    return np.where(line, 1 - t, np.sin((1 - t) * angle) / sine), np.where(line, t, np.sin(t * angle) / sine)


def position(tensor: Tensor) -> float:
    """t: the second model's share of the two weights; halfway where they cancel."""
    first, second = (tensor.number("weight", index) for index in tensor.others)
    return 0.5 if abs(first + second) < TINY_WEIGHT else second / (first + second)


def merge(tensor: Tensor) -> Answer:
    """The arc between the two models' vectors, tensor by tensor, row by row or column by column."""
    t = position(tensor)
    one, two = tensor.others
    if t in (0.0, 1.0):
        return Copy(two if t else one)

    def vectors(block: Block) -> tuple[Floats, Floats]:
        read = block.delta if tensor.base is not None else block.__getitem__
        return read(one), read(two)

    def products(block: Block) -> list[tuple[Floats, Floats]]:
        a, b = vectors(block)
        return [(a, a), (b, b), (a, b)]

    by_columns = tensor.row is not None and tensor.flag("nuslerp_row_wise") and len(tensor.shape) > 1
    if tensor.row is None:
        dots = tensor.dots(products)[:, None]
    else:
        dots = tensor.column_dots(products) if by_columns else tensor.row_dots(products)
    keep, take = (share.astype(np.float32) for share in arcs(t, *dots))

    def blend(block: Block) -> Floats:
        a, b = vectors(block)
        for values, share in ((a, keep), (b, take)):
            if tensor.row is None:
                np.multiply(values, share[0], out=values)
            else:
                rows = block.rows(values)
                np.multiply(rows, share if by_columns else share[block.row_numbers, None], out=rows)
        np.add(a, b, out=a)
        if tensor.base is not None:
            np.add(a, block.base, out=a)
        return a

    return blend


def _rows(tensor: Tensor) -> int | None:
    if tensor.flag("nuslerp_flatten") or not tensor.size:
        return None
    # A vector's two ways are one: its first axis is its last.
    if len(tensor.shape) < 2 or not tensor.flag("nuslerp_row_wise"):
        return tensor.width
    return tensor.size // tensor.shape[0]


def _warns(tensor: Tensor, names: Sequence[str]) -> Sequence[str]:
    total = sum(tensor.number("weight", index) for index in tensor.others)
    if abs(total) >= TINY_WEIGHT:
        return ()
    return (f"the weights of {' and '.join(names[index] for index in tensor.others)} cancel: nuslerp then goes halfway",)


NUSLERP = Method(
    name="nuslerp",
    summary="spherical interpolation of two models or, with a base, of their deltas",
    source="Shoemake 1985, section 3.3; mergekit 0.1.5's nuslerp",
    merge=merge,
    parameters=(
        Parameter("weight", "how much of this model; only the ratio of the two counts", scope="other"),
        Parameter("nuslerp_flatten", "take each tensor as one vector", True, kind=bool),
        Parameter("nuslerp_row_wise", "not flattened: vectors along the first axis, not the last", False, kind=bool),
    ),
    base="optional",
    inputs=(2, 2),
    rows=_rows,
    warns=_warns,
)
