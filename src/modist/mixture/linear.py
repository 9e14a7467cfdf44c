"""Matrix products of a few tokens in float32 on a CPU, at the speed of the memory.

Decoding reads every weight for one token, or for the few an expert lags.  torch hands such products to MKL, which for two to
sixteen rows repacks the matrix at every call; oneDNN, which torch carries too, does not, and is quicker for one row and for
many as well (`benchmarks/mix.py` prints both curves).  The same products are summed in another order: the last bits differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# Below, what a call costs is its overhead, and torch's own is the smaller.  Above it, no row count was found where MKL wins.
LEAST_ELEMENTS = 1 << 18


class NarrowLinear(nn.Linear):  # type: ignore[misc]
    """An `nn.Linear` that takes oneDNN's way where that is quicker, and torch's wherever it is not known to be."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features], as `nn.Linear`."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or weight.dtype != torch.float32
            or input.dtype != torch.float32
            or weight.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")
        ):
            return nn.functional.linear(input, weight, self.bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, "none", [], "")
        return product


def available() -> bool:
    """Whether this torch carries oneDNN's product."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def quicken(models: Iterable[Any]) -> int:
    """Give the large plain linear layers of models this forward; returns how many.  Nothing else about them changes."""
    if not available():
        return 0
    count = 0
    for model in models:
        for module in model.modules():
            if type(module) is nn.Linear and module.weight.numel() >= LEAST_ELEMENTS:
                module.__class__ = NarrowLinear
                count += 1
    return count
