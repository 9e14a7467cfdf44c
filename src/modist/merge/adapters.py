"""Adapters of one base merged with each other, into an adapter.

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...]

The right side is one adapter whose rank is the sum of theirs and whose change is exactly the weighted sum; averaging the A and
the B each by themselves is not (the product of two sums has terms that mix them).  A `rank` in the recipe cuts the sum back to
its best approximation of that rank (Eckart and Young 1936), and the report says what share of the norm that loses.

Only methods that are linear in the deltas can end in an adapter of their own: `linear` and `task_arithmetic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modist.checkpoint.adapter import PREFIX, Adapter
from modist.checkpoint.adapter_config import CONFIG, LowRank
from modist.checkpoint.dtype import HOLDERS, NAMES
from modist.errors import UserError
from modist.merge.layer import layer_of
from modist.merge.method import Method, find_method
from modist.merge.models import open_adapter
from modist.merge.parameters import check_parameters, resolve
from modist.recipe import Recipe, Scalar

if TYPE_CHECKING:
    pass

_LINEAR = ("linear", "task_arithmetic")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One adapter's part in a module: its factors, and w_i s_i."""

    adapter: Adapter
    update: LowRank
    coefficient: float


@dataclass(frozen=True)
class Module:
    """One module of the result.

    Attributes:
        name: as adapters call it.
        terms: what is summed.
        embedding: whether its factors are an embedding's.
        rank: of the result.
        left, right: the factors' shapes as stored, B's and A's.
    """

    name: str
    terms: tuple[Term, ...]
    embedding: bool
    rank: int
    left: tuple[int, int]
    right: tuple[int, int]

    @property
    def full_rank(self) -> int:
        return sum(term.update.rank for term in self.terms)

    @property
    def stored(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Names and shapes of A and of B in the file."""
        kind, end = ("lora_embedding_", "") if self.embedding else ("lora_", ".weight")
        return (f"{PREFIX}{self.name}.{kind}A{end}", self.right), (f"{PREFIX}{self.name}.{kind}B{end}", self.left)


@dataclass(frozen=True)
class AdapterPlan:
    """A merge of adapters before any factor is read.

    Attributes:
        recipe, method: as for models.
        adapters: in the recipe's order.
        weights: what each counts, averaged over the modules it has.
        modules: of the result.
        dtype: of the result, as stored.
        warnings: remarks.
    """

    recipe: Recipe
    method: Method
    adapters: tuple[Adapter, ...]
    weights: tuple[float, ...]
    modules: tuple[Module, ...]
    dtype: str
    warnings: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(adapter.label for adapter in self.adapters)

    @property
    def read_bytes(self) -> int:
        return sum(adapter.weights.nbytes for adapter in self.adapters)

    @property
    def write_bytes(self) -> int:
        return sum(math.prod(shape) for module in self.modules for _, shape in module.stored) * HOLDERS[self.dtype].itemsize

    @property
    def ranks(self) -> tuple[int, int]:
        """The lowest and the highest rank of a module."""
        found = [module.rank for module in self.modules]
        return min(found), max(found)


def merges_adapters(recipe: Recipe) -> bool:
    """Whether every model of a recipe is an adapter's folder, without a model in front."""
    return all(
        reference.adapter is None and reference.is_local and _is_adapter(reference.folder) for reference in recipe.models
    )


def _is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def plan_adapters(recipe: Recipe) -> AdapterPlan:
    """Work out the merge from configs and headers.

    Raises:
        RecipeError, UserError, CheckpointError: a method that cannot end in an adapter, adapters that do not fit together.
    """
    document, method = recipe.document, find_method(recipe.method)
    if recipe.method not in _LINEAR:
        raise document.error(
            f"{recipe.method} is not linear in the adapters' deltas, so what it makes of them is no adapter of their ranks; use"
            f" {' or '.join(_LINEAR)}, or write each model as BASE+ADAPTER to merge them into a model",
            "merge_method",
        )
    if len(recipe.slices) > 1 or recipe.slices[0].length is not None:
        raise document.error("adapters are merged whole; list them under models", "slices")
    if recipe.scaling is not None:
        raise document.error("statistics are of models, not of adapters", "scaling")
    if recipe.tokenizer is not None:
        raise document.error(
            "an adapter has no vocabulary to align; write each model as BASE+ADAPTER", recipe.tokenizer.path[0]
        )
    if recipe.chat_template is not None:
        raise document.error("an adapter carries no chat template; write each model as BASE+ADAPTER", "chat_template")
    check_parameters(recipe, method)
    adapters = tuple(open_adapter(source.model) for source in recipe.slices[0].sources)
    warnings = _check_bases(adapters)
    for adapter in adapters:
        if adapter.saved:
            raise UserError(
                f"{adapter.label}: replaces whole tensors ({sorted(adapter.saved)[0]!r}), which a merged adapter cannot hold;"
                " write each model as BASE+ADAPTER to merge them into a model"
            )
    weights = [_weights(recipe, method, adapters, module) for module in _modules_of(adapters)]
    modules = tuple(_module(recipe, adapters, name, given) for name, given in zip(_modules_of(adapters), weights, strict=True))
    if not any(module.terms for module in modules):
        raise document.error("every weight is 0, so nothing is left of the adapters", "models")
    means = tuple(math.fsum(given[index] for given in weights) / len(weights) for index in range(len(adapters)))
    dtype = NAMES[recipe.dtype] if recipe.dtype else "F32"
    kept = tuple(module for module in modules if module.terms)
    return AdapterPlan(recipe, method, adapters, means, kept, dtype, tuple(warnings))


def _modules_of(adapters: tuple[Adapter, ...]) -> list[str]:
    return list(dict.fromkeys(module for adapter in adapters for module in adapter.updates))


def _check_bases(adapters: tuple[Adapter, ...]) -> list[str]:
    named = {adapter.base: adapter for adapter in adapters if adapter.base is not None}
    if len(named) > 1:
        (first, of), (other, by) = list(named.items())[:2]
        raise UserError(f"{by.label}: was trained on {other}, {of.label} on {first}: only adapters of one base can be merged")
    if len({bool(adapter.config.get("fan_in_fan_out")) for adapter in adapters}) > 1:
        raise UserError("these adapters lay their tensors out in two ways (fan_in_fan_out): they are of other bases")
    silent = [adapter.label for adapter in adapters if adapter.base is None]
    return [f"{label}: does not say which base it was trained on" for label in silent] if named else []


def _weights(recipe: Recipe, method: Method, adapters: tuple[Adapter, ...], module: str) -> list[float]:
    """What each adapter counts in one module."""
    part = recipe.slices[0]
    layers = 1 + max((layer_of(f"{name}.weight") or 0 for adapter in adapters for name in adapter.updates), default=0)
    name = f"{module}.weight"
    layer = layer_of(name)
    depth = 0.0 if layer is None else layer / (layers - 1) if layers > 1 else 1.0
    values: dict[str, Scalar] = {
        parameter.name: resolve(recipe, part, None, parameter, name, depth, "")
        for parameter in method.parameters
        if parameter.scope == "shared"
    }
    weight = method.parameter("weight")
    assert weight is not None
    given = [
        float(resolve(recipe, part, source, weight, name, depth, adapter.label))
        for source, adapter in zip(part.sources, adapters, strict=True)
    ]
    factor = float(values.get("lambda", 1.0))
    if values.get("normalize"):
        total = math.fsum(given)
        if total == 0:
            raise recipe.document.error("the weights sum to 0, which cannot be normalised", "merge_method")
        factor /= total
    return [factor * value for value in given]


def _module(recipe: Recipe, adapters: tuple[Adapter, ...], name: str, weights: list[float]) -> Module:
    terms: list[Term] = []
    shape: tuple[int, int] | None = None
    embedding = False
    for adapter, weight in zip(adapters, weights, strict=True):
        update = adapter.updates.get(name)
        if update is None:
            continue
        b, a = (update.right, update.left) if update.transposed else (update.left, update.right)
        own = (adapter.weights.tensors[b].shape[0], adapter.weights.tensors[a].shape[1])
        if shape is not None and own != shape:
            raise UserError(
                f"{adapter.label}: its change of {name!r} is {own[0]} x {own[1]}, in the adapters before it {shape[0]} x"
                f" {shape[1]}: only adapters of one base can be merged"
            )
        shape, embedding = own, "embedding_" in a
        if weight:
            terms.append(Term(adapter, update, weight * update.scale))
    assert shape is not None
    whole = sum(term.update.rank for term in terms)
    rank = min(whole, recipe.rank or whole)
    return Module(name, tuple(terms), embedding, rank, (shape[0], rank), (rank, shape[1]))


def common_copies(plan: AdapterPlan) -> dict[str, Adapter]:
    """The base's embeddings as adapters keep them beside their factors: name in the file -> an adapter that has it.

    Raises:
        UserError: two adapters have other ones: the base's vocabulary was changed for one of them.
    """
    found: dict[str, Adapter] = {}
    kept = {module.name for module in plan.modules}
    for adapter in plan.adapters:
        for base_name, name in adapter.copies.items():
            if base_name.removesuffix(".weight") not in kept:
                continue
            first = found.setdefault(name, adapter)
            if first.weights.read(name).tobytes() != adapter.weights.read(name).tobytes():
                raise UserError(
                    f"{adapter.label}: keeps another {base_name!r} of its base than {first.label}: only adapters of one base"
                    " can be merged"
                )
    return found


@dataclass(frozen=True)
class Factors:
    """A module's factors: B [out, r] and A [r, in], float64; |delta|^2, and how much of it a lower rank loses."""

    b: Values
    a: Values
    whole: float
    gone: float = 0.0


def factors(module: Module) -> Factors:
    """What a module of the result holds, read and computed."""
    left, right = [], []
    for term in module.terms:
        update, weights = term.update, term.adapter.weights
        b, a = (update.right, update.left) if update.transposed else (update.left, update.right)
        left.append(weights.floats(b).astype(np.float64).reshape(-1, update.rank) * term.coefficient)
        right.append(weights.floats(a).astype(np.float64).reshape(update.rank, -1))
    b_whole, a_whole = np.concatenate(left, axis=1), np.concatenate(right, axis=0)
    if module.rank == module.full_rank:
        # |B A|^2 = tr(B^T B  A A^T)
        return Factors(b_whole, a_whole, whole=float(np.sum((b_whole.T @ b_whole) * (a_whole @ a_whole.T))))
    b_turned, b_core = np.linalg.qr(b_whole)
    a_turned, a_core = np.linalg.qr(a_whole.T)
    u, sizes, v = np.linalg.svd(b_core @ a_core.T)
    # Where the tensor itself is smaller than the rank asked for, the rest stays 0.
    kept = min(module.rank, len(sizes))
    root = np.sqrt(sizes[:kept])
    b_kept, a_kept = np.zeros((len(b_whole), module.rank)), np.zeros((module.rank, a_whole.shape[1]))
    b_kept[:, :kept] = b_turned @ (u[:, :kept] * root)
    a_kept[:kept] = (root[:, None] * v[:kept]) @ a_turned.T
    squares = sizes**2
    return Factors(b_kept, a_kept, math.fsum(squares), math.fsum(squares[kept:]))
