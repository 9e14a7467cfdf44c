"""From a recipe's plan to its genes: which coefficients are worth searching, where they begin and may go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from modist.errors import UserError, nearest
from modist.merge import Parameter, Plan, compare, make_plan, prepare
from modist.merge.compare import refuse
from modist.merge.models import fetch_models
from modist.merge.plan import PlannedTensor
from modist.recipe import Recipe
from modist.search.genome import Gene, Genome, Shares
from modist.search.groups import Group, groups_of
from modist.search.response import Responses
from modist.search.settings import RANGES, USUAL, SearchSettings


def open_genome(
    recipe: str | Path | Recipe,
    settings: SearchSettings | None = None,
    *,
    allow: Iterable[str] = (),
    trust_remote_code: bool = False,
) -> Genome:
    """The genome of a recipe's merge; parents that a hub still has are fetched.

    Raises:
        RecipeError, UserError, CheckpointError, HubError: as merging the recipe would, and see `make_genome`.
    """
    from modist.merge.manifest import describe_input

    settings, allowed = settings or SearchSettings(), frozenset(allow)
    prepared = prepare(recipe, seed=settings.merge_seed, allow=allowed, allow_code=trust_remote_code)
    models = prepared.models
    # What cannot be searched is said before anything is downloaded.
    genome = make_genome(prepared.plan, settings, allowed)
    if models.download_bytes:
        models = fetch_models(models, prepared.recipe.models, trust_remote_code)
        plan = make_plan(prepared.recipe, models.checkpoints, seed=settings.merge_seed, allow=allowed)
        genome = make_genome(plan, settings, allowed)
    inputs = []
    for checkpoint in genome.plan.inputs:
        key = next(key for key, known in models.checkpoints.items() if known is checkpoint)
        inputs.append(describe_input(checkpoint, models.commits[key], False))
    return replace(genome, inputs=tuple(inputs))


def make_genome(plan: Plan, settings: SearchSettings, allow: frozenset[str] = frozenset()) -> Genome:
    """Work out the genes of a plan.

    Raises:
        UserError: a parameter that is not the method's or no number, bounds beyond what it may be, a start outside the bounds,
            nothing left to search; parents that do not fit once every gene may count.
    """
    if plan.stacked:
        raise UserError(
            "candidates are merges of whole models in one order; layers that are stacked or left out are not searched"
        )
    if adapted := next((model for model in (*plan.inputs, plan.donor) if model.adapter is not None), None):
        raise UserError(f"{adapted.label}: candidates are merges of whole models; merge the adapter into its base first")
    if plan.recipe.tokenizer is not None or plan.template is not None:
        key = "chat_template" if plan.recipe.tokenizer is None else plan.recipe.tokenizer.path[0]
        raise plan.recipe.document.error(
            "candidates run inside the donor's model with its own tokenizer and template; search without this key and add it to"
            " the recipe found",
            key,
        )
    genome = _Making(plan, settings).genome(allow)
    # A parent whose weight is 0 in the recipe is not looked at there; here it may get one.
    inside = genome.vector(np.full(len(genome), 0.61))
    genome.recipe(inside)
    refuse(compare(genome.plan_of(genome.decode(inside)), allow))
    return genome


class _Making:
    """One pass over groups and parameters that collects genes."""

    def __init__(self, plan: Plan, settings: SearchSettings) -> None:
        self._plan, self._settings = plan, settings
        self._parameters = _chosen(plan, settings)
        self._bounds = {parameter.name: _range(parameter, settings) for parameter in self._parameters}
        for name in (*settings.bounds, *settings.start):
            if name not in self._bounds:
                known = ", ".join(self._bounds)
                flag = "--bounds" if name in settings.bounds else "--start"
                raise UserError(f"{flag} {name}: is not searched{nearest(name, self._bounds)} (searched: {known})")
        self._responses = Responses(plan.method, self._bounds)
        self._genes: list[Gene] = []
        self._shares: list[Shares] = []
        self._warnings: list[str] = []
        self._idle: dict[str, str] = {}
        # Tensor -> why an input's cannot be added to it.
        self._apart: dict[str, str] = {}

    def genome(self, allow: frozenset[str]) -> Genome:
        groups = groups_of(self._plan, self._settings)
        for group in groups:
            for parameter in self._parameters:
                self._add(group, parameter)
        self._remark()
        if not self._genes:
            reasons = "; ".join(self._warnings) or "the recipe has no tensor that could be merged otherwise"
            raise UserError(f"there is nothing to search: {reasons}")
        found = Genome(self._plan, self._settings, tuple(self._genes), tuple(self._warnings), allow)
        return replace(found, shares=tuple(self._shares))

    def _add(self, group: Group, parameter: Parameter) -> None:
        name = parameter.name
        if parameter.scope == "shared":
            self._gene(group, parameter, None, [p for p in group.tensors if self._responses.matters(p, name, None)])
            return
        tensor = group.tensors[0].tensor
        members = tensor.others if parameter.scope == "other" else tuple(range(len(tensor.sources)))
        laws = {self._responses.law(planned, name, members) for planned in group.tensors} if name == "weight" else {"free"}
        given = name in self._settings.bounds
        if "sum" in laws and len(members) > 2 and (given or name in self._settings.start):
            raise UserError(
                f"--{'bounds' if given else 'start'} {name}: the weights of {len(members)} models sum to 1, and each is"
                " searched as a share of what those before it leave; leave the flag out"
            )
        positive = all(float(planned.tensor.each[member][name]) >= 0 for planned in group.tensors for member in members)
        if "sum" in laws or (laws == {"ratio"} and not given and positive and name not in self._settings.start):
            self._add_shares(group, parameter, members)
            return
        for member in members:
            fitting = [p for p in group.tensors if self._fits(p, member)]
            self._gene(group, parameter, member, [p for p in fitting if self._responses.matters(p, name, member)])

    def _add_shares(self, group: Group, parameter: Parameter, members: Sequence[int]) -> None:
        name = parameter.name
        fitting = [p for p in group.tensors if all(self._fits(p, member) for member in members)]
        tensors = [p for p in fitting if len(members) > 1 and self._responses.shares_matter(p, name, members)]
        if not tensors:
            self._idle.setdefault(name, self._label(None, name, members[0] if len(members) == 1 else None))
            return
        first = len(self._genes)
        left, own = 1.0, [self._mean(tensors, name, member, group) for member in members]
        total = math.fsum(own)
        for place, member in enumerate(members[:-1]):
            weight = own[place] / total if total else 1 / len(members)
            share = min(1.0, weight / left) if left > 0 else 0.5
            left -= weight
            start = self._settings.start.get(name, share)
            label = self._label(group, name if len(members) == 2 else f"share of {name}", member)
            self._append(tensors, parameter, member, start, label, share=True)
        names = tuple(planned.name for planned in tensors)
        self._shares.append(Shares(names, name, tuple(members), tuple(range(first, len(self._genes)))))

    def _fits(self, planned: PlannedTensor, member: int) -> bool:
        """Whether an input's tensor has the output's shape; one that has not can have no weight but the recipe's 0.

        An input that lacks it is another architecture, which is an error once the search gives it a weight.
        """
        source, shape = planned.tensor.sources[member], tuple(planned.tensor.shape)
        if not source.present or source.shape == shape:
            return True
        self._apart.setdefault(planned.name, f"{source.model} has {list(source.shape)}, the merge {list(shape)}")
        return False

    def _gene(self, group: Group, parameter: Parameter, member: int | None, tensors: list[PlannedTensor]) -> None:
        label = self._label(group, parameter.name, member)
        if not tensors:
            self._idle.setdefault(parameter.name, self._label(None, parameter.name, member))
            return
        given = self._settings.start.get(parameter.name)
        start = self._mean(tensors, parameter.name, member, group) if given is None else given
        self._append(tensors, parameter, member, start, label)

    def _append(
        self,
        tensors: Sequence[PlannedTensor],
        parameter: Parameter,
        member: int | None,
        start: float,
        label: str,
        share: bool = False,
    ) -> None:
        low, high = self._bounds[parameter.name]
        if not low <= start <= high:
            if parameter.name in self._settings.start:
                raise UserError(f"--start {parameter.name}={start:g}: lies outside the bounds, {low:g} to {high:g}")
            raise UserError(
                f"{self._plan.recipe.document.name}: the recipe's {label} is {start:g}, outside the bounds, {low:g} to"
                f" {high:g}; give --bounds {parameter.name}=LOW:HIGH around it, or begin elsewhere with"
                f" --start {parameter.name}=VALUE"
            )
        names = tuple(planned.name for planned in tensors)
        self._genes.append(Gene(names, parameter.name, member, low, high, float(start), label, share))

    def _label(self, group: Group | None, parameter: str, member: int | None) -> str:
        of = f" of {self._plan.names[member]}" if member is not None else ""
        return f"{parameter}{of}" + (f", {group.label}" if group and group.label else "")

    def _mean(self, tensors: Sequence[PlannedTensor], parameter: str, member: int | None, group: Group) -> float:
        found = [
            float((planned.tensor.values if member is None else planned.tensor.each[member])[parameter]) for planned in tensors
        ]
        if min(found) == max(found):
            return found[0]
        self._warn(
            f"the recipe's {self._label(group, parameter, member)} goes from {min(found):g} to {max(found):g}; the search"
            f" begins at the mean, {math.fsum(found) / len(found):g}, so the recipe itself is none of its candidates"
        )
        return math.fsum(found) / len(found)

    def _warn(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.append(text)

    def _remark(self) -> None:
        """Say which parameters have no effect anywhere, and which tensors can have no coefficients but the recipe's."""
        for name, why in self._apart.items():
            self._warn(f"{name} keeps the recipe's own coefficients and is not searched: {why}")
        method = self._plan.method
        used = {gene.parameter for gene in self._genes}
        for name, whose in self._idle.items():
            if name in used or (name != "weight" and self._settings.genes is None):
                continue
            if name == "weight" and method.parameter("normalize") is not None:
                strength = method.parameter("lambda") is not None and "lambda" not in self._bounds
                also = f", or search --genes {','.join([*self._bounds, 'lambda'])}" if strength else ""
                self._warn(
                    f"{whose}: normalize: true divides a lone weight by itself, so it counts for nothing and is not searched;"
                    f" set normalize: false for it to count{also}"
                )
            else:
                self._warn(f"{whose}: changes no tensor with {method.name} as it is set here, and is not searched")


def _chosen(plan: Plan, settings: SearchSettings) -> list[Parameter]:
    method = plan.method
    numeric = {parameter.name: parameter for parameter in method.parameters if parameter.kind in (float, int)}
    names = list(settings.genes or [name for name in USUAL if name in numeric] or numeric)
    for name in names:
        if name not in numeric:
            other = method.parameter(name) is not None
            said = "is no number, so it cannot be searched" if other else "is no parameter of"
            raise UserError(
                f"--genes {name}: {said}{'' if other else f' {method.name}'}{nearest(name, numeric)}"
                f" (numbers of {method.name}: {', '.join(numeric) or 'none'})"
            )
    if not names:
        raise UserError(f"there is nothing to search: {method.name} has no coefficients")
    return [numeric[name] for name in names]


def _range(parameter: Parameter, settings: SearchSettings) -> tuple[float, float]:
    low, high = settings.bounds.get(parameter.name) or RANGES.get(parameter.name, (parameter.low, parameter.high))
    if parameter.name not in settings.bounds:
        low, high = max(low, parameter.low), min(high, parameter.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(
            f"{parameter.name} may be {parameter.range}: say with --bounds {parameter.name}=LOW:HIGH where to search"
        )
    for end in (low, high):
        try:
            parameter.check(end)
        except ValueError as error:
            raise UserError(f"--bounds {parameter.name}={low:g}:{high:g}: {error}") from None
    return low, high
