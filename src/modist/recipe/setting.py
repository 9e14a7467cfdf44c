"""A parameter's setting: one value, a gradient over depth, or values chosen by a filter on the tensor's name.

These are mergekit's three forms, with its rules: gradients interpolate linearly over the layers of a slice, filters are
substrings, and the first case whose filter matches decides.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modist.recipe.document import Document, Key, short

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Case:
    """One `filter`/`value` pair; a filter of None (or `*`) matches every tensor."""

    filter: str | None
    value: Scalar | tuple[Scalar, ...]
    path: tuple[Key, ...]

    def matches(self, tensor: str) -> bool:
        return self.filter is None or self.filter == "*" or self.filter in tensor


@dataclass(frozen=True)
class Setting:
    """What a recipe says of one parameter, and where it says so."""

    cases: tuple[Case, ...]
    path: tuple[Key, ...]

    def at(self, tensor: str, depth: float) -> Scalar | None:
        """The value for one tensor.

        Args:
            tensor: its full name.
            depth: 0 at the first layer of its slice, 1 at the last; 0 for tensors outside the layers.

        Returns:
            The value, or None where no filter matches (a setting of lower precedence may then speak).
        """
        for case in self.cases:
            if case.matches(tensor):
                return _interpolate(case.value, depth) if isinstance(case.value, tuple) else case.value
        return None

    def filters(self) -> Iterator[Case]:
        return (case for case in self.cases if case.filter not in (None, "*"))

    def scalars(self) -> Iterator[tuple[Scalar, tuple[Key, ...]]]:
        """Every value written in the setting, for range checks before any tensor is known."""
        for case in self.cases:
            for value in case.value if isinstance(case.value, tuple) else (case.value,):
                yield value, case.path


Settings = Mapping[str, Setting]


def _interpolate(values: tuple[Scalar, ...], depth: float) -> Scalar:
    position = depth * (len(values) - 1)
    low = int(position)
    below, above = values[low], values[min(low + 1, len(values) - 1)]
    if isinstance(below, (bool, str)) or isinstance(above, (bool, str)):
        return below
    share = position - low
    return (1 - share) * below + share * above


def constant(value: Scalar) -> Setting:
    """The setting of a parameter that is the same everywhere."""
    return Setting((Case(None, value, ()),), ())


def read_setting(document: Document, data: object, path: tuple[Key, ...]) -> Setting:
    """Read one setting out of a recipe; raises RecipeError that names the place."""
    if isinstance(data, dict):
        return Setting((_read_case(document, data, path),), path)
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        cases = []
        for index, item in enumerate(data):
            if not isinstance(item, dict):
                raise document.error(
                    f"{short(item)} stands among filter/value pairs; write it as '- value: {short(item)}'",
                    *path,
                    index,
                )
            cases.append(_read_case(document, item, (*path, index)))
        return Setting(tuple(cases), path)
    return Setting((Case(None, _read_value(document, data, path), path),), path)


def read_settings(document: Document, data: dict[str, Any] | None, path: tuple[Key, ...]) -> Settings:
    """Read a mapping of parameters to their settings; none where the recipe has none."""
    return {key: read_setting(document, value, (*path, key)) for key, value in (data or {}).items()}


def _read_case(document: Document, data: dict[object, object], path: tuple[Key, ...]) -> Case:
    for key in data:
        if key not in ("filter", "value"):
            raise document.error(f"unknown key {short(key)}; a case has 'filter' and 'value'", *path, str(key))
    if "value" not in data:
        raise document.error("a case needs a 'value'", *path)
    pattern = data.get("filter")
    if pattern is not None and (not isinstance(pattern, str) or not pattern):
        raise document.error(f"a filter is part of a tensor's name, not {short(pattern)}", *path, "filter")
    return Case(pattern, _read_value(document, data["value"], (*path, "value")), path)


def _read_value(document: Document, data: object, path: tuple[Key, ...]) -> Scalar | tuple[Scalar, ...]:
    if isinstance(data, list):
        if not data:
            raise document.error("an empty gradient; give at least one value", *path)
        return tuple(_read_scalar(document, item, (*path, index)) for index, item in enumerate(data))
    return _read_scalar(document, data, path)


def _read_scalar(document: Document, data: object, path: tuple[Key, ...]) -> Scalar:
    if not isinstance(data, (bool, int, float, str)):
        kind = "nothing" if data is None else type(data).__name__
        raise document.error(f"expected a number, a word or true/false, found {kind}", *path)
    if isinstance(data, str):
        # YAML 1.1 reads 1e-5 as a string; people mean the number.
        try:
            return float(data)
        except ValueError:
            return data
    if abs(data) > sys.float_info.max and data not in (math.inf, -math.inf):
        raise document.error("an integer larger than any number a tensor can hold", *path)
    return data
