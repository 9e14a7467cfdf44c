"""The genome of a merge: which coefficients are searched, and what a vector of them means for every tensor.

A gene is one parameter of the recipe's method, of one model or shared by all, for one group of tensors.  Where a method wants
weights that sum to 1, or uses their ratios alone (`normalize: true`), n weights have n - 1 genes: the share that each but
the last takes of what those before it leave.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.checkpoint import Checkpoint
from modist.errors import UserError
from modist.merge import Plan, make_plan
from modist.recipe import Scalar, parse_recipe
from modist.search.settings import SearchSettings

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gene:
    """One number that is searched.

    Attributes:
        tensors: whose coefficient it is.
        parameter: as recipes write it.
        model: the input it belongs to, by its place in the plan; None for a parameter shared by all.
        low, high: the closed range it is searched in.
        start: where the search begins.
        label: for people, unique.
        share: whether it is a share of what the models before this one leave of 1.
    """

    tensors: tuple[str, ...]
    parameter: str
    model: int | None
    low: float
    high: float
    start: float
    label: str
    share: bool = False


@dataclass(frozen=True)
class Coefficients:
    """Parameters of every tensor that is merged.

    Attributes:
        values: tensor -> what all inputs share.
        each: tensor -> what each input has, in the plan's order.
    """

    values: Mapping[str, Mapping[str, Scalar]]
    each: Mapping[str, tuple[Mapping[str, Scalar], ...]]


@dataclass(frozen=True)
class Shares:
    """Genes that together are weights summing to 1.

    Attributes:
        tensors, parameter: whose, and which.
        members: the inputs that have the weights.
        genes: places of the shares of all members but the last.
    """

    tensors: tuple[str, ...]
    parameter: str
    members: tuple[int, ...]
    genes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Genome:
    """What is searched of one merge.

    Attributes:
        plan: of the recipe as it stands, its checkpoints open.
        settings: how it is searched.
        genes: in the order of vectors.
        warnings: what the user ought to know before hours are spent.
        allow: differences between parents that are accepted.
        inputs: what identifies the parents' files.
        shares: genes that are weights summing to 1 together.
    """

    plan: Plan
    settings: SearchSettings
    genes: tuple[Gene, ...]
    warnings: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    inputs: tuple[Mapping[str, Any], ...] = ()
    shares: tuple[Shares, ...] = ()

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def start(self) -> Vector:
        """Where the search begins, [n]."""
        return np.array([gene.start for gene in self.genes])

    @property
    def low(self) -> Vector:
        return np.array([gene.low for gene in self.genes])

    @property
    def high(self) -> Vector:
        return np.array([gene.high for gene in self.genes])

    def vector(self, unit: npt.ArrayLike) -> Vector:
        """Genes [n] from their places between their bounds, each in [0, 1]; never outside the bounds, by no rounding."""
        low, high = self.low, self.high
        return np.clip(low + np.asarray(unit, np.float64) * (high - low), low, high)

    def unit(self, vector: npt.ArrayLike) -> Vector:
        """The reverse of `vector`."""
        return (np.asarray(vector, np.float64) - self.low) / (self.high - self.low)

    @property
    def own(self) -> Coefficients:
        """The recipe's own parameters, which the start may only be the mean of."""
        merged = [planned.tensor for planned in self.plan.tensors if not planned.copied]
        return Coefficients({t.name: t.values for t in merged}, {t.name: tuple(t.each) for t in merged})

    def decode(self, vector: npt.ArrayLike) -> Coefficients:
        """Every tensor's parameters for one vector [n].

        Raises:
            ValueError: it has another length, or a number that is not finite.
        """
        numbers = [float(number) for number in np.asarray(vector, np.float64).ravel()]
        if len(numbers) != len(self.genes) or not all(map(math.isfinite, numbers)):
            raise ValueError(f"a vector has {len(self.genes)} finite numbers, one for each gene; this one is {numbers}")
        merged = [planned.tensor for planned in self.plan.tensors if not planned.copied]
        values: dict[str, dict[str, Scalar]] = {tensor.name: dict(tensor.values) for tensor in merged}
        each = {tensor.name: tuple(dict(settings) for settings in tensor.each) for tensor in merged}
        for gene, number in zip(self.genes, numbers, strict=True):
            if gene.share:
                continue
            for name in gene.tensors:
                (values[name] if gene.model is None else each[name][gene.model])[gene.parameter] = self._typed(gene, number)
        for group in self.shares:
            weights = _weights([numbers[gene] for gene in group.genes])
            for name in group.tensors:
                for member, weight in zip(group.members, weights, strict=True):
                    each[name][member][group.parameter] = weight
        return Coefficients(values, each)

    def _typed(self, gene: Gene, number: float) -> Scalar:
        parameter = self.plan.method.parameter(gene.parameter)
        return round(number) if parameter is not None and parameter.kind is int else number

    def changed(self, old: Coefficients | None, new: Coefficients) -> set[str]:
        """The tensors whose parameters differ; all of them where there is no `old`, or a method that looks at all at once."""
        if old is None or (self.plan.method.across is not None and old != new):
            return set(new.values)
        return {name for name in new.values if old.values[name] != new.values[name] or old.each[name] != new.each[name]}

    def plan_of(self, coefficients: Coefficients) -> Plan:
        """The merge with these parameters.

        Raises:
            UserError: the method cannot merge with them.
        """
        method = self.plan.method
        planned = []
        for entry in self.plan.tensors:
            if not entry.copied:
                tensor = replace(entry.tensor, values=coefficients.values[entry.name], each=coefficients.each[entry.name])
                if reason := method.refuses(tensor):
                    raise UserError(f"{method.name}: {reason} (tensor {entry.name!r})")
                used = tuple(method.contributes(tensor, index) for index in range(len(tensor.sources)))
                entry = replace(entry, tensor=tensor, used=used)
            planned.append(entry)
        return replace(self.plan, tensors=tuple(planned), warnings=())

    def recipe(self, vector: npt.ArrayLike) -> str:
        """The merge that a vector stands for, as a recipe in mergekit's dialect; `modist merge` gives the same tensors.

        Local models are named by their whole paths, so that the recipe means the same wherever it lies.
        """
        from modist.search.written import recipe_text

        plan = self.plan_of(self.decode(vector))
        text = recipe_text(plan)
        self._check_written(plan, text)
        return text

    def _check_written(self, plan: Plan, text: str) -> None:
        recipe = parse_recipe(text, "the recipe found")
        models = dict(zip(map(str, recipe.models), _checkpoints(self.plan), strict=True))
        again = make_plan(recipe, models, seed=self.settings.merge_seed, allow=self.allow)
        for one, two in zip(plan.tensors, again.tensors, strict=True):
            same = one.tensor.values == two.tensor.values and list(one.tensor.each) == list(two.tensor.each)
            if one.name != two.name or one.dtype != two.dtype or not (same or one.copied):
                raise AssertionError(f"the recipe found does not give {one.name} its coefficients")
        if _scaling(plan) != _scaling(again):
            raise AssertionError("the recipe found scales its deltas otherwise")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides what vectors mean, as JSON: of two searches with the same, one can go on with the other's scores."""
        said = [
            [
                planned.name,
                planned.dtype,
                sorted(planned.tensor.values.items()),
                [sorted(e.items()) for e in planned.tensor.each],
            ]
            for planned in self.plan.tensors
        ]
        return {
            "method": self.plan.method.name,
            "parents": [dict(entry) for entry in self.inputs] or list(self.plan.names),
            "scaling": _scaling(self.plan),
            "recipe": hashlib.sha256(repr(said).encode()).hexdigest(),
            "genes": [[gene.label, gene.low, gene.high, gene.start] for gene in self.genes],
            "groups": hashlib.sha256(repr([gene.tensors for gene in self.genes]).encode()).hexdigest(),
        }


def _scaling(plan: Plan) -> dict[str, Any] | None:
    return None if plan.scaling is None else plan.scaling.record


def _weights(shares: Sequence[float]) -> list[float]:
    """Weights that sum to 1 from each but the last one's share of what those before it leave."""
    left, weights = 1.0, []
    for share in shares:
        weights.append(share * left)
        left = max(0.0, 1.0 - math.fsum(weights))
    return [*weights, left]


def _checkpoints(plan: Plan) -> list[Checkpoint]:
    """In the order of the written recipe's models: the inputs, then a base that only lends its config."""
    found = list(plan.inputs)
    return found if any(checkpoint is plan.donor for checkpoint in found) else [*found, plan.donor]
