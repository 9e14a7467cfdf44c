"""A method's parameters as a recipe sets them: checked as a whole, and resolved for one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from modist.errors import nearest
from modist.merge.method import Method, Parameter, methods
from modist.recipe import Recipe, Scalar, Setting, Slice, Source


def check_parameters(recipe: Recipe, method: Method) -> None:
    """Whether the method has every parameter that a recipe sets, and every value is in its range.

    Published recipes carry words of the method they were first written for (`int8_mask` under slerp), which mergekit passes
    over: a parameter of another method is remarked on by `misplaced`, a word that none has is a misspelling.

    Raises:
        RecipeError: with the line and the nearest right one.
    """
    if recipe.scaling is not None and not method.scales:
        scaled = ", ".join(name for name, other in methods().items() if other.scales)
        raise recipe.document.error(f"{method.name} merges no deltas that could be scaled; {scaled} do", "scaling")
    known = [parameter.name for parameter in method.parameters]
    for name, setting, _ in _every_settings(recipe):
        parameter = method.parameter(name)
        if parameter is None and _of_another(name):
            continue
        if parameter is None:
            raise recipe.document.error(
                f"{method.name} has no parameter {name!r}{nearest(name, known)} (it has: {', '.join(known) or 'none'})",
                *setting.path,
            )
        for value, path in setting.scalars():
            try:
                parameter.check(value)
            except ValueError as error:
                raise recipe.document.error(str(error), *path) from None


def misplaced(recipe: Recipe, method: Method) -> list[str]:
    """Remarks on parameters that have no effect: those of other methods, and shared ones that stand under one model."""
    remarks = []
    for name, setting, source in _every_settings(recipe):
        parameter = method.parameter(name)
        if parameter is None:
            known = ", ".join(parameter.name for parameter in method.parameters) or "none"
            place = recipe.document.where(*setting.path)
            remarks.append(f"{place} {method.name} has no parameter {name!r}, so it has no effect (it has: {known})")
        if source is not None and parameter is not None and parameter.scope == "shared":
            remarks.append(
                f"{recipe.document.where(*setting.path)} {name} is shared by all models and has no effect under one;"
                " move it to the recipe's parameters"
            )
    return remarks


def check_filters(recipe: Recipe, names: Sequence[str]) -> None:
    """RecipeError for a filter that none of the tensors' names contains."""
    parts = sorted({part for name in names for part in re.split(r"[.]", name) if not part.isdigit()})
    for _, setting, _ in _every_settings(recipe):
        for case in setting.filters():
            if not any(case.matches(name) for name in names):
                assert case.filter is not None
                raise recipe.document.error(
                    f"the filter {case.filter!r} matches no tensor{nearest(case.filter, parts)}"
                    f" (names are made of: {', '.join(parts[:14])})",
                    *case.path,
                )


def resolve(
    recipe: Recipe,
    part: Slice,
    source: Source | None,
    parameter: Parameter,
    name: str,
    depth: float,
    label: str,
) -> Scalar:
    """A parameter's value for one tensor: the source's, the slice's, the recipe's, or the default, in this order.

    Args:
        part, source: the slice, and whose parameter it is; None for one that all share.
        name: the tensor's, which filters see.
        depth: where gradients are read, 0 at the bottom of the slice and 1 at its top.
        label: the model's, for messages.

    Raises:
        RecipeError: it has no default and the recipe says nothing.
    """
    for settings in recipe.settings(part, source):
        setting = settings.get(parameter.name)
        value = setting.at(name, depth) if setting else None
        if value is not None:
            return parameter.check(value)
    if parameter.default is None:
        whose = f" for {label}" if source else ""
        raise recipe.document.error(
            f"the parameter {parameter.name!r} ({parameter.help}) is missing{whose} at tensor {name!r}",
            *(source.path if source else ("merge_method",)),
        )
    return parameter.default


def _every_settings(recipe: Recipe) -> Iterable[tuple[str, Setting, Source | None]]:
    for name, setting in recipe.parameters.items():
        yield name, setting, None
    for part in recipe.slices:
        for name, setting in part.parameters.items():
            yield name, setting, None
        for source in part.sources:
            for name, setting in source.parameters.items():
                yield name, setting, source


def _of_another(name: str) -> bool:
    """Whether some other method has a parameter of this name."""
    return any(method.parameter(name) is not None for method in methods().values())
