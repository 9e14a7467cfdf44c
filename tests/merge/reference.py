"""What every method should give: float64, whole tensors, one plain function each, nothing shared with modist.

Where a method decides (what to trim, which sign wins) a computation in fp32 may fairly decide otherwise when
the two sides are closer than fp32 can tell.  `Expected.near` marks those elements (1e-6 relative), to be
counted apart.  An exact tie at the trim threshold is no such element, since the lower flat index wins it; but
other programs break it as they like, so `Expected.tied` marks it for comparisons with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_models import SAFETENSORS_NAMES, Tensor, Trio, encode, read_folder, spacing

NEAR = 1e-6


@dataclass(frozen=True)
class Expected:
    """The true result of one tensor.

    Attributes:
        value: float64, not yet rounded to `dtype`.
        largest: the largest term of the sum behind each element, the result included; errors are measured in
            its last place.
        near: elements whose decision lies within 1e-6 relative.
        tied: elements of exactly the threshold's magnitude, in some parent.
        dtype: of the output, as safetensors writes it.
        exact: the output is some parent's element itself, so that it must agree to the bit.
        loose: how far, relative to the largest term, breaking ties otherwise may move every element.
    """

    value: np.ndarray
    largest: np.ndarray
    near: np.ndarray
    tied: np.ndarray
    dtype: str = "BF16"
    exact: bool = False
    loose: float = 0.0


def _undecided(value: np.ndarray, *terms: np.ndarray) -> Expected:
    """A result without decisions."""
    nowhere = np.zeros(value.shape, bool)
    return Expected(value, _largest(value, *terms), nowhere, nowhere)


def _largest(*terms: np.ndarray) -> np.ndarray:
    return np.max(np.abs(np.stack(np.broadcast_arrays(*terms))), axis=0)


# -------------------------------------------------------------- averages


def linear(tensors: Sequence[np.ndarray], weights: Sequence[float], normalize: bool = True) -> Expected:
    """sum_i w_i x_i, over sum_i w_i when `normalize`."""
    total = sum(weights) if normalize else 1.0
    terms = [weight * x / total for weight, x in zip(weights, tensors, strict=True)]
    return _undecided(np.sum(terms, axis=0), *terms)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> Expected:
    """The arc from a to b seen as two flat vectors; the straight line where they are all but parallel."""
    unit = [x / norm if (norm := np.sqrt(np.sum(x * x))) > 1e-8 else x for x in (a, b)]
    cosine = float(np.clip(np.sum(unit[0] * unit[1]), -1, 1))
    if abs(cosine) > 0.9995:
        share_a, share_b = 1 - t, t
    else:
        angle = np.arccos(cosine)
        share_a, share_b = (np.sin(s * angle) / np.sin(angle) for s in (1 - t, t))
    return _undecided(share_a * a + share_b * b, share_a * a, share_b * b)


# -------------------------------------------------------------- vectors


@dataclass(frozen=True)
class Kept:
    """A delta after sparsifying: what stays, and where that was a close thing."""

    delta: np.ndarray
    near: np.ndarray
    tied: np.ndarray


def keep_all(delta: np.ndarray) -> Kept:
    nowhere = np.zeros(delta.shape, bool)
    return Kept(delta, nowhere, nowhere)


def trim(delta: np.ndarray, density: float, rescale: bool = False) -> Kept:
    """Keep the k = max(1, int(density n)) largest magnitudes; of equal ones, those of lower flat index."""
    if density >= 1:
        return keep_all(delta)
    if density <= 0:
        return keep_all(np.zeros_like(delta))
    magnitude = np.abs(delta).ravel()
    k = max(1, int(density * magnitude.size))
    order = np.argsort(-magnitude, kind="stable")
    kept = np.zeros(magnitude.size, bool)
    kept[order[:k]] = True
    near, tied = np.zeros_like(kept), np.zeros_like(kept)
    if k < magnitude.size:
        last, first_out = magnitude[order[k - 1]], magnitude[order[k]]
        margin = np.where(kept, magnitude - first_out, last - magnitude)
        near = (margin > 0) & (margin <= NEAR * last)
        if last == first_out:
            tied = (magnitude == last) & (last > 0)
            if near.any():  # which of the equals win then hangs on the close ones too
                near |= tied
    shape = delta.shape
    masked = np.where(kept.reshape(shape), delta, 0.0)
    return Kept(_rescaled(delta, masked) if rescale else masked, near.reshape(shape), tied.reshape(shape))


def drop(delta: np.ndarray, mask: np.ndarray, rescale: bool = True) -> Kept:
    """DARE with a given mask (True: kept); `rescale` restores the tensor's L1 norm, as mergekit does."""
    masked = np.where(mask, delta, 0.0)
    return keep_all(_rescaled(delta, masked) if rescale else masked)


def _rescaled(delta: np.ndarray, masked: np.ndarray) -> np.ndarray:
    before, after = np.abs(delta).sum(), np.abs(masked).sum()
    return masked if before < 1e-7 or after < 1e-7 else masked * (before / after)


def task_vectors(
    base: np.ndarray,
    deltas: Sequence[Kept],
    weights: Sequence[float],
    *,
    consensus: bool,
    normalize: bool,
    lam: float = 1.0,
) -> Expected:
    """base + lam * sum of weighted deltas that agree in sign, over those deltas' weights if `normalize`."""
    terms = np.stack([weight * kept.delta for weight, kept in zip(weights, deltas, strict=True)])
    near = np.any([kept.near for kept in deltas], axis=0)
    tied = np.any([kept.tied for kept in deltas], axis=0)
    column = np.asarray(weights, float).reshape(-1, *[1] * base.ndim)
    if consensus:
        total = terms.sum(axis=0)
        majority = np.where(total >= 0, 1.0, -1.0)
        agrees = np.sign(terms) == majority
        largest = np.abs(terms).max(axis=0)
        # A sum of exactly 0 counts as +, and fp32 finds the same 0 unless its rounding gets between.
        with np.errstate(invalid="ignore"):
            in_single = (terms.astype(np.float32)).sum(axis=0, dtype=np.float32)
        plainly_zero = (total == 0) & (in_single == 0)
        near = near | ((largest > 0) & (np.abs(total) <= NEAR * largest) & ~plainly_zero)
        divisor = (column * agrees).sum(axis=0)
        divisor = np.where(divisor == 0, 1.0, divisor)
        terms = np.where(agrees, terms, 0.0)
    else:
        whole = float(sum(weights))
        divisor = np.full(base.shape, 1.0 if abs(whole) < 1e-8 else whole)
    scale = lam / divisor if normalize else np.full(base.shape, lam)
    value = base + scale * terms.sum(axis=0)
    return Expected(value, _largest(value, base, *(scale * terms)), near, tied)


# -------------------------------------------------------------- mod


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Any floats -> float32 that hold bfloat16 values, rounded to nearest even."""
    return encode(x, "BF16").float64.astype(np.float32)


def mod_minmax(experts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The released code's rule in its own arithmetic: bfloat16 values, every operation rounded to bfloat16.

    u = (x - min) / (max - min) of expert 0; an element comes from the first expert whose cumulative weight
    (rounded too) exceeds u, else from the last.  A constant tensor is u = 0.  The element is the expert's as
    stored, which only an output wider than the released code's can show.
    """
    first = to_bfloat16(experts[0])
    low, high = first.min(), first.max()
    width = to_bfloat16(high - low)
    u = to_bfloat16(to_bfloat16(first - low) / width) if width > 0 else np.zeros_like(first)
    value = np.array(experts[-1], float)
    for i in reversed(range(len(experts) - 1)):
        threshold = to_bfloat16(np.asarray(sum(weights[: i + 1])))
        value = np.where(u < threshold, experts[i], value)
    return value


def mod_quantile(experts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Expert i gives round(n A_i) - round(n A_{i-1}) elements by rank of expert 0's values, ties by index."""
    size = experts[0].size
    order = np.argsort(experts[0].ravel(), kind="stable")
    owner = np.empty(size, int)
    begin = 0
    for i in range(len(experts)):
        end = size if i == len(experts) - 1 else round(size * sum(weights[: i + 1]))
        owner[order[begin:end]] = i
        begin = end
    return np.stack([x.ravel() for x in experts])[owner, np.arange(size)].reshape(experts[0].shape)


# -------------------------------------------------------------- recipes


def setting(value: Any, tensor: str, depth: float) -> Any:
    """A scalar, a gradient over depth, or the first matching `filter`; None where nothing matches."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for case in value:
            if case.get("filter") in (None, "*") or case["filter"] in tensor:
                return setting(case["value"], tensor, depth)
        return None
    if isinstance(value, list):
        place = depth * (len(value) - 1)
        low = int(place)
        high = min(low + 1, len(value) - 1)
        return (1 - (place - low)) * value[low] + (place - low) * value[high]
    return value


def depth_of(tensor: str, layers: int) -> float:
    """0 at the first layer, 1 at the last; 0 outside the layers."""
    found = re.search(r"\.layers\.(\d+)\.", tensor)
    return int(found[1]) / (layers - 1) if found else 0.0


def expected_tensors(
    recipe: Mapping[str, Any], layers: int, masks: Callable[[str, int], np.ndarray] | None = None
) -> Iterator[tuple[str, Expected]]:
    """Every tensor of the merge a recipe (as plain data, in either dialect) asks for.

    Args:
        recipe: with paths of local folders.
        layers: of the models.
        masks: for DARE: a tensor's name and a model's place among those but the base -> what is kept.
    """
    from tests.merge import reference_others

    if "experts" in recipe:
        yield from _expected_mod(recipe)
        return
    if "slices" in recipe:
        (part,) = recipe["slices"]
        sources, shared = part["sources"], [part.get("parameters"), recipe.get("parameters")]
    else:
        sources, shared = recipe["models"], [recipe.get("parameters")]
    base = recipe.get("base_model")
    folders = [source["model"] for source in sources]
    stored = {folder: read_folder(Path(folder)) for folder in {*folders, *([base] if base else [])}}
    donor = stored[base or folders[0]]
    everywhere: dict[str, Any] = {}
    memo: dict[Any, Any] = {}

    for name, tensor in donor.items():
        depth = depth_of(name, layers)

        def look(parameter: str, place: int | None, default: Any, name: str = name, depth: float = depth) -> Any:
            own = [] if place is None else [sources[place].get("parameters")]
            for scope in [*own, *shared]:
                if scope and parameter in scope and (found := setting(scope[parameter], name, depth)) is not None:
                    return found
            assert default is not None, f"{parameter} is required for {name}"
            return default

        def mask(place: int, name: str = name) -> np.ndarray:
            assert masks is not None, "DARE needs masks below density 1"
            return masks(name, place)

        method = recipe["merge_method"]
        x = {folder: tensors[name].float64 for folder, tensors in stored.items()}
        if method == "linear":
            weights = [look("weight", i, None) for i in range(len(folders))]
            result = linear([x[f] for f in folders], weights, look("normalize", None, True))
        elif method == "slerp":
            (other,) = (folder for folder in folders if folder != base)
            result = slerp(x[base], x[other], look("t", None, None))
        elif method in reference_others.RULES:
            origin = None if method in reference_others.WITHOUT_BASE else base
            moved = [i for i, folder in enumerate(folders) if folder != origin]

            def each_at(
                tensor: str, parameter: str, default: Any, moved: list[int] = moved, look: Callable[..., Any] = look
            ) -> list[Any]:
                return [look(parameter, i, default, tensor, depth_of(tensor, layers)) for i in moved]

            def each(parameter: str, default: Any, at: Callable[..., list[Any]] = each_at, name: str = name) -> list[Any]:
                return at(name, parameter, default)

            def shared_one(parameter: str, default: Any, look: Callable[..., Any] = look) -> Any:
                return look(parameter, None, default)

            if method == "localize_and_stitch" and not everywhere:
                everywhere = {
                    other: (tensors.float64, [stored[folders[i]][other].float64 for i in moved])
                    for other, tensors in donor.items()
                }
            origin_values = None if origin is None else x[origin]
            models = [x[folders[i]] for i in moved]
            given = reference_others.Given(name, origin_values, models, each, shared_one, everywhere, each_at, memo)
            result = reference_others.RULES[method](given)
        else:
            others = [i for i, folder in enumerate(folders) if folder != base]
            sparse, consensus = METHODS[method]
            rescale = look("rescale", None, sparse in ("dare", "della"))
            kept = []
            for place, i in enumerate(others):
                delta, density = x[folders[i]] - x[base], look("density", i, 1.0)
                if sparse == "trim":
                    kept.append(trim(delta, density, rescale))
                elif sparse == "middle":
                    kept.append(reference_others.keep_middle(delta, density, look("gamma", i, 0.01), rescale))
                elif sparse in ("dare", "della") and density < 1:
                    kept.append(drop(delta, mask(place), rescale))
                else:
                    kept.append(keep_all(delta))
            result = task_vectors(
                x[base],
                kept,
                [look("weight", i, None) for i in others],
                consensus=consensus,
                normalize=look("normalize", None, method in ("ties", "della")),
                lam=look("lambda", None, 1.0),
            )
        yield name, _as(result, _out_dtype(recipe, tensor))


# method -> what thins the deltas, and whether signs must agree
METHODS = {
    "task_arithmetic": (None, False),
    "ties": ("trim", True),
    "dare_linear": ("dare", False),
    "dare_ties": ("dare", True),
    "breadcrumbs": ("middle", False),
    "breadcrumbs_ties": ("middle", True),
    "della": ("della", True),
    "della_linear": ("della", False),
}


def _expected_mod(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Expected]]:
    stored = [read_folder(Path(expert["source_model"])) for expert in recipe["experts"]]
    weights = recipe["weights"]
    assert recipe.get("select", "threshold") == "threshold", "random selection has no one result"
    minmax = recipe.get("normalize", "minmax") == "minmax"
    rule = mod_minmax if minmax else mod_quantile
    for name, tensor in stored[0].items():
        value = tensor.float64
        if recipe.get("scope", "mlp") == "all" or "mlp" in name:
            value = rule([tensors[name].float64 for tensors in stored], weights)
        # the released code loads everything as bfloat16, so that is what it writes
        dtype = _out_dtype(recipe, Tensor("BF16", tensor.bits) if minmax else tensor)
        plain = _undecided(value)
        yield name, Expected(plain.value, plain.largest, plain.near, plain.tied, dtype, exact=True)


def _out_dtype(recipe: Mapping[str, Any], donor: Tensor) -> str:
    asked = recipe.get("out_dtype") or recipe.get("dtype")
    return SAFETENSORS_NAMES[asked] if asked else donor.dtype


def _as(result: Expected, dtype: str) -> Expected:
    return Expected(result.value, result.largest, result.near, result.tied, dtype, result.exact, result.loose)


# -------------------------------------------------------------- measured


@dataclass(frozen=True)
class Errors:
    """How far one written tensor is from the truth, over the elements that count.

    Attributes:
        units: the worst error in bfloat16 units in the last place of the largest term.
        rounding: the worst error in units of the output's last place at the result's size; 0.5 is perfect.
        maximum, mean: absolute errors.
        count, near, tied: elements, and those counted apart.
    """

    units: float
    rounding: float
    maximum: float
    mean: float
    count: int
    near: int
    tied: int


def measure(written: Tensor, expected: Expected, *, without: np.ndarray | None = None) -> Errors:
    """Errors of a tensor, leaving out near decisions and, with `without`, more."""
    assert written.bits.shape == expected.value.shape
    apart = expected.near if without is None else expected.near | without
    error = np.where(apart, 0.0, np.abs(written.float64 - expected.value))
    error = np.where(np.isfinite(error), error, np.inf)
    # fp32 may err by some units of its own in the largest term (the factor that restores a norm too)
    slack = 16 * spacing(expected.largest, "F32")
    counted = max(1, int((~apart).sum()))
    return Errors(
        units=float((error / spacing(expected.largest, "BF16")).max(initial=0)),
        rounding=float((np.maximum(error - slack, 0) / spacing(expected.value, expected.dtype)).max(initial=0)),
        maximum=float(error.max(initial=0)),
        mean=float(error.sum() / counted),
        count=error.size,
        near=int(expected.near.sum()),
        tied=int(expected.tied.sum()),
    )


# -------------------------------------------------------------- on

Case = Callable[[Trio], dict[str, Any]]


def _models(*entries: tuple[Path, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"model": str(model), **({"parameters": dict(given)} if given else {})} for model, given in entries]


def _linear(weights: tuple[Any, Any], parameters: Mapping[str, Any] | None = None) -> Case:
    def make(trio: Trio) -> dict[str, Any]:
        first, second = ({"weight": w} for w in weights)
        made = {"merge_method": "linear", "models": _models((trio.one, first), (trio.two, second))}
        return made | ({"parameters": dict(parameters)} if parameters else {})

    return make


def _slerp(t: Any) -> Case:
    return lambda trio: {
        "merge_method": "slerp",
        "base_model": str(trio.base),
        "models": _models((trio.base, {}), (trio.two, {})),
        "parameters": {"t": t},
    }


def _task(method: str, first: Mapping[str, Any], second: Mapping[str, Any], **shared: Any) -> Case:
    return lambda trio: {
        "merge_method": method,
        "base_model": str(trio.base),
        "models": _models((trio.base, {}), (trio.one, first), (trio.two, second)),
        **({"parameters": {key.replace("lam", "lambda"): value for key, value in shared.items()}} if shared else {}),
    }


def _in_slices(trio: Trio) -> dict[str, Any]:
    """Every level at once: the source speaks before the slice, the slice before the recipe."""
    whole = {"layer_range": [0, trio.layers]}
    return {
        "merge_method": "ties",
        "base_model": str(trio.base),
        "slices": [
            {
                "sources": [
                    {"model": str(trio.base), **whole},
                    {
                        "model": str(trio.one),
                        **whole,
                        "parameters": {"weight": [{"filter": "mlp", "value": 0.9}]},
                    },
                    {"model": str(trio.two), **whole, "parameters": {"density": [0.3, 0.8]}},
                ],
                "parameters": {"weight": [{"filter": "self_attn", "value": [0.2, 0.7]}]},
            }
        ],
        "parameters": {"weight": 0.45, "density": 0.6, "normalize": False, "lambda": 0.8},
    }


def _mod(*weights: float, **more: Any) -> Case:
    return lambda trio: {
        "base_model": str(trio.one),
        "experts": [{"source_model": str(f)} for f in (trio.one, trio.two, trio.base)[: len(weights)]],
        "model_kwargs": [{"device_map": "cuda"}, {"low_cpu_mem_usage": True}],
        "weights": list(weights),
        **more,
    }


# Weights are no small ratios of each other: on bfloat16's coarse grid those make sums zero but for rounding.
MERGEKIT_CASES: dict[str, Case] = {
    "linear": _linear((0.6, 0.37)),
    "linear-raw": _linear((0.6, 0.7), {"normalize": False}),
    "linear-extrapolate": _linear((1.5, -0.5)),
    "linear-gradient": _linear(([0.1, 0.9], [1.0, 0.25, 0.5])),
    "linear-filter": _linear(
        (
            [{"filter": "mlp", "value": 0.9}, {"filter": "self_attn", "value": [0.1, 0.7]}, {"value": 0.5}],
            0.31,
        )
    ),
    "linear-precedence": _linear(([{"filter": "mlp", "value": 0.9}], 0.31), {"weight": 0.45}),
    "slerp": _slerp(0.3),
    "slerp-ends": _slerp([0.0, 1.0]),
    "slerp-paper": _slerp(
        [
            {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
            {"filter": "mlp", "value": [1, 0.2]},
            {"value": 0.1},
        ]
    ),
    "slerp-near": lambda trio: _slerp(0.7)(Trio(trio.base, trio.two, trio.one)),
    "task_arithmetic": _task("task_arithmetic", {"weight": 0.6}, {"weight": 0.37}),
    "task_arithmetic-normalize": _task("task_arithmetic", {"weight": 0.6}, {"weight": 0.7}, normalize=True, lam=0.7),
    "task_arithmetic-cancel": _task("task_arithmetic", {"weight": 0.5}, {"weight": -0.5}, normalize=True),
    "task_arithmetic-gradient": _task("task_arithmetic", {"weight": [0.2, 1.1]}, {"weight": [0.9, 0.1, 0.4]}),
    "ties": _task("ties", {"weight": 0.6, "density": 0.5}, {"weight": 0.37, "density": 0.5}),
    "ties-densities": _task(
        "ties", {"weight": 0.6, "density": 0.2}, {"weight": 1.1, "density": 0.83}, normalize=False, lam=1.3
    ),
    "ties-gradient": _task(
        "ties",
        {"weight": 0.6, "density": [1, 0.3]},
        {
            "weight": [{"filter": "mlp", "value": 0.71}, {"value": 0.37}],
            "density": [{"filter": "mlp", "value": 0.2}],
        },
    ),
    "ties-rescale": _task("ties", {"weight": 0.6, "density": 0.5}, {"weight": 0.37, "density": 0.3}, rescale=True),
    "ties-slices": _in_slices,
    "ties-negative": _task("ties", {"weight": 0.6, "density": 0.7}, {"weight": -0.37, "density": 0.4}, normalize=False),
    "ties-cancel": _task("ties", {"weight": 0.5, "density": 0.8}, {"weight": -0.5, "density": 0.9}),
    "dare_linear-dense": _task("dare_linear", {"weight": 0.6}, {"weight": 0.37, "density": 1.0}),
    "dare_ties-dense": _task("dare_ties", {"weight": 0.6, "density": 1}, {"weight": 0.37}, lam=0.9),
}


def _pair(method: str, *, base: bool = True, first: Any = (), second: Any = (), **shared: Any) -> Case:
    """A method on both fine-tunes, with a base or without."""
    return lambda trio: {
        "merge_method": method,
        **({"base_model": str(trio.base)} if base else {}),
        "models": _models((trio.one, dict(first)), (trio.two, dict(second))),
        **({"parameters": shared} if shared else {}),
    }


def _single(method: str, **shared: Any) -> Case:
    """A method of the base and one other model."""
    return lambda trio: {
        "merge_method": method,
        "base_model": str(trio.base),
        "models": _models((trio.base, {}), (trio.two, {})),
        **({"parameters": shared} if shared else {}),
    }


def _alone(scale: Any) -> Case:
    return lambda trio: {"merge_method": "passthrough", "models": _models((trio.two, {"scale": scale} if scale else {}))}


def _all_three(method: str, **shared: Any) -> Case:
    return lambda trio: {
        "merge_method": method,
        "models": _models((trio.base, {}), (trio.one, {}), (trio.two, {})),
        **({"parameters": shared} if shared else {}),
    }


_SIX, _FOUR = {"weight": 0.6}, {"weight": 0.37}

OTHER_MERGEKIT_CASES: dict[str, Case] = {
    "breadcrumbs": _task("breadcrumbs", {"weight": 0.6, "density": 0.5, "gamma": 0.1}, {"weight": 0.37, "density": 0.7}),
    "breadcrumbs-rescale": _task(
        "breadcrumbs", {"weight": 0.6, "density": 0.97, "gamma": 0.2}, {"weight": 0.37, "density": [0.2, 1]}, rescale=True
    ),
    "breadcrumbs_ties": _task(
        "breadcrumbs_ties", {"weight": 0.6, "density": 0.6, "gamma": 0.05}, {"weight": 0.7, "density": 0.3}, normalize=True
    ),
    "della-dense": _task("della", {"weight": 0.6, "density": 1}, {"weight": 0.37}, lam=0.9),
    "della_linear-dense": _task("della_linear", {"weight": 0.6, "density": 1}, {"weight": 0.37}),
    "sce": _pair("sce"),
    "sce-half": _pair("sce", select_topk=0.5),
    "sce-gradient": _pair("sce", select_topk=[{"filter": "mlp", "value": [0.25, 0.75]}, {"value": 1.0}]),
    "model_stock": _pair("model_stock"),
    "model_stock-rows": _pair("model_stock", filter_wise=True),
    "nuslerp": _pair("nuslerp", base=False, first=_SIX, second=_FOUR),
    "nuslerp-base": _pair("nuslerp", first=_SIX, second=_FOUR),
    "nuslerp-rows": _pair("nuslerp", first=_SIX, second=_FOUR, nuslerp_flatten=False),
    "nuslerp-columns": _pair("nuslerp", base=False, first=_SIX, second=_FOUR, nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp-ends": _pair("nuslerp", first={"weight": [0.0, 1.0]}, second={"weight": [1.0, 0.0]}),
    "multislerp": _pair("multislerp", base=False, first=_SIX, second=_FOUR),
    "multislerp-base": _pair("multislerp", first=_SIX, second=_FOUR, normalize_weights=False),
    "karcher": _pair("karcher", base=False),
    "karcher-three": _all_three("karcher", max_iter=3),
    "arcee_fusion": _single("arcee_fusion"),
    "nearswap": _single("nearswap", t=0.05),
    "nearswap-gradient": _single("nearswap", t=[0.001, 0.3]),
    "ram": _pair("ram", epsilon=0.01),
    "ramplus_tl": _pair("ramplus_tl", epsilon=0.03, r=0.3, alpha=0.9),
    "passthrough": _alone(None),
    "passthrough-scale": _alone([{"filter": "o_proj", "value": 0.37}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]),
}

OWN_CASES: dict[str, Case] = {
    "sce-weights": _pair("sce", select_topk=0.25, select="weights"),
    "widen": _pair("widen"),
    "widen-calibrated": _pair("widen", above_average_value_ratio=1.4, score_calibration_value=0.8),
    "localize": _pair("localize_and_stitch"),
    "localize-densities": _pair(
        "localize_and_stitch",
        first={"weight": 0.7, "density": 0.3},
        second={"density": [{"filter": "embed_tokens", "value": 0.0}, {"filter": "mlp", "value": 0.2}, {"value": 0.6}]},
    ),
}

MOD_CASES: dict[str, Case] = {
    "mod": _mod(0.9, 0.1),
    "mod-half": _mod(0.5, 0.5, normalize="minmax", select="threshold"),
    "mod-three": _mod(0.45, 0.2, 0.35, scope="all"),
    "mod-first": _mod(1.0, 0.0),
    "mod-quantile": _mod(0.9, 0.1, normalize="quantile"),
    "mod-quantile-three": _mod(0.7, 0.2, 0.1, normalize="quantile", scope="all"),
}

MERGEKIT_CASES |= OTHER_MERGEKIT_CASES
OTHER_CASES = {**OTHER_MERGEKIT_CASES, **OWN_CASES}
CASES = {**MERGEKIT_CASES, **MOD_CASES, **OWN_CASES}
