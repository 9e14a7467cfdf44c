"""Weights a_i of a mixture: one for each expert, none negative, with sum 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modist.errors import UserError

if TYPE_CHECKING:
    import torch

# Weights are decimal fractions written by people: .3333 + .3333 + .3334.
_SUM_TOLERANCE = 1e-6


def check_weights(weights: Iterable[float], count: int, what: str = "the weights") -> tuple[float, ...]:
    """Weights that can stand: one for each expert, from 0 to 1, with sum 1.

    Raises:
        UserError: otherwise, with the values.
    """
    found = tuple(float(weight) for weight in weights)
    if len(found) != count:
        raise UserError(f"{what} {list(found)}: {len(found)} weights for {count} experts; give one for each")
    if count == 0:
        raise UserError("a mixture needs at least one expert")
    for weight in found:
        if not 0 <= weight <= 1:  # NaN is neither
            raise UserError(f"{weight} among {what} {list(found)} is not between 0 and 1")
    total = math.fsum(found)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise UserError(f"{what} {list(found)} sum to {total:g}; they must sum to 1")
    return found


def log_weights(weights: Sequence[float]) -> torch.Tensor:
    """log a_i, float64 [experts]; -inf for a weight of 0."""
    import torch

    return torch.tensor(weights, dtype=torch.float64).log()
