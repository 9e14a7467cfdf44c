"""The task-vector family: one composition of sparsify, weigh, elect, normalise and add.

    delta_i = theta_i - base
    delta_i <- sparsify(delta_i)                 see `modist.merge.methods.sparsifiers`
    delta_i <- delta_i * |delta_i|_1 before / after   where `rescale`
    s       = sign(sum_i w_i delta_i)            where signs are elected (TIES)
    theta   = base + lambda * sum_i w_i delta_i [sign agrees] / sum_i w_i [sign agrees]    divided where `normalize`

What is added to the base is scaled once more where a recipe has `scaling` (see `modist.merge.scaling`).

Sources: Ilharco et al. 2023 (arXiv 2212.04089), section 2; Yadav et al. 2023, TIES (2306.01708), algorithm 1; Yu et al. 2024,
DARE (2311.03099), eq. 2-3; Davari and Belilovsky 2023, Model Breadcrumbs (2312.06795), section 3; Deep et al. 2024, DELLA
(2406.11617), section 3.  Rescaling matches the L1 norm of the whole tensor, mergekit's rule, where the DARE and DELLA papers
divide by the probability of staying; the two agree in expectation for DARE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge.method import Method, Parameter
from modist.merge.methods.sparsifiers import (
    Survivors,
    keep_by_rank,
    keep_largest,
    keep_middle,
    keep_none,
    keep_random,
    remembered,
)
from modist.merge.tensor import Answer, Block, Copy, Tensor

TINY_NORM = 1e-7
TINY_WEIGHT = 1e-8
_SIGN_BIT = np.uint32(1 << 31)


@dataclass(frozen=True)
class Composition:
    """Which member of the family: how it sparsifies, and whether signs are elected."""

    sparsify: Literal["none", "largest", "middle", "random", "rank"]
    elect: bool

    @property
    def random(self) -> bool:
        return self.sparsify in ("random", "rank")


SPARSIFIERS: dict[str, Callable[[Tensor, int], Survivors]] = {
    "largest": keep_largest,
    "middle": keep_middle,
    "random": keep_random,
    "rank": keep_by_rank,
}


def survivors(tensor: Tensor, index: int, how: Composition) -> Survivors | None:
    """Which elements of one delta survive; None where all do."""
    density = tensor.number("density", index)
    if how.sparsify == "none" or density >= 1:
        return None
    if density <= 0:
        return keep_none
    found = SPARSIFIERS[how.sparsify](tensor, index)
    if how.random and tensor.flag("rescale"):
        # The norm asks first, then the blend: drawn and ranked once for both.
        return remembered(tensor, found, 8 * tensor.room // len(tensor.others))
    return found


def norm_ratios(tensor: Tensor, kept: Mapping[int, Survivors]) -> dict[int, float]:
    """For each delta, |delta|_1 before over after sparsifying; 1 where either vanishes."""

    def norms(block: Block) -> Iterator[Floats]:
        for index, mask in kept.items():
            delta = block.delta(index)
            kept_here = mask(block, delta)
            np.abs(delta, out=delta)
            yield delta
            yield np.multiply(delta, kept_here, out=delta)

    if not kept:
        return {}
    sums = tensor.total(norms).reshape(-1, 2)
    return {
        index: float(before / after) if before >= TINY_NORM and after >= TINY_NORM else 1.0
        for index, (before, after) in zip(kept, sums, strict=True)
    }


def merge(tensor: Tensor, how: Composition) -> Answer:
    """theta = base + lambda * consensus of the weighted, sparsified deltas."""
    assert tensor.base is not None
    moved = [index for index in tensor.others if tensor.number("weight", index) != 0]
    if not moved:
        return Copy(tensor.base)
    masks = {index: survivors(tensor, index, how) for index in moved}
    scales = {index: np.float32(tensor.number("weight", index)) for index in moved}
    if tensor.flag("rescale"):
        sparsified = {index: mask for index, mask in masks.items() if mask is not None}
        for index, ratio in norm_ratios(tensor, sparsified).items():
            scales[index] = np.float32(tensor.number("weight", index) * ratio)
    strength = tensor.number("lambda")
    divisor = sum(tensor.number("weight", index) for index in moved)
    shared_scale = strength / divisor if tensor.flag("normalize") and abs(divisor) >= TINY_WEIGHT else strength
    scale = np.float32(strength if how.elect else shared_scale)

    def sparse(block: Block, index: int) -> Floats:
        """One weighted delta [n] after sparsifying."""
        delta = block.delta(index)
        mask = masks[index]
        norm = np.einsum("i,i->", delta, delta)
        block.note(f"norm {index}", norm)
        if mask is not None:
            np.multiply(delta, mask(block, delta), out=delta)
        if not how.elect:
            block.note(f"kept {index}", norm if mask is None else np.einsum("i,i->", delta, delta))
        np.multiply(delta, scales[index], out=delta)
        return delta

    def blend(block: Block) -> Floats:
        deltas = [sparse(block, index) for index in moved]
        merged = _elected(block, tensor, moved, scales, deltas) if how.elect else _summed(deltas)
        if scale != 1:
            np.multiply(merged, scale, out=merged)
        merged = tensor.scale(block, merged)
        np.add(merged, block.base, out=merged)
        return merged

    return blend


def _summed(deltas: list[Floats]) -> Floats:
    merged = deltas[0]
    for delta in deltas[1:]:
        np.add(merged, delta, out=merged)
    return merged


def _elected(block: Block, tensor: Tensor, moved: Sequence[int], scales: dict[int, np.float32], deltas: list[Floats]) -> Floats:
    """TIES, steps 2 and 3: the sign with the greater mass wins, and only deltas of that sign are averaged."""
    mass = deltas[0].copy()
    for delta in deltas[1:]:
        np.add(mass, delta, out=mass)
    # A mass of -0 comes of zeros alone, whose sign does not matter.
    minus = np.bitwise_and(mass.view(np.uint32), _SIGN_BIT, out=mass.view(np.uint32))
    shares = []
    for index, delta in zip(moved, deltas, strict=True):
        # Seen from the elected sign, what agrees is positive; a zero has no sign, so it agrees with neither.
        np.bitwise_xor(delta.view(np.uint32), minus, out=delta.view(np.uint32))
        agrees = (delta > 0).astype(np.float32)
        np.multiply(delta, agrees, out=delta)
        # In the delta's own units: its weight and rescaling are taken out again.
        block.note(f"kept {index}", np.einsum("i,i->", delta, delta) / float(scales[index]) ** 2)
        if tensor.flag("normalize"):
            shares.append(np.multiply(agrees, np.float32(tensor.number("weight", index)), out=agrees))
    merged = _summed(deltas)
    if shares:
        divisor = _summed(shares)
        np.add(divisor, (divisor == 0).astype(np.float32), out=divisor)
        np.divide(merged, divisor, out=merged)
    np.bitwise_xor(merged.view(np.uint32), minus, out=merged.view(np.uint32))
    return merged


def _warns(tensor: Tensor, names: Sequence[str]) -> Sequence[str]:
    weighted = [index for index in tensor.others if tensor.number("weight", index) != 0]
    if not tensor.flag("normalize") or len(weighted) != 1 or tensor.number("weight", weighted[0]) == 1:
        return ()
    (index,) = weighted
    return (
        f"normalize: true divides the weight {tensor.number('weight', index):g} of {names[index]} by itself, as it is the only"
        " weighted model: its delta enters in full, whatever the weight; set normalize: false for the weight to count",
    )


def _refuses(tensor: Tensor, how: Composition) -> str | None:
    if how.sparsify != "rank":
        return None
    for index in tensor.others:
        density, epsilon = tensor.number("density", index), tensor.number("epsilon", index)
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            return (
                f"density {density:g} and epsilon {epsilon:g}: elements would stay with probabilities from"
                f" {density - epsilon:g} to {density + epsilon:g}, which must lie between 0 and 1; epsilon must be below"
                f" {min(density, 1 - density):g}"
            )
    return None


def _method(name: str, summary: str, source: str, how: Composition, *, normalize: bool, rescale: bool) -> Method:
    density = Parameter("density", "the share of the delta's elements that is kept", 1.0, "other", low=0, high=1)
    unused = Parameter("density", "accepted, as mergekit does, and without effect", 1.0, "other", low=0, high=1)
    gamma = Parameter("gamma", "the share of the largest elements that is dropped", 0.01, "other", low=0, high=1)
    epsilon = Parameter(
        "epsilon",
        "the largest of a row stay with density + this, the smallest with density - this",
        0.15,
        "other",
        low=0,
        high=0.5,
    )
    own = {"middle": (gamma,), "rank": (epsilon,)}.get(how.sparsify, ())
    return Method(
        name=name,
        summary=summary,
        source=source,
        merge=lambda tensor: merge(tensor, how),
        parameters=(
            Parameter("weight", "how much of this model's delta", scope="other"),
            unused if how.sparsify == "none" else density,
            *own,
            Parameter("normalize", "divide by the sum of the weights that count", normalize, kind=bool),
            Parameter("rescale", "restore the L1 norm of a sparsified delta", rescale, kind=bool),
            Parameter("lambda", "strength of the merged delta", 1.0),
            Parameter("int8_mask", "accepted, as mergekit does, and without effect", False, kind=bool),
        ),
        base="required",
        random=lambda tensor: how.random,
        reports="delta",
        contributes=lambda tensor, index: index == tensor.base or tensor.number("weight", index) != 0,
        refuses=lambda tensor: _refuses(tensor, how),
        warns=_warns,
        rows=lambda tensor: tensor.width if how.sparsify == "rank" else None,
        scales=True,
    )


TASK_ARITHMETIC = _method(
    "task_arithmetic",
    "the base plus weighted deltas",
    "Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089, section 2",
    Composition("none", elect=False),
    normalize=False,
    rescale=False,
)
TIES = _method(
    "ties",
    "trim each delta to its largest elements, elect signs, average what agrees",
    "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708, algorithm 1",
    Composition("largest", elect=True),
    normalize=True,
    rescale=False,
)
DARE_LINEAR = _method(
    "dare_linear",
    "drop random elements of each delta, rescale, add",
    "Yu et al. 2024, DARE, arXiv 2311.03099, eq. 2-3",
    Composition("random", elect=False),
    normalize=False,
    rescale=True,
)
DARE_TIES = _method(
    "dare_ties",
    "drop random elements of each delta, rescale, elect signs, add what agrees",
    "Yu et al. 2024, DARE, arXiv 2311.03099, with TIES' sign election (2306.01708, algorithm 1)",
    Composition("random", elect=True),
    normalize=False,
    rescale=True,
)
BREADCRUMBS = _method(
    "breadcrumbs",
    "drop each delta's largest and smallest elements, add",
    "Davari and Belilovsky 2023, Model Breadcrumbs, arXiv 2312.06795, section 3",
    Composition("middle", elect=False),
    normalize=False,
    rescale=False,
)
BREADCRUMBS_TIES = _method(
    "breadcrumbs_ties",
    "drop each delta's largest and smallest elements, elect signs, add what agrees",
    "Davari and Belilovsky 2023, arXiv 2312.06795, with TIES' sign election (2306.01708, algorithm 1)",
    Composition("middle", elect=True),
    normalize=False,
    rescale=False,
)
DELLA = _method(
    "della",
    "drop random elements of each delta, the small ones of a row sooner, rescale, elect signs, average what agrees",
    "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617, section 3",
    Composition("rank", elect=True),
    normalize=True,
    rescale=True,
)
DELLA_LINEAR = _method(
    "della_linear",
    "drop random elements of each delta, the small ones of a row sooner, rescale, add",
    "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617, section 3, without election",
    Composition("rank", elect=False),
    normalize=False,
    rescale=True,
)
