"""Whether a coefficient changes a tensor at all, found by trying it on a small one drawn at random.

A gene that changes nothing costs candidates and finds nothing: a lone weight that `normalize: true` divides by itself,
`density` under task arithmetic, all weights of tensors outside mod's scope.  A trial knows this of any method, also of those
other packages bring, without a table of special cases.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from modist.checkpoint.dtype import Floats
from modist.merge import Choice, Copy, Method, Tensor
from modist.merge.crew import Crew
from modist.merge.plan import PlannedTensor
from modist.merge.source import InMemory
from modist.recipe import Scalar

Law = Literal["free", "ratio", "sum"]
Bounds = Mapping[str, tuple[float, float]]

_SIDE = 16
# Far above what float32 rounds away, far below what a coefficient that counts does to deltas of 0.3.
_SAME = 1e-5
# Where other coefficients stand meanwhile, and the three places that one is tried at: inside the bounds, never in the middle,
# which is 0 for bounds such as [-1, 1].
_OTHERS, _TRIED = 0.61, (0.23, 0.47, 0.71)
_SCALE = 1.3
_NUMBER = re.compile(r"\.\d+\.")


class Responses:
    """Trials of one method's coefficients.

    Args:
        method: of the merge.
        bounds: of every parameter that is searched.
    """

    def __init__(self, method: Method, bounds: Bounds) -> None:
        self._method = method
        self._bounds = bounds
        self._inputs: dict[tuple[int, int], list[Floats]] = {}
        self._known: dict[object, object] = {}

    def matters(self, planned: PlannedTensor, parameter: str, index: int | None) -> bool:
        """Whether a parameter (of input `index`, or shared) changes the tensor."""

        def tried() -> bool:
            found = []
            for share in _TRIED:
                values, each = self._inside(planned.tensor)
                (values if index is None else each[index])[parameter] = self._at(parameter, share)
                found.append(self._blend(planned.tensor, values, each))
            return _differ(found)

        return bool(self._once(planned.tensor, ("matters", parameter, index), tried))

    def shares_matter(self, planned: PlannedTensor, parameter: str, members: Sequence[int]) -> bool:
        """The same for numbers that sum to 1 over the inputs `members`."""

        def tried() -> bool:
            found = []
            for turn in range(len(members)):
                values, each = self._inside(planned.tensor)
                shares = [1.0 + 2 * ((place + turn) % len(members)) for place in range(len(members))]
                for member, share in zip(members, shares, strict=True):
                    each[member][parameter] = share / sum(shares)
                found.append(self._blend(planned.tensor, values, each))
            return _differ(found)

        return bool(self._once(planned.tensor, ("shares", parameter, tuple(members)), tried))

    def law(self, planned: PlannedTensor, parameter: str, members: Sequence[int]) -> Law:
        """What binds a parameter of several inputs: `sum`, it must sum to 1; `ratio`, only ratios count; or `free`."""

        def tried() -> Law:
            found, refused = [], []
            for scale in (1.0, _SCALE):
                values, each = self._inside(planned.tensor)
                numbers = [1.0 + place for place in range(len(members))]
                for member, number in zip(members, numbers, strict=True):
                    each[member][parameter] = scale * number / sum(numbers)
                tensor = self._made(planned.tensor, values, each)
                refused.append(self._method.refuses(tensor) is not None)
                found.append(None if refused[-1] else self._blend(planned.tensor, values, each))
            if refused == [False, True]:
                return "sum"
            return "free" if any(refused) or _differ(found) else "ratio"

        return self._once(planned.tensor, ("law", parameter, tuple(members)), tried)  # type: ignore[return-value]

    def _once(self, tensor: Tensor, asked: tuple[object, ...], work: Callable[[], object]) -> object:
        # Layers differ by their numbers alone, so one of them speaks for all that a recipe treats alike.
        said = tuple(
            tuple(sorted((name, value) for name, value in settings.items() if name not in self._bounds))
            for settings in (tensor.values, *tensor.each)
        )
        key = (_NUMBER.sub(".0.", tensor.name), len(tensor.shape), said, asked)
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]

    def _at(self, parameter: str, share: float) -> float:
        low, high = self._bounds[parameter]
        return low + share * (high - low)

    def _inside(self, tensor: Tensor) -> tuple[dict[str, Scalar], list[dict[str, Scalar]]]:
        """The tensor's parameters with those that are searched inside their bounds."""

        def moved(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
            return {name: self._at(name, _OTHERS) if name in self._bounds else value for name, value in settings.items()}

        return moved(tensor.values), [moved(each) for each in tensor.each]

    def _made(self, tensor: Tensor, values: Mapping[str, Scalar], each: Sequence[Mapping[str, Scalar]]) -> Tensor:
        """A small tensor of the same name, inputs and parameters."""
        shape = (_SIDE, _SIDE) if len(tensor.shape) > 1 else (_SIDE * _SIDE,)
        drawn = self._drawn(len(tensor.sources), tensor.base)
        sources = [InMemory(values, f"{number}", tensor.name) for number, values in enumerate(drawn)]
        return replace(
            tensor,
            shape=shape,
            sources=sources,
            values=values,
            each=each,
            # A recipe's `scaling` is made for the whole tensor, and hides no coefficient.
            scale=lambda block, delta: delta,
            crew=Crew(1),
            on_nonfinite=lambda index: None,
        )

    def _drawn(self, count: int, base: int | None) -> list[Floats]:
        key = (count, -1 if base is None else base)
        if key not in self._inputs:
            drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "little"))
            common = drawn.standard_normal(_SIDE * _SIDE)
            self._inputs[key] = [
                (common + (0.0 if index == base else 0.3) * drawn.standard_normal(_SIDE * _SIDE)).astype(np.float32)
                for index in range(count)
            ]
        return self._inputs[key]

    def _blend(self, tensor: Tensor, values: Mapping[str, Scalar], each: Sequence[Mapping[str, Scalar]]) -> Floats | None:
        made = self._made(tensor, values, each)
        inputs = self._drawn(len(made.sources), made.base)
        try:
            with np.errstate(all="ignore"):
                answer = self._method.merge(made)
                if isinstance(answer, Copy):
                    return inputs[answer.input]
                result = answer(made.block(0))
                if isinstance(result, Choice):
                    return np.stack(inputs)[result.inputs.astype(np.intp), np.arange(made.size)]
                return result
        except Exception:
            # What a method of another package cannot do with a small tensor tells nothing of the large one.
            return None


def _differ(results: Sequence[Floats | None]) -> bool:
    """Whether results are not all the same; one that is not known counts as another."""
    first, *others = results
    return first is None or any(other is None or not np.allclose(other, first, rtol=0, atol=_SAME) for other in others)
