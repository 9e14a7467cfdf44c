"""Merged deltas as directions: each recipe's theta - base, and a live model put at any distance from the base along it.

    theta(r) = base + r N delta / |delta|        N: the mean of the parents' |theta_i - base|, all norms over the whole model

Two methods at the same r differ in direction alone.  Everything is float32 here, whatever dtype a recipe asks for: rounding
would lose other parts of a short delta than of a long one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import Array, Floats
from modist.checkpoint.header import StoredTensor
from modist.errors import UserError
from modist.merge import Plan
from modist.merge.engine import Engine, Events
from modist.merge.tensor import run_dots

if TYPE_CHECKING:
    from modist.checkpoint.shards import ShardFiles


Delta = Callable[[str], Floats]


@dataclass(frozen=True, eq=False)
class Direction:
    """One merged delta.

    Attributes:
        deltas: tensor -> theta - base, float32 [elements].
        norm: its L2 norm over all tensors.
        cosines: with each parent's delta.
        inside: the cosine with the nearest weighted sum of the parents' deltas; 1 where it is such a sum.
    """

    deltas: Mapping[str, Floats]
    norm: float
    cosines: tuple[float, ...]
    inside: float


class Field:
    """A base, its parents, and a live model that can be put anywhere between and beyond.

    Attributes:
        base, parents: open checkpoints of one architecture.
        norms: |theta_i - base| of each parent.
        unit: their mean, the unit of distances.
    """

    def __init__(self, plan: Plan, threads: int | None = None, memory: int = 1 << 30) -> None:
        """Measure the parents.

        Args:
            plan: of a method that needs a base, with every parent in it: says which tensors there are.

        Raises:
            UserError: no parent differs from the base.
        """
        assert plan.base is not None
        self.base: Checkpoint = plan.inputs[plan.base]
        self.parents = tuple(checkpoint for index, checkpoint in enumerate(plan.inputs) if index != plan.base)
        self._threads, self._memory = threads or os.cpu_count() or 1, memory
        self._names = {entry.name: entry.tensor.shape for entry in plan.tensors if not entry.copied}
        count = len(self.parents)
        # [parents, parents]: dot products of their deltas
        self._dots = np.zeros((count, count))
        for one in range(count):
            for other in range(one + 1):
                dot = self._dot(self._delta_of(one), self._delta_of(other))
                self._dots[one, other] = self._dots[other, one] = dot
        self.norms = tuple(float(norm) for norm in np.sqrt(self._dots.diagonal()))
        self.unit = math.fsum(self.norms) / len(self.norms)
        if not self.unit:
            raise UserError(f"no parent differs from the base {self.base.label}, so there is no distance to measure by")
        if not math.isfinite(self.unit):
            raise UserError("a parent holds NaN or infinite values; modist inspect says which")

    def direction(self, plan: Plan) -> Direction:
        """A recipe's merged delta, merged by the engine itself, held in memory.

        Raises:
            UserError: other tensors than the base's, or a delta of length 0.
            MergeError: as merging.
        """
        found = {entry.name: entry.tensor.shape for entry in plan.tensors if not entry.copied}
        if found != self._names:
            odd = sorted(found.items() ^ self._names.items())[0][0]
            raise UserError(f"{plan.recipe.document.name}: its merge differs from {self.base.label} in the tensor {odd!r}")
        sink = _Sink(found)
        targets = {
            entry.name: StoredTensor(entry.name, "F32" if not entry.copied else entry.dtype, entry.tensor.shape, Path(), 0, 0)
            for entry in plan.tensors
        }
        done: dict[str, dict[str, float]] = {entry.name: {} for entry in plan.tensors if entry.copied}
        Engine(self._threads, self._memory).run(plan, targets, cast("ShardFiles", sink), Events(), done)
        for name, values in sink.values.items():
            np.subtract(values, self.base.floats(name), out=values)
        own: Delta = sink.values.__getitem__
        norm = math.sqrt(self._dot(own, own))
        if not norm:
            raise UserError(f"{plan.recipe.document.name}: merges to the base itself, which lies in no direction")
        dots = np.array([self._dot(own, self._delta_of(index)) for index in range(len(self.parents))])
        # The projection's squared length is dots' G^-1 dots; G is singular where parents are alike.
        square = float(dots @ np.linalg.pinv(self._dots, hermitian=True) @ dots)
        lengths = [norm * length or 1.0 for length in self.norms]
        cosines = tuple(float(dot / length) for dot, length in zip(dots, lengths, strict=True))
        return Direction(sink.values, norm, cosines, min(1.0, math.sqrt(max(0.0, square)) / norm))

    def stage(self, model: Any) -> Stage:
        """A live model of the base's architecture, ready to be moved; UserError where its tensors go by other names."""
        return Stage(model, self.base, self._names)

    def _delta_of(self, index: int) -> Delta:
        def delta(name: str) -> Floats:
            values = self.parents[index].floats(name)
            np.subtract(values, self.base.floats(name), out=values)
            return values

        return delta

    def _dot(self, one: Delta, other: Delta) -> float:
        return math.fsum(float(term) for name in self._names for term in run_dots(one(name), other(name)))


class Stage:
    """Where a live model stands."""

    def __init__(self, model: Any, base: Checkpoint, shapes: Mapping[str, Sequence[int]]) -> None:
        self.model = model
        self._base = base
        state = model.state_dict(keep_vars=True)
        self._places = {}
        for name, shape in shapes.items():
            if name not in state or tuple(state[name].shape) != tuple(shape):
                raise UserError(
                    f"{base.label}: transformers keeps the tensor {name!r} under another name or in another shape while the"
                    " model runs, so it cannot be moved in memory"
                )
            self._places[name] = state[name].data

    def move(self, direction: Direction, scale: float) -> Any:
        """Put the model at base + scale * delta; the same object each time."""
        factor = np.float32(scale)
        for name in self._places:
            values = direction.deltas[name] * factor
            np.add(values, self._base.floats(name), out=values)
            self._put(name, values)
        return self.model

    def become(self, checkpoint: Checkpoint) -> Any:
        """Put the model where a checkpoint is: the base, or a parent."""
        for name in self._places:
            self._put(name, checkpoint.floats(name))
        return self.model

    def _put(self, name: str, values: Floats) -> None:
        import torch

        place = self._places[name]
        place.copy_(torch.from_numpy(values).view(place.shape))


class _Sink:
    """Takes the engine's blocks as float32 arrays."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.values: dict[str, Floats] = {}
        self._shapes = shapes
        self._lock = threading.Lock()

    def write(self, target: StoredTensor, start: int, stored: Array) -> None:
        """As `ShardFiles.write`."""
        with self._lock:
            if target.name not in self.values:
                self.values[target.name] = np.empty(math.prod(self._shapes[target.name]), np.float32)
        self.values[target.name][start : start + len(stored)] = stored
