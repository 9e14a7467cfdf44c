"""What the methods beyond averages and TIES should give, as in `tests.merge.reference`: float64, whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from tests.merge.reference import NEAR, Expected, Kept, _largest, _rescaled, _undecided, keep_all


@dataclass(frozen=True)
class Given:
    """One tensor of a merge.

    Attributes:
        name: of the tensor.
        base: its values, or None where the method has no base.
        models: the values of all models but the base, in the recipe's order.
        each: a parameter of every one of them, with a default.
        shared: a parameter of all, with a default.
        everywhere: for methods that look at whole models: name -> base and models there.
        each_at: the same as `each` at another tensor.
        memo: what was found of the whole models, for all tensors of a merge.
    """

    name: str
    base: np.ndarray | None
    models: Sequence[np.ndarray]
    each: Callable[[str, Any], list[Any]]
    shared: Callable[[str, Any], Any]
    everywhere: Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]] = field(default_factory=dict)
    each_at: Callable[[str, str, Any], list[Any]] | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def deltas(self) -> list[np.ndarray]:
        assert self.base is not None
        return [x - self.base for x in self.models]


def close_call(values: np.ndarray, order: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Near and tied elements of one cut: the `rank` first of `order` lie above it, flat arrays."""
    nowhere = np.zeros(values.size, bool)
    if not 0 < rank < values.size:
        return nowhere, nowhere
    last, first_out = values[order[rank - 1]], values[order[rank]]
    above = np.zeros(values.size, bool)
    above[order[:rank]] = True
    margin = np.where(above, values - first_out, last - values)
    near = (margin > 0) & (margin <= NEAR * last)
    tied = (values == last) & (last > 0) if last == first_out else nowhere
    return near | (tied if near.any() else nowhere), tied


def keep_middle(delta: np.ndarray, density: float, gamma: float, rescale: bool) -> Kept:
    """Breadcrumbs: the int(d n) largest after the int(g n) largest."""
    if density >= 1:
        return keep_all(delta)
    magnitude = np.abs(delta).ravel()
    size = magnitude.size
    kept = int(density * size)
    outliers = min(int(gamma * size), size - kept)
    order = np.argsort(-magnitude, kind="stable")
    mask = np.zeros(size, bool)
    mask[order[outliers : outliers + kept]] = True
    calls = [close_call(magnitude, order, rank) for rank in ((outliers, outliers + kept) if kept else ())]
    near, tied = (np.any([call[k] for call in calls], axis=0) if calls else np.zeros(size, bool) for k in (0, 1))
    masked = np.where(mask.reshape(delta.shape), delta, 0.0)
    return Kept(_rescaled(delta, masked) if rescale else masked, near.reshape(delta.shape), tied.reshape(delta.shape))


def sce(given: Given) -> Expected:
    base, deltas = given.base, np.stack(given.deltas)
    topk, deltas_too = given.shared("select_topk", 1.0), given.shared("select", "deltas") == "deltas"
    near = tied = np.zeros(base.size, bool)
    mask = np.ones(base.shape, bool)
    if topk < 1:
        # the sum over pairs, for differences of stored values are exact in float64
        spread = sum((a - b) ** 2 for a, b in combinations(given.models, 2)) + np.zeros(base.shape)
        flat = np.sqrt(spread).ravel()
        count = int(np.count_nonzero(flat) * topk)
        order = np.argsort(-flat, kind="stable")
        chosen = np.zeros(base.size, bool)
        chosen[order[:count]] = True
        near, tied = close_call(flat, order, count)
        if len(deltas) > 2:
            near = near | tied
        mask = chosen.reshape(base.shape)
    picked = deltas * mask
    squares = np.array([np.mean(d**2) for d in picked])
    weights = squares / squares.sum() if squares.sum() >= 1e-6 else np.full(len(deltas), 1 / len(deltas))
    moving = picked if deltas_too else deltas
    column = weights.reshape(-1, *[1] * base.ndim)
    total = moving.sum(axis=0)
    agrees = np.sign(moving) == np.where(total >= 0, 1.0, -1.0)
    with np.errstate(invalid="ignore"):
        plainly_zero = (total == 0) & (moving.astype(np.float32).sum(axis=0, dtype=np.float32) == 0)
    size = np.abs(moving).max(axis=0)
    vote = (size > 0) & (np.abs(total) <= NEAR * size) & ~plainly_zero
    terms = np.where(agrees, column * moving, 0.0) / np.maximum((column * agrees).sum(axis=0), 1e-6)
    value = base + terms.sum(axis=0)
    reach = (near if deltas_too else np.zeros(base.size, bool)).reshape(base.shape)
    # Which of the equals are selected decides on the weights, and these on every element.
    swing = max((float((d.ravel()[tied] ** 2).sum() / max(1e-300, (p**2).sum())) for d, p in zip(deltas, picked, strict=True)))
    return Expected(value, _largest(value, base, *terms), vote | reach, tied.reshape(base.shape), loose=swing)


def model_stock(given: Given) -> Expected:
    base, deltas = given.base, given.deltas
    by_rows = given.shared("filter_wise", False)
    rows = [d.reshape(-1, d.shape[-1]) if by_rows else d.reshape(1, -1) for d in deltas]
    cosines = []
    for a, b in combinations(rows, 2):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines.append(np.clip((a * b).sum(axis=1) / np.maximum(norms, 1e-6), -1, 1))
    cosine, count = np.mean(cosines, axis=0), len(rows)
    below = 1 + (count - 1) * cosine
    t = np.where(np.abs(below) < 1e-6, 0.0, count * cosine / np.where(np.abs(below) < 1e-6, 1.0, below))
    terms = [(t[:, None] * row / count).reshape(base.shape) for row in rows]
    # t comes from sums over the deltas, however small it makes them
    return _undecided(base + sum(terms), base, *terms, *(delta / count for delta in deltas))


def nuslerp(given: Given) -> Expected:
    first, second = given.each("weight", None)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    vectors = given.models if given.base is None else given.deltas
    shape = vectors[0].shape
    if given.shared("nuslerp_flatten", True):
        a, b = (x.reshape(1, -1) for x in vectors)
    elif given.shared("nuslerp_row_wise", False) and len(shape) > 1:
        a, b = (x.reshape(shape[0], -1).T for x in vectors)
    else:
        a, b = (x.reshape(-1, shape[-1]) for x in vectors)
    norms = [np.maximum(np.linalg.norm(x, axis=1), 1e-7) for x in (a, b)]
    cosine = np.clip((a * b).sum(axis=1) / (norms[0] * norms[1]), -1, 1)
    line = 1 - cosine**2 <= 1e-16
    angle = np.arccos(np.where(line, 0, cosine))
    shares = [np.where(line, s, np.sin(s * angle) / np.sin(angle))[:, None] for s in (1 - t, t)]
    terms = [share * x for share, x in zip(shares, (a, b), strict=True)]
    if given.shared("nuslerp_row_wise", False) and not given.shared("nuslerp_flatten", True) and len(shape) > 1:
        terms = [term.T for term in terms]
    terms = [term.reshape(shape) for term in terms] + ([] if given.base is None else [given.base])
    return _undecided(np.sum(terms, axis=0), *terms)


def multislerp(given: Given) -> Expected:
    """As published, the step in the tangent space included."""
    if len(given.models) == 1:
        return _undecided(given.models[0])
    vectors = np.stack([x.ravel() for x in (given.models if given.base is None else given.deltas)])
    weights = np.array(given.each("weight", None), float)
    eps = given.shared("eps", 1e-8)
    if given.shared("normalize_weights", True):
        weights = weights / weights.sum()
    norms = np.linalg.norm(vectors, axis=1)
    units = vectors / (norms + eps)[:, None]
    mean = weights @ units
    mean = mean / np.linalg.norm(mean)
    tangents = units - np.outer(units @ mean, mean)
    step = weights @ tangents
    size = np.linalg.norm(step) + eps
    merged = (mean * np.cos(size) + step * np.sin(size) / size) * float(weights @ norms)
    terms = [merged.reshape(given.models[0].shape)] + ([] if given.base is None else [given.base])
    # what is summed are the models' own shares of the result
    shares = [(x * np.linalg.norm(merged) / max(1e-300, np.linalg.norm(weights @ units)) / n).reshape(terms[0].shape)
              for x, n in zip(vectors, norms + eps, strict=True)]  # fmt: skip
    return _undecided(np.sum(terms, axis=0), *terms, *(w * s for w, s in zip(weights, shares, strict=True)))


def karcher(given: Given) -> Expected:
    vectors = [x.ravel() for x in given.models]
    if len(vectors) == 1:
        return _undecided(given.models[0])
    tol = given.shared("tol", 1e-5)
    norms = [np.linalg.norm(x) for x in vectors]
    units = [x / n for x, n in zip(vectors, norms, strict=True) if n > tol]
    if not units:
        return _undecided(np.zeros(given.models[0].shape), *given.models)
    mean = np.mean(units, axis=0)
    size = np.linalg.norm(mean)
    mean = mean / size if size >= tol else units[0]
    for _ in range(given.shared("max_iter", 10)):
        tangent = np.zeros_like(mean)
        for unit in units:
            along = np.clip(mean @ unit, -1, 1)
            angle = np.arccos(along)
            if angle >= tol:
                tangent = tangent + angle / np.sin(angle) * (unit - along * mean) / len(units)
        size = np.linalg.norm(tangent)
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) * tangent / size
        mean = mean / np.linalg.norm(mean)
    value = (np.mean(norms) * mean).reshape(given.models[0].shape)
    return _undecided(value, *(x / len(vectors) for x in given.models))


def arcee_fusion(given: Given) -> Expected:
    (theirs,), base = given.models, given.base

    def softmax(x: np.ndarray) -> np.ndarray:
        raised = np.exp(x - x.max(axis=-1, keepdims=True))
        return raised / raised.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(theirs), softmax(base)
    importance = np.abs(theirs - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    low, median, high = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = median + 1.5 * (high - low)
    value = np.where(importance >= threshold, theirs, base)
    apart = np.abs(importance - threshold)
    # mergekit adds first-order terms in float32 that cancel to the second order, and sorts what comes out
    return Expected(value, _largest(value), apart <= 2 * NEAR * threshold, apart <= 2e-3 * threshold)


def nearswap(given: Given) -> Expected:
    delta = given.deltas[0]
    share = np.clip(given.shared("t", None) / np.maximum(np.abs(delta), 1e-6), 0, 1)
    return _undecided(given.base + share * delta, given.base, given.models[0])


def ram(given: Given, plus: bool = False) -> Expected:
    deltas, epsilon = np.stack(given.deltas), given.shared("epsilon", 1e-5)
    changed = np.abs(deltas) > epsilon
    count = changed.sum(axis=0)
    strengths = np.ones(len(deltas))
    if plus:
        shared = [(c & (count > 1)).sum() for c in changed]
        unique = [max((c & (count == 1)).sum(), epsilon) for c in changed]
        overlap = [min(s / u, given.shared("alpha", 0.2)) for s, u in zip(shared, unique, strict=True)]
        strengths = 1 + given.shared("r", 0.1) * np.array(overlap)
    terms = np.stack(
        [
            np.where(c, np.where(count == 1, strength, 1 / np.maximum(count, 1)) * d, 0.0)
            for c, d, strength in zip(changed, deltas, strengths, strict=True)
        ]
    )
    near = (np.abs(np.abs(deltas) - epsilon) <= NEAR * epsilon).any(axis=0)
    value = given.base + terms.sum(axis=0)
    return Expected(value, _largest(value, given.base, *terms), near, np.zeros(value.shape, bool))


def passthrough(given: Given) -> Expected:
    (scale,) = given.each("scale", 1.0)
    plain = _undecided(scale * given.models[0])
    return Expected(plain.value, plain.largest, plain.near, plain.tied, exact=scale == 1)


def widen(given: Given) -> Expected:
    base, deltas = given.base, np.stack(given.deltas)
    ratio, calibration = given.shared("above_average_value_ratio", 1.0), given.shared("score_calibration_value", 1.0)

    def scores(significance: np.ndarray, means: np.ndarray) -> np.ndarray:
        raised = np.exp(significance - significance.max(axis=0))
        return np.where(significance > ratio * means[:, None], calibration, raised / raised.sum(axis=0))

    if base.ndim == 1:
        size = np.abs(deltas)
        factors = scores(size, size.mean(axis=1))
        cut = ratio * size.mean(axis=1)[:, None]
        near = (np.abs(size - cut) <= 4 * NEAR * cut).any(axis=0)
    else:
        across = given.name.endswith("embed_tokens.weight")
        parts = [(x.T if across else x) for x in (base, *given.models)]  # columns are what is ranked
        lengths = [np.linalg.norm(x, axis=0) for x in parts]
        places = base.shape[0 if across else 1]
        factors, near = np.zeros((len(deltas), places)), np.zeros(places, bool)
        turned = []
        for x, length in zip(parts[1:], lengths[1:], strict=True):
            apart = x / length - parts[0] / lengths[0]  # |u - v|^2 = 2 (1 - cos), without the cancellation
            turned.append((apart**2).sum(axis=0) / 2)
        longer = [np.abs(length - lengths[0]) for length in lengths[1:]]
        for changes in (np.stack(longer), np.stack(turned)):
            order = np.argsort(changes, axis=1, kind="stable")
            ranks = np.argsort(order, axis=1, kind="stable") / places
            factors += scores(ranks, np.full(len(deltas), (places - 1) / 2 / places)) / 2
            for row, sequence in zip(changes, order, strict=True):
                gap = np.diff(row[sequence]) <= 1e-9 * row[sequence[1:]]
                near[sequence[1:][gap]] = near[sequence[:-1][gap]] = True
        factors = factors[:, :, None] if across else factors[:, None, :]
        near = np.broadcast_to(near[:, None] if across else near[None, :], base.shape)
    terms = factors * deltas
    value = base + terms.sum(axis=0)
    return Expected(value, _largest(value, base, *terms), near, np.zeros(value.shape, bool))


def located(given: Given, model: int, density: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The largest deltas of one model over all tensors of one density: kept and near, by tensor."""
    at = given.each_at
    together = [
        name for name in given.everywhere if at(name, "density", 0.1)[model] == density and at(name, "weight", 1.0)[model] != 0
    ]
    sizes = [np.abs(given.everywhere[name][1][model] - given.everywhere[name][0]).ravel() for name in together]
    everything = np.concatenate(sizes)
    count = max(1, int(density * everything.size))
    order = np.argsort(-everything, kind="stable")
    chosen = np.zeros(everything.size, bool)
    chosen[order[:count]] = True
    close, _ = close_call(everything, order, count)
    ends = np.cumsum([size.size for size in sizes])[:-1]
    return tuple(dict(zip(together, np.split(flags, ends), strict=True)) for flags in (chosen, close))


def localize_and_stitch(given: Given) -> Expected:
    base, weights, densities = given.base, given.each("weight", 1.0), given.each("density", 0.1)
    masks, near = [], np.zeros(base.shape, bool)
    for model, density in enumerate(densities):
        if weights[model] == 0 or not 0 < density < 1:
            masks.append(np.full(base.shape, float(weights[model] != 0 and density >= 1)))
            continue
        if (model, density) not in given.memo:
            given.memo[model, density] = located(given, model, density)
        kept, close = given.memo[model, density]
        masks.append(kept[given.name].reshape(base.shape).astype(float))
        near = near | close[given.name].reshape(base.shape)
    count = np.maximum(np.sum(masks, axis=0), 1)
    terms = [given.shared("lambda", 1.0) * w * m * d / count for w, m, d in zip(weights, masks, given.deltas, strict=True)]
    value = base + np.sum(terms, axis=0)
    return Expected(value, _largest(value, base, *terms), near, np.zeros(base.shape, bool))


RULES: dict[str, Callable[[Given], Expected]] = {
    "sce": sce,
    "model_stock": model_stock,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "ram": ram,
    "ramplus_tl": lambda given: ram(given, plus=True),
    "passthrough": passthrough,
    "widen": widen,
    "localize_and_stitch": localize_and_stitch,
}
# The base is one of the models, or there is none.
WITHOUT_BASE = ("karcher", "passthrough")
