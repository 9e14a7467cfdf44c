"""How merge coefficients are searched: what is a gene, between which bounds, from where, how long.

Defaults are those of the evolutionary merging that the UMM paper (section 3.2) names as its lineage, since UMM publishes
neither code nor hyper-parameters: Akiba et al. 2024 (arXiv 2403.13187) and mergekit 0.1's `mergekit-evolve`.  What neither
says is ours, and marked so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modist.errors import UserError, nearest

MODULES = ("attention", "mlp", "norms", "embeddings")
# What the lineage searches where a method has it; `--genes` asks for others.
USUAL = ("weight", "density", "t")
# [0, 1] as in arXiv 2403.13187; lambda scales a sum that is already weighted, so it needs room above 1 (ours).
RANGES: Mapping[str, tuple[float, float]] = {
    "weight": (0.0, 1.0),
    "density": (0.0, 1.0),
    "t": (0.0, 1.0),
    "lambda": (0.0, 2.0),
}
# Ours: beyond this many genes a full covariance has more entries than a usual budget can learn.
DIAGONAL_ABOVE = 40
ALL = "all"


@dataclass(frozen=True)
class SearchSettings:
    """What is searched and how.

    Attributes:
        genes: the parameters searched; None for those of `USUAL` that the method has.
        layer_blocks: so many consecutive layers share their genes; None for all of them (mergekit-evolve's default).
        modules: kinds of tensors with genes of their own, of `MODULES`; what belongs to none of them is one more set.
        bounds: of a parameter, in place of `RANGES` or the method's own range.
        start: of a parameter, in place of the recipe's own values.
        sigma: the first step, as a fraction of each gene's range; 1/6 in both references.
        population: candidates a generation; None for 4 + floor(3 ln n), n the number of genes (both references).
        budget: candidates in all, the start among them; 100 in mergekit-evolve, 1,000 in arXiv 2403.13187.
        seed: of the search's own draws.
        merge_seed: of methods that draw (DARE, mod's `select: random`): the same for all candidates.
        diagonal: whether CMA-ES learns variances only; None for where there are more than `DIAGONAL_ABOVE` genes (ours).
        finalists: how many of the best are scored again on the second split (ours).
    """

    genes: tuple[str, ...] | None = None
    layer_blocks: int | None = None
    modules: tuple[str, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    sigma: float = 1 / 6
    population: int | None = None
    budget: int = 100
    seed: int = 0
    merge_seed: int = 0
    diagonal: bool | None = None
    finalists: int = 3

    def __post_init__(self) -> None:
        """UserError for a setting that cannot stand, whatever the model."""
        for word in self.modules:
            if word not in MODULES:
                raise UserError(f"--modules {word}: unknown{nearest(word, MODULES)} (known: {', '.join(MODULES)})")
        if self.genes is not None and not self.genes:
            raise UserError("--genes names no parameter")
        if self.layer_blocks is not None and self.layer_blocks < 1:
            raise UserError(f"--layer-blocks {self.layer_blocks}: a block has 1 layer or more, or say all")
        if self.budget < 1:
            raise UserError(f"--budget {self.budget}: a search needs at least 1 candidate, which is the start itself")
        if self.population is not None and self.population < 2:
            raise UserError(f"--population {self.population}: a generation needs at least 2 candidates to choose between")
        if not 0 < self.sigma <= 1:
            raise UserError(f"--sigma {self.sigma:g}: the first step is a fraction of the range, above 0 and at most 1")
        if self.finalists < 1:
            raise UserError(f"--finalists {self.finalists}: at least 1 is scored again")
        for name, value in (("--seed", self.seed), ("--merge-seed", self.merge_seed)):
            if value < 0:
                raise UserError(f"{name} {value}: a seed is 0 or more")
        for name, (low, high) in self.bounds.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UserError(f"--bounds {name}={low:g}:{high:g}: the lower bound must be below the upper one, both finite")

    def population_of(self, genes: int) -> int:
        """Candidates a generation for so many genes."""
        return self.population if self.population is not None else 4 + math.floor(3 * math.log(genes))

    def is_diagonal(self, genes: int) -> bool:
        return self.diagonal if self.diagonal is not None else genes > DIAGONAL_ABOVE

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the candidates of a search, as JSON: all but what may change while it goes on."""
        return {
            "sigma": self.sigma,
            "population": self.population,
            "seed": self.seed,
            "merge_seed": self.merge_seed,
            "diagonal": self.diagonal,
        }


def read_layer_blocks(text: str) -> int | None:
    """`4`, or None for `all`; UserError for anything else."""
    if text.strip().lower() == ALL:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--layer-blocks {text}: write a number of layers, or all") from None


def read_words(text: str | None) -> tuple[str, ...] | None:
    """`a,b` -> ("a", "b"), each once; None stays None."""
    if text is None:
        return None
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def read_bounds(texts: Iterable[str]) -> dict[str, tuple[float, float]]:
    """`weight=0:2` -> {"weight": (0.0, 2.0)}; UserError for what does not read so."""
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, equals, pair = text.partition("=")
        low, colon, high = pair.partition(":")
        try:
            if not (name.strip() and equals and colon):
                raise ValueError
            found[name.strip()] = (float(low), float(high))
        except ValueError:
            raise UserError(f"--bounds {text}: write it as weight=0:2") from None
    return found


def read_start(texts: Iterable[str]) -> dict[str, float]:
    """`weight=0.5` -> {"weight": 0.5}; UserError for what does not read so."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not (name.strip() and equals):
                raise ValueError
            found[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"--start {text}: write it as weight=0.5") from None
    return found
