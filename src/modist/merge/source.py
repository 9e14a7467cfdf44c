"""What an input of a merge is: a row of elements that can be read in pieces, wherever they come from.

A method, the engine, the plan and the report know only `TensorSource`.  Each kind of input is one small class: a tensor as a
checkpoint stores it, one with an adapter on it, one in memory, one that is not there.  A new kind says its dtype, shape and
bytes to its parent class and has `floats`; the other ways to read follow from that one, and a kind that holds stored elements
overrides them to pass those on untouched.  What decides its elements beside the model's files belongs into `identity`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from modist.checkpoint.dtype import Array, Floats, all_finite, narrow, widen
from modist.checkpoint.folder import Checkpoint


class TensorSource(ABC):
    """One input's copy of an output tensor.

    Attributes:
        model: whose it is, as the user called it.
        name: of the tensor there, for errors.
        dtype: safetensors' spelling; what the output keeps where nothing else is asked for.
        shape: its dimensions.
        nbytes: what one pass over it reads.
        identity: what decides its elements beside the model's files and `name`, as plain data: part of a merge's fingerprint.
        reading_bytes: memory that reading takes beside the elements.
        present: whether the model has such a tensor at all; if not, nothing else may be asked.
    """

    identity: tuple[object, ...] = ()
    reading_bytes = 0
    present = True

    def __init__(self, model: str, name: str, dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
        self.model, self.name, self.dtype, self.shape, self.nbytes = model, name, dtype, shape, nbytes

    @abstractmethod
    def floats(self, start: int, stop: int) -> Floats:
        """Elements [start, stop) in flat order as float32, in a new array that may be overwritten; from any thread."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def stored(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in the stored form of `dtype` (BF16 as uint16), in a new array."""
        return self.converted(start, stop, self.dtype)

    def converted(self, start: int, stop: int, dtype: str) -> Array:
        """Elements [start, stop) in the stored form of any dtype, rounded once at most."""
        return narrow(self.floats(start, stop), dtype)

    def finite(self, start: int, stop: int) -> bool:
        """Whether elements [start, stop) hold neither NaN nor infinity."""
        return bool(np.isfinite(self.floats(start, stop)).all())


class FromCheckpoint(TensorSource):
    """A tensor as a checkpoint stores it."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        held = checkpoint.tensors[name]
        super().__init__(checkpoint.label, name, held.dtype, held.shape, held.nbytes)
        self.checkpoint = checkpoint

    def floats(self, start: int, stop: int) -> Floats:
        return self.checkpoint.floats(self.name, start, stop)

    def stored(self, start: int, stop: int) -> Array:
        return self.checkpoint.read(self.name, start, stop)

    def converted(self, start: int, stop: int, dtype: str) -> Array:
        stored = self.stored(start, stop)
        return stored if self.dtype == dtype else narrow(widen(stored, self.dtype), dtype)

    def finite(self, start: int, stop: int) -> bool:
        return all_finite(self.stored(start, stop), self.dtype)


class Adapted(TensorSource):
    """A checkpoint's tensor with a LoRA adapter's update, added in float32 as it is read; `stored` is its one rounding."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        held = checkpoint.tensors[name]
        adapter, update = checkpoint.adapter, checkpoint.updates[name]
        assert adapter is not None
        factors = sum(adapter.weights.tensors[factor].nbytes for factor in (update.left, update.right))
        super().__init__(checkpoint.label, name, held.dtype, held.shape, held.nbytes + factors)
        self.checkpoint, self.adapter, self.update = checkpoint, adapter, update
        self.identity = (adapter.label, update.module, update.rank, update.scale, update.transposed)
        self.reading_bytes = adapter.held_bytes(update, held.shape[1])

    def floats(self, start: int, stop: int) -> Floats:
        values = self.checkpoint.floats(self.name, start, stop)
        self.adapter.add(self.update, self.shape, start, values)
        return values


class InMemory(TensorSource):
    """Elements already here."""

    def __init__(self, values: Floats, model: str = "memory", name: str = "values") -> None:
        super().__init__(model, name, "F32", values.shape, values.nbytes)
        self._flat = values.reshape(-1)

    def floats(self, start: int, stop: int) -> Floats:
        return np.array(self._flat[start:stop])


class Absent(TensorSource):
    """A tensor that a model has not: an error only where the result needs it."""

    present = False

    def __init__(self, model: str, name: str) -> None:
        super().__init__(model, name, "", (), 0)

    def floats(self, start: int, stop: int) -> Floats:
        raise LookupError(f"{self.model}: has no tensor {self.name!r}")


def open_source(checkpoint: Checkpoint, name: str) -> TensorSource:
    """A checkpoint's tensor as an input of a merge."""
    if name not in checkpoint.tensors:
        return Absent(checkpoint.label, name)
    return Adapted(checkpoint, name) if name in checkpoint.updates else FromCheckpoint(checkpoint, name)
