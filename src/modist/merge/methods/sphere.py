"""Means on a sphere, of any number of models: `multislerp` and the Karcher mean.

Both are sums sum_i c_i theta_i whose coefficients depend on the tensors' dot products alone: one survey finds those, and the
iterations run on a few numbers instead of on tensors.

    multislerp    u_i = x_i / (|x_i| + eps),   s = sum_i w_i u_i,   theta = [base +] r s / |s|,   r = sum_i w_i |x_i|
    karcher       mu minimises sum_i angle(mu, u_i)^2 on the sphere,   theta = mu mean_i |x_i|

multislerp is published as a weighted mean in the tangent space at m = s / |s|, but that mean is s - (s . m) m = 0: the step it
takes vanishes, and what is left is the line above.

Sources: C. Goddard 2025, multislerp (goddard.blog/posts/multislerp-wow-what-a-cool-idea); Karcher 1977 and, for merging,
arXiv 2603.04972; parameters as in mergekit 0.1.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import Floats
from modist.errors import MergeError
from modist.merge.method import Method, Parameter
from modist.merge.tensor import Answer, Block, Copy, Tensor

Values = npt.NDArray[np.float64]
# Half a turn has no direction: opposite to within rounding, a vector pulls nowhere.
OPPOSITE = -1 + 1e-12


def gram(tensor: Tensor, read: Callable[[Block, int], Floats], inputs: tuple[int, ...]) -> Values:
    """Dot products of all pairs of inputs, float64 [N, N]."""
    pairs = [(a, b) for a in range(len(inputs)) for b in range(a, len(inputs))]

    def products(block: Block) -> list[tuple[Floats, Floats]]:
        vectors = [read(block, index) for index in inputs]
        return [(vectors[a], vectors[b]) for a, b in pairs]

    found = np.zeros((len(inputs), len(inputs)))
    for (a, b), dot in zip(pairs, tensor.dots(products), strict=True):
        found[a, b] = found[b, a] = dot
    return found


def length(coefficients: Values, dots: Values) -> float:
    """|sum_i c_i x_i| from the vectors' dot products."""
    return math.sqrt(max(0.0, float(coefficients @ dots @ coefficients)))


def multislerp(dots: Values, weights: Values, eps: float) -> Values:
    """The coefficients of the x_i; ValueError where more than two weighted directions cancel."""
    norms = np.sqrt(np.diag(dots))
    directions = weights / (norms + eps)
    total = length(directions, dots)
    if total < eps:
        if len(weights) > 2:
            raise ValueError
        return weights
    # The tangent step is eps long where the vanished mean is: mergekit's guard against 0 / 0.
    return directions / total * math.cos(eps) * float(weights @ norms)


def karcher(dots: Values, max_iter: int, tol: float) -> Values:
    """The coefficients of the x_i: Riemannian gradient steps of full length from the normalised mean of directions."""
    norms = np.sqrt(np.diag(dots))
    valid = norms > tol
    if not valid.any():
        return np.zeros(len(norms))
    share = valid / valid.sum()
    safe = np.where(valid, norms, 1.0)
    cosines = dots / np.outer(safe, safe)  # of the unit vectors u_i

    mean = share.copy()
    size = length(mean, cosines)
    mean = mean / size if size >= tol else np.eye(len(norms))[int(np.argmax(valid))]
    for _ in range(max_iter):
        along = np.clip(cosines @ mean, -1, 1)
        angle = np.arccos(along)
        pulls = valid & (angle >= tol) & (along > OPPOSITE)
        strength = np.where(pulls, share * angle / np.where(pulls, np.sin(angle), 1.0), 0.0)
        tangent = strength - float(strength @ along) * mean
        step = length(tangent, cosines)
        if step < tol:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        size = length(mean, cosines)
        if size > tol:
            mean = mean / size
    found: Values = mean / safe * float(norms.mean())
    return found


def combine(tensor: Tensor, inputs: tuple[int, ...], coefficients: Values) -> Answer:
    """[base +] sum_i c_i x_i."""
    factors = [(index, np.float32(c)) for index, c in zip(inputs, coefficients, strict=True)]

    def blend(block: Block) -> Floats:
        merged = None if tensor.base is None else block.base.copy()
        for index, factor in factors:
            term = block[index] if tensor.base is None else block.delta(index)
            np.multiply(term, factor, out=term)
            merged = term if merged is None else np.add(merged, term, out=merged)
        assert merged is not None
        return merged

    return blend


def _multislerp(tensor: Tensor) -> Answer:
    inputs = tensor.others
    if len(inputs) == 1:
        return Copy(inputs[0])
    weights = np.array([tensor.number("weight", index) for index in inputs])
    if tensor.flag("normalize_weights"):
        weights = weights / weights.sum()
    read = Block.__getitem__ if tensor.base is None else Block.delta
    try:
        return combine(tensor, inputs, multislerp(gram(tensor, read, inputs), weights, tensor.number("eps")))
    except ValueError:
        raise MergeError(
            f"multislerp: the weighted directions of tensor {tensor.name!r} cancel, so their mean has none; change the weights"
        ) from None


def _karcher(tensor: Tensor) -> Answer:
    inputs = tuple(range(len(tensor.sources)))
    if len(inputs) == 1:
        return Copy(0)
    dots = gram(tensor, Block.__getitem__, inputs)
    return combine(tensor, inputs, karcher(dots, int(tensor.number("max_iter")), tensor.number("tol")))


def _refuses(tensor: Tensor) -> str | None:
    total = math.fsum(tensor.number("weight", index) for index in tensor.others)
    normalize = tensor.flag("normalize_weights") and len(tensor.others) > 1
    return "the weights sum to 0, which cannot be normalised" if normalize and total == 0 else None


MULTISLERP = Method(
    name="multislerp",
    summary="the weighted mean of the models' directions, at their mean length; with a base, of their deltas",
    source="C. Goddard 2025, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    merge=_multislerp,
    parameters=(
        Parameter("weight", "how much of this model", scope="other"),
        Parameter("normalize_weights", "divide the weights by their sum", True, kind=bool),
        Parameter("eps", "added to every norm", 1e-8, low=0, high=1),
    ),
    base="optional",
    refuses=_refuses,
)
KARCHER = Method(
    name="karcher",
    summary="the point of the sphere nearest to all models' directions (the Karcher mean), at their mean length",
    source="Karcher 1977, Riemannian center of mass; for merging arXiv 2603.04972",
    merge=_karcher,
    parameters=(
        Parameter("max_iter", "steps at most", 10, kind=int, low=0, high=10_000),
        Parameter("tol", "the step that ends it, and the norm of a tensor that counts as zero", 1e-5, low=0, high=1),
    ),
)
