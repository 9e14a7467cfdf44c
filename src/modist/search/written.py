"""A plan with its coefficients as a recipe, in mergekit's dialect: slices of layers, and filters on names within them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modist.merge import Parameter, Plan
from modist.merge.plan import PlannedTensor, is_embedding
from modist.recipe import ModelReference, Scalar

_LAYER = re.compile(r"\.\d+\.")
Values = Mapping[str, Scalar]


def recipe_text(plan: Plan) -> str:
    """YAML whose plan has the same parameters for every tensor.

    Layers that follow each other with the same coefficients are one slice; where there is only one, the recipe lists `models`.
    Local models and files are named by their whole paths.
    """
    merged = [planned for planned in plan.tensors if not planned.copied]
    runs = _runs(plan, merged)
    recipe: dict[str, Any] = {"merge_method": plan.method.name}
    if plan.recipe.base is not None:
        recipe["base_model"] = _name(plan.recipe.base)
    if plan.recipe.dtype is not None:
        recipe["dtype"] = plan.recipe.dtype
    if (scaling := plan.recipe.scaling) is not None:
        omega = {} if scaling.omega is None else {"omega": scaling.omega}
        recipe["scaling"] = {"kind": scaling.kind, "statistics": str(scaling.statistics.resolve()), **omega}
    shared = [parameter for parameter in plan.method.parameters if parameter.scope == "shared"]
    common, local = _divided(shared, merged, None)
    if common:
        recipe["parameters"] = common
    slices = []
    for at, (first, stop) in enumerate(runs):
        tensors = [planned for planned in merged if _in(planned, at, runs)]
        sources = []
        for index, reference in enumerate(_references(plan)):
            source: dict[str, Any] = {"model": _name(reference)}
            if len(runs) > 1:
                source["layer_range"] = [first, stop]
            own = [p for p in plan.method.parameters if p.scope != "shared" and p.name in plan.tensors[0].tensor.each[index]]
            settings = _settings(own, tensors, index)
            if settings:
                source["parameters"] = settings
            sources.append(source)
        part: dict[str, Any] = {"sources": sources}
        settings = _settings(local, tensors, None)
        if settings:
            part["parameters"] = settings
        slices.append(part)
    if len(slices) > 1:
        recipe["slices"] = slices
    else:
        recipe["models"] = slices[0]["sources"]
        if "parameters" in slices[0]:
            recipe["parameters"] = {**recipe.get("parameters", {}), **slices[0]["parameters"]}
    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, default_flow_style=None, width=128))


def _references(plan: Plan) -> list[ModelReference]:
    """The models listed as sources; a base that has settings of its own must be listed too."""
    named = [source.model for source in plan.recipe.slices[0].sources]
    models = list(plan.recipe.models)[: len(plan.inputs)]
    extra = any(settings for planned in plan.tensors for settings in planned.tensor.each[len(named) :])
    return models if extra else named


def _name(reference: ModelReference) -> str:
    return str(reference.folder.resolve()) if reference.is_local else str(reference)


def _runs(plan: Plan, merged: Sequence[PlannedTensor]) -> list[tuple[int, int]]:
    """[first, stop) of consecutive layers whose tensors are merged alike."""
    layers = 1 + max((planned.layer for planned in plan.tensors if planned.layer is not None), default=-1)
    alike: list[dict[str, Any]] = [{} for _ in range(layers)]
    for planned in merged:
        if planned.layer is not None:
            tensor = planned.tensor
            said = (dict(tensor.values), [dict(settings) for settings in tensor.each])
            alike[planned.layer][_LAYER.sub(".#.", planned.name, count=1)] = said
    runs: list[tuple[int, int]] = []
    for layer in range(layers):
        if runs and alike[layer] == alike[layer - 1]:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return runs or [(0, 0)]


def _in(planned: PlannedTensor, at: int, runs: Sequence[tuple[int, int]]) -> bool:
    """Whether a tensor belongs to a slice; those outside layers belong to the first (embeddings) or the last."""
    if planned.layer is None:
        return at == (0 if is_embedding(planned.name) else len(runs) - 1)
    return runs[at][0] <= planned.layer < runs[at][1]


def _divided(
    parameters: Sequence[Parameter], merged: Sequence[PlannedTensor], index: int | None
) -> tuple[dict[str, Scalar], list[Parameter]]:
    """Parameters that are the same everywhere, with their values, and the others."""
    common: dict[str, Scalar] = {}
    local = []
    for parameter in parameters:
        values = set(_values(parameter, merged, index).values())
        if len(values) != 1:
            local.append(parameter)
        elif (value := values.pop()) != parameter.default:
            common[parameter.name] = value
    return common, local


def _values(parameter: Parameter, tensors: Sequence[PlannedTensor], index: int | None) -> dict[str, Scalar]:
    return {
        planned.name: (planned.tensor.values if index is None else planned.tensor.each[index])[parameter.name]
        for planned in tensors
    }


def _settings(parameters: Sequence[Parameter], tensors: Sequence[PlannedTensor], index: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parameter in parameters:
        values = _values(parameter, tensors, index)
        if values and set(values.values()) != {parameter.default}:
            found[parameter.name] = _cases(values)
    return found


def _cases(values: Values) -> Scalar | list[dict[str, Scalar]]:
    """One value, or filters and their values, of which the first that is part of a tensor's name decides."""
    kinds = list(values.values())
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    cases: list[dict[str, Scalar]] = []
    left = dict(values)
    while any(value != usual for value in left.values()):
        text, value = _best_filter(left, usual)
        cases.append({"filter": text, "value": value})
        left = {name: kept for name, kept in left.items() if text not in name}
    return [*cases, {"value": usual}] if cases else usual


def _best_filter(left: Values, usual: Scalar) -> tuple[str, Scalar]:
    """The part of names that decides most tensors of an unusual value and none of another; the shortest of those."""
    parts: dict[str, None] = {}
    for name, value in left.items():
        if value != usual:
            # A whole name always serves: the longest one left is part of no other.
            parts |= dict.fromkeys((*(part for part in name.split(".") if part and not part.isdigit()), name))
    best: tuple[int, int, str, Scalar] | None = None
    for text in parts:
        reached = {value for name, value in left.items() if text in name}
        if len(reached) == 1 and (value := reached.pop()) != usual:
            rank = (-sum(text in name for name in left), len(text), text, value)
            if best is None or rank[:3] < best[:3]:
                best = rank
    assert best is not None
    return best[2], best[3]
