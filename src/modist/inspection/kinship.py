"""How far models lie apart, and how alike their deltas are: from the sums of `survey`, without reading again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from modist.inspection.sums import Shared, TensorSums

Chosen = Callable[[Shared], bool]


def everything(tensor: Shared) -> bool:
    return True


def matrices(tensor: Shared) -> bool:
    return tensor.is_matrix


@dataclass(frozen=True)
class Pair:
    """Two models' weights against each other, over the tensors both hold in one shape.

    Attributes:
        one, other: names.
        tensors, elements: compared.
        cosine, pearson: of all compared weights.
        matrix_cosine: without norms and biases, which are alike in unrelated models too.
        distance: Euclidean.
        relative: distance / norm of `one`.
        relative_to_other: distance / norm of `other`.
        differing: fraction of the elements that differ at all.
    """

    one: str
    other: str
    tensors: int
    elements: int
    cosine: float | None
    pearson: float | None
    matrix_cosine: float | None
    distance: float
    relative: float | None
    relative_to_other: float | None
    differing: float | None


@dataclass(frozen=True)
class LayerNorms:
    """|delta| / |base| within one layer: of all its tensors, of its attention, of its mlp."""

    layer: int
    all: float | None
    attention: float | None
    mlp: float | None


@dataclass(frozen=True)
class Delta:
    """One model minus the base.

    Attributes:
        model, base: names.
        norm: of the delta.
        relative: |delta| / |base|.
        differing: fraction of the elements that differ at all.
        layers: by layer, in order.
        outside: relative norms of embeddings, head, final norm and whatever else stands outside the layers.
    """

    model: str
    base: str
    norm: float
    relative: float | None
    differing: float | None
    layers: tuple[LayerNorms, ...]
    outside: Mapping[str, float | None]


@dataclass(frozen=True)
class Kinship:
    """Two deltas from one base against each other, over the tensors all three hold in one shape.

    Attributes:
        one, other, base: names.
        elements: compared.
        cosine, pearson: of the two deltas; None where one of them is zero.
        distance: Euclidean.
        sign_agreement: fraction of the elements where both deltas are not zero and have one sign.
        both_moved: fraction of the elements where both deltas are not zero; half of it would agree by chance.
    """

    one: str
    other: str
    base: str
    elements: int
    cosine: float | None
    pearson: float | None
    distance: float
    sign_agreement: float | None
    both_moved: float | None


def ratio(part: float, whole: float) -> float | None:
    """part / whole where that is a finite number."""
    result = part / whole if whole > 0 else math.nan
    return result if math.isfinite(result) else None


def correlation(product: float, square_one: float, square_two: float) -> float | None:
    """Cosine from a dot product and two squared norms."""
    found = ratio(product, math.sqrt(max(square_one, 0.0)) * math.sqrt(max(square_two, 0.0)))
    return None if found is None else min(1.0, max(-1.0, found))


def _with(sums: Iterable[TensorSums], *models: int) -> list[tuple[TensorSums, tuple[int, ...]]]:
    """The tensors that all of some models hold, and their places in each."""
    return [
        (found, tuple(found.tensor.members.index(model) for model in models))
        for found in sums
        if all(model in found.tensor.members for model in models)
    ]


def pair(sums: Sequence[TensorSums], names: Sequence[str], one: int, other: int) -> Pair:
    """Compare two models' weights."""
    shared = _with(sums, one, other)
    elements = sum(found.counted for found, _ in shared)
    square_i = math.fsum(found.squares[i] for found, (i, _) in shared)
    square_j = math.fsum(found.squares[j] for found, (_, j) in shared)
    square_d = math.fsum(found.distances[i, j] for found, (i, j) in shared)
    total_i = math.fsum(found.totals[i] for found, (i, _) in shared)
    total_j = math.fsum(found.totals[j] for found, (_, j) in shared)
    count = max(elements, 1)
    # Both centred: the covariance from the distance too, so that near-equal models do not cancel.
    var_i, var_j = square_i - total_i**2 / count, square_j - total_j**2 / count
    var_d = square_d - (total_i - total_j) ** 2 / count
    return Pair(
        names[one],
        names[other],
        len(shared),
        elements,
        correlation((square_i + square_j - square_d) / 2, square_i, square_j),
        correlation((var_i + var_j - var_d) / 2, var_i, var_j),
        matrix_cosine(sums, one, other),
        math.sqrt(square_d),
        ratio(math.sqrt(square_d), math.sqrt(square_i)),
        ratio(math.sqrt(square_d), math.sqrt(square_j)),
        ratio(sum(int(found.differing[i, j]) for found, (i, j) in shared), elements),
    )


def matrix_cosine(sums: Sequence[TensorSums], one: int, other: int) -> float | None:
    """Cosine of two models' matrices, norms and biases left out."""
    shared = [entry for entry in _with(sums, one, other) if entry[0].tensor.is_matrix]
    square_i = math.fsum(found.squares[i] for found, (i, _) in shared)
    square_j = math.fsum(found.squares[j] for found, (_, j) in shared)
    square_d = math.fsum(found.distances[i, j] for found, (i, j) in shared)
    return correlation((square_i + square_j - square_d) / 2, square_i, square_j)


def delta(sums: Sequence[TensorSums], names: Sequence[str], model: int, base: int) -> Delta:
    """One model's delta from the base, by layer."""
    shared = _with(sums, model, base)

    def relative(chosen: Chosen) -> float | None:
        kept = [entry for entry in shared if chosen(entry[0].tensor)]
        moved = math.fsum(found.distances[i, b] for found, (i, b) in kept)
        return ratio(math.sqrt(moved), math.sqrt(math.fsum(found.squares[b] for found, (_, b) in kept)))

    def in_layer(layer: int, kind: str | None = None) -> Chosen:
        return lambda tensor: tensor.layer == layer and kind in (None, tensor.kind)

    layers = sorted({found.tensor.layer for found, _ in shared if found.tensor.layer is not None})
    outside = list(dict.fromkeys(found.tensor.kind for found, _ in shared if found.tensor.layer is None))
    elements = sum(found.counted for found, _ in shared)
    return Delta(
        names[model],
        names[base],
        math.sqrt(math.fsum(found.distances[i, b] for found, (i, b) in shared)),
        relative(everything),
        ratio(sum(int(found.differing[i, b]) for found, (i, b) in shared), elements),
        tuple(
            LayerNorms(
                layer,
                relative(in_layer(layer)),
                relative(in_layer(layer, "attention")),
                relative(in_layer(layer, "mlp")),
            )
            for layer in layers
        ),
        {kind: relative(lambda tensor, kind=kind: tensor.layer is None and tensor.kind == kind) for kind in outside},  # type: ignore[misc]
    )


def kinship(sums: Sequence[TensorSums], names: Sequence[str], one: int, other: int, base: int) -> Kinship:
    """Compare two models' deltas from a base."""
    shared = _with(sums, one, other, base)
    elements = sum(found.counted for found, _ in shared)
    product, square_i, square_j, square_d = _delta_products(shared)
    shift_i = math.fsum(found.totals[i] - found.totals[b] for found, (i, _, b) in shared)
    shift_j = math.fsum(found.totals[j] - found.totals[b] for found, (_, j, b) in shared)
    count = max(elements, 1)
    agreeing = sum(int(found.agreeing[b][i, j]) for found, (i, j, b) in shared)
    moving = sum(int(found.moving[b][i, j]) for found, (i, j, b) in shared)
    return Kinship(
        names[one],
        names[other],
        names[base],
        elements,
        correlation(product, square_i, square_j),
        correlation(product - shift_i * shift_j / count, square_i - shift_i**2 / count, square_j - shift_j**2 / count),
        math.sqrt(square_d),
        ratio(agreeing, elements),
        ratio(moving, elements),
    )


def delta_cosine(sums: Sequence[TensorSums], one: int, other: int, base: int) -> float | None:
    """Cosine of two models' deltas from a base."""
    product, square_i, square_j, _ = _delta_products(_with(sums, one, other, base))
    return correlation(product, square_i, square_j)


def _delta_products(shared: list[tuple[TensorSums, tuple[int, ...]]]) -> tuple[float, float, float, float]:
    """<d_i, d_j>, |d_i|^2, |d_j|^2, |d_i - d_j|^2."""
    square_i = math.fsum(found.distances[i, b] for found, (i, _, b) in shared)
    square_j = math.fsum(found.distances[j, b] for found, (_, j, b) in shared)
    square_d = math.fsum(found.distances[i, j] for found, (i, j, _) in shared)
    return (square_i + square_j - square_d) / 2, square_i, square_j, square_d
