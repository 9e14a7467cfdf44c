"""The paper's Figures 1-3 (arXiv 2411.00406), computed by the code that mixes and merges, and what they leave out.

The figures draw one parameter of two models as two normal densities.  A weighted average of the parameters has its density
where neither model had any (1a, 2); the mixture sum_i a_i p_i keeps both peaks (1b, 3).  Here the mixture comes from
`mixture.law`, the distribution a mixture decodes from, and every histogram from the merge methods themselves, on drawn
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from modist.report.densities import Histogram, Panel, draw_densities

Values = npt.NDArray[np.float64]
_POINTS = 1601
_BINS = 120
_SEED = 0


@dataclass(frozen=True)
class Normal:
    """A normal density of one parameter."""

    mean: float
    deviation: float

    def log_density(self, at: Values) -> Values:
        z = (at - self.mean) / self.deviation
        return -0.5 * z * z - math.log(self.deviation * math.sqrt(2 * math.pi))


def mixture_density(parents: Sequence[Normal], weights: Sequence[float], at: Values) -> Values:
    """sum_i a_i p_i by the decoder's own law, each cell of a grid being a token.

    Args:
        weights: a_i, summing to 1.
        at: an evenly spaced grid that holds nearly all of every density, [n].

    Returns:
        The density at each point, float64 [n].
    """
    import torch

    from modist.mixture.law import mix_log_probs
    from modist.vocabulary import CommonVocabulary

    common = CommonVocabulary.of([None] * len(parents), [len(at)] * len(parents))
    logits = [torch.from_numpy(parent.log_density(at)) for parent in parents]
    found = mix_log_probs(logits, torch.tensor(weights, dtype=torch.float64).log(), common)
    return cast(Values, found.exp().numpy() / (at[1] - at[0]))


def average_density(parents: Sequence[Normal], weights: Sequence[float], at: Values, correlation: float = 0.0) -> Values:
    """The density of sum_i a_i theta_i where any two parents' parameters have this correlation, float64 [n]."""
    mean = math.fsum(a * parent.mean for a, parent in zip(weights, parents, strict=True))
    spread = [a * parent.deviation for a, parent in zip(weights, parents, strict=True)]
    alone = math.fsum(s * s for s in spread)
    variance = alone + correlation * (math.fsum(spread) ** 2 - alone)
    return np.exp(Normal(mean, math.sqrt(variance)).log_density(at))


def merged(
    method: str, thetas: Sequence[npt.NDArray[np.float32]], weights: Sequence[float], seed: int = _SEED, **values: Any
) -> npt.NDArray[np.float32]:
    """What a merge method makes of parameters in memory, each float32 [n].

    Args:
        method: its name, such as `linear` or `mod`.
        values: its shared parameters; the others have their defaults.
    """
    from modist.merge.method import find_method
    from modist.merge.source import InMemory
    from modist.merge.tensor import Choice, Copy, Tensor

    found = find_method(method)
    shared = {one.name: one.default for one in found.parameters if one.scope == "shared" and one.default is not None}
    tensor = Tensor(
        "mlp",
        thetas[0].shape,
        [InMemory(theta, f"theta {number}", "mlp") for number, theta in enumerate(thetas, start=1)],
        None,
        {**shared, **values},
        [{"weight": weight} for weight in weights],
        seed,
    )
    answer = found.merge(tensor)
    if isinstance(answer, Copy):
        return thetas[answer.input]
    parts = []
    for number in range(tensor.blocks):
        block = tensor.block(number)
        blended = answer(block)
        if isinstance(blended, Choice):
            columns = np.stack([theta[block.start : block.stop] for theta in thetas])
            blended = np.take_along_axis(columns, blended.inputs.astype(np.intp)[None], axis=0)[0]
        parts.append(blended)
    return np.concatenate(parts)


def share_of_first(theta: npt.NDArray[np.float32], weight: float) -> float:
    """The share of elements that the released rule (min-max, a threshold) takes from the first model, 0 to 1."""
    other = np.full_like(theta, np.inf)
    return float(np.isfinite(merged("mod", [theta, other], [weight, 1 - weight])).mean())


def figure_panels(draws: int = 200_000, seed: int = _SEED) -> list[Panel]:
    """Figures 1a, 1b, 2 and 3, and two panels that the paper leaves out, for `report.densities.draw_densities`.

    Args:
        draws: parameters drawn for each histogram.
    """
    generator = np.random.default_rng(seed)
    half = (0.5, 0.5)
    apart = (Normal(0, 1), Normal(5, 1))
    uneven = (Normal(0, 0.5), Normal(2.5, 1.5))
    wide, narrow = np.linspace(-7, 12, _POINTS), np.linspace(-8, 12, _POINTS)
    thetas = {"apart": _draw(apart, draws, generator), "uneven": _draw(uneven, draws, generator)}

    def panel(
        title: str, parents: Sequence[Normal], at: Values, result: Values | None, values: npt.NDArray[Any], says: str
    ) -> Panel:
        shown = [(f"θ{number}", np.exp(parent.log_density(at))) for number, parent in enumerate(parents, start=1)]
        return Panel(title, at, tuple(shown), result, _histogram(values, at), says)

    panels = []
    for number, (name, parents, at) in enumerate((("apart", apart, wide), ("uneven", uneven, narrow))):
        average, mixture = average_density(parents, half, at), mixture_density(parents, half, at)
        averaged = merged("linear", thetas[name], half)
        mixed = merged("mod", thetas[name], half, select="random", scope="all")
        left, right = (("Figure 1a", "Figure 1b"), ("Figure 2", "Figure 3"))[number]
        panels.append(panel(f"{left}: weighted average", parents, at, average, averaged, "merge: linear"))
        panels.append(panel(f"{right}: mixture of the densities", parents, at, mixture, mixed, "merge: mod, select: random"))
    ruled = merged("mod", thetas["apart"], (0.9, 0.1))
    share = share_of_first(thetas["apart"][0], 0.9)
    title = f"Not in the paper: its released rule, a = 0.9, takes {100 * share:.2f}% from θ1"
    panels.append(panel(title, apart, wide, None, ruled, "merge: mod, as released"))
    panels.append(_kin_panel(draws, generator))
    return panels


def _kin_panel(draws: int, generator: np.random.Generator) -> Panel:
    """Two fine-tunes of one base: nearly the same number in each place, so averaging moves no density at all."""
    correlation = 0.999
    parent = Normal(0, 0.02)
    at = np.linspace(-0.12, 0.12, _POINTS)
    base = generator.standard_normal(draws)
    thetas = [
        (
            parent.deviation * (math.sqrt(correlation) * base + math.sqrt(1 - correlation) * generator.standard_normal(draws))
        ).astype(np.float32)
        for _ in range(2)
    ]
    half = (0.5, 0.5)
    averaged = merged("linear", thetas, half)
    shown = [(f"θ{number}", np.exp(parent.log_density(at))) for number in (1, 2)]
    average = average_density([parent, parent], half, at, correlation)
    title = "Not in the paper: average of two fine-tunes of one base"
    return Panel(title, at, tuple(shown), average, _histogram(averaged, at), "merge: linear")


def _draw(parents: Sequence[Normal], draws: int, generator: np.random.Generator) -> list[npt.NDArray[np.float32]]:
    return [generator.normal(parent.mean, parent.deviation, draws).astype(np.float32) for parent in parents]


def _histogram(values: npt.NDArray[Any], at: Values) -> Histogram:
    edges = np.linspace(at[0], at[-1], _BINS + 1)
    counts, _ = np.histogram(values, edges)
    return Histogram(edges, counts / (len(values) * (edges[1] - edges[0])))


def draw_figures(path: Path) -> Path:
    """Draw all six panels; `CAPTION` says what is true of them and what they simplify.

    Raises:
        UserError: see `modist.report.figure`.
    """
    return draw_densities(path, figure_panels())


CAPTION = (
    "True: averaging two independent parameters from distant densities puts the result where neither density is high, and "
    "the mixture keeps both peaks in place. Simplified: (1) a peak kept in place is not kept in height: at θ = 0 the mixture "
    "has a·p₁ + (1−a)·p₂, little more than a times the density, so no maximum is preserved; (2) parents worth merging are "
    "fine-tunes of one base, whose parameters agree in nearly every place, and averaging those moves no density (last panel); "
    "(3) a model is not its parameters' histogram: drawing each parameter from either model keeps the mixture's density "
    "exactly and says nothing about the outputs, while the law p = Σ aᵢ pᵢ over tokens, which modist mixes by, never touches "
    "parameters; (4) the released code does neither: it cuts θ₁'s values at a threshold between their extremes, and at "
    "a = 0.9 takes nearly all of them from θ₁."
)
