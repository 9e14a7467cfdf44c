"""What a merge method is, and how methods are found: ours, and those other packages offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from modist.errors import RecipeError, UserError, nearest
from modist.merge.tensor import Answer, Tensor
from modist.recipe import Scalar

ENTRY_POINT_GROUP = "modist.methods"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: as recipes write it.
        help: one line.
        default: the value where a recipe says nothing; None where it must say something.
        scope: `shared` by all inputs, or one for each `input`, or for each input that is `other` than the base.
        kind: float, int, bool, or the words allowed.
        low, high: the closed range of a number.
    """

    name: str
    help: str
    default: Scalar | None = None
    scope: Literal["shared", "input", "other"] = "shared"
    kind: type | tuple[str, ...] = float
    low: float = float("-inf")
    high: float = float("inf")

    def check(self, value: Scalar) -> Scalar:
        """The value in the parameter's own type; ValueError says what is wrong with it."""
        if isinstance(self.kind, tuple):
            if value not in self.kind:
                raise ValueError(f"{value!r} is none of {', '.join(self.kind)}{nearest(str(value), self.kind)}")
            return value
        if self.kind is bool:
            if not isinstance(value, bool) and value not in (0, 1):
                raise ValueError(f"{value!r} is neither true nor false")
            return bool(value)
        if isinstance(value, (bool, str)):
            raise ValueError(f"{value!r} is not a number")
        if not (self.low <= value <= self.high) or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} is outside {self.range}")
        return int(value) if self.kind is int else float(value)

    @property
    def range(self) -> str:
        """The values allowed, for people."""
        if isinstance(self.kind, tuple):
            return " | ".join(self.kind)
        if self.kind is bool:
            return "true | false"
        if self.low == float("-inf") and self.high == float("inf"):
            return "any number"
        low = f"{self.low:g}" if self.low != float("-inf") else "-∞"
        high = f"{self.high:g}" if self.high != float("inf") else "∞"
        return f"[{low}, {high}]"


@dataclass(frozen=True)
class Method:
    """A way to merge tensors.

    Attributes:
        name: as recipes write it.
        summary: one line.
        source: paper and equation.
        merge: from one tensor and its inputs to how its blocks are blended.
        parameters: what recipes may set.
        base: whether a base model is needed.
        inputs: fewest and most inputs, the base not counted where one is required; None for no limit.
        random: whether the seed matters.
        reports: what the report tells of each parent: the `share` of elements taken, the norm of its `delta` kept, or its
            `weight`.
        dtype: of the output where the recipe names none and it is not the stored one.
        contributes: whether an input reaches the output at all, given the tensor with its parameters resolved.
        refuses: why these settings cannot be merged, or None; given the tensor.
        warns: remarks on settings that cannot do what they seem to; given the tensor.
        rows: the length of the rows that blocks must hold whole, for methods that work by rows or by columns; None for blocks
            of any elements. Memory is then bounded by the longest row where that is longer than a block.
        across: a survey of all tensors together, before any of them is merged; it leaves what it finds in `Tensor.found`.
        scales: whether it applies `tensor.scale` to its merged delta, so that recipes may have `scaling`.
    """

    name: str
    summary: str
    source: str
    merge: Callable[[Tensor], Answer]
    parameters: tuple[Parameter, ...] = ()
    base: Literal["required", "optional", "ignored"] = "ignored"
    inputs: tuple[int, int | None] = (1, None)
    random: Callable[[Tensor], bool] = lambda tensor: False
    reports: Literal["share", "delta", "weight"] = "weight"
    dtype: Callable[[Tensor], str | None] = lambda tensor: None
    contributes: Callable[[Tensor, int], bool] = lambda tensor, index: True
    refuses: Callable[[Tensor], str | None] = lambda tensor: None
    warns: Callable[[Tensor, Sequence[str]], Sequence[str]] = lambda tensor, names: ()
    rows: Callable[[Tensor], int | None] = lambda tensor: None
    across: Callable[[Sequence[Tensor]], None] | None = None
    scales: bool = False

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


@cache
def methods() -> dict[str, Method]:
    """All methods by name: modist's own, then those of installed packages (entry points `modist.methods`).

    Raises:
        UserError: an installed package's method cannot be loaded, or takes a name already in use.
    """
    from modist.merge.methods import OWN

    found = {method.name: method for method in OWN}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            method = point.load()
        except Exception as error:
            raise UserError(f"the merge method {point.name!r} of {point.value!r} cannot be loaded: {error}") from None
        if not isinstance(method, Method):
            raise UserError(f"the merge method {point.name!r}: {point.value!r} is not a modist.merge.Method")
        if method.name in found:
            raise UserError(f"the merge method {method.name!r} of {point.value!r} takes a name that is in use")
        found[method.name] = method
    return found


def find_method(name: str) -> Method:
    """A method by name; RecipeError names the nearest known one."""
    known = methods()
    if name not in known:
        raise RecipeError(f"unknown merge method {name!r}{nearest(name, known)} (known: {', '.join(sorted(known))})")
    return known[name]
