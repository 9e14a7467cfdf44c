"""Tokens drawn so that an answer depends on its own seed and logits, and on nothing else in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from modist.evaluation.generators.generator import Ask, Sampling
from modist.evaluation.generators.seeds import row_seed


def uniforms(asks: Sequence[Ask], count: int) -> torch.Tensor:
    """For each ask the numbers in [0, 1) that choose its tokens, float64 [asks, count]; the same on every device."""
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(row_seed(ask)), dtype=torch.float64) for ask in asks]
    return torch.stack(rows)


def draw(logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token a row, by inverting the distribution function over tokens from the likeliest to the least likely.

    Args:
        logits: [rows, vocabulary].
        numbers: uniform in [0, 1), [rows].
        sampling: with a temperature; top_k cuts first, and top_p what is left of it.

    Returns:
        Token ids, [rows].
    """
    assert sampling.temperature is not None
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    ordered, ids = logits.float().sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered = ordered[:, : sampling.top_k]
    shares = torch.softmax(ordered.to(exact) / sampling.temperature, -1)
    # A token is kept while those before it hold less than top_p, so one always is.
    kept = torch.where(shares.cumsum(-1) - shares < sampling.top_p, shares, 0.0)
    total = kept.cumsum(-1)
    target = numbers.to(total)[:, None] * total[:, -1:]
    place = torch.searchsorted(total, target, right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(place, last))[:, 0]


class Drawing(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row the one token that is drawn for it, so that taking the best takes that one."""

    def __init__(self, asks: Sequence[Ask], sampling: Sampling, width: int, count: int) -> None:
        self._numbers = uniforms(asks, count)
        self._sampling = sampling
        self._width = width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen = draw(scores, self._numbers[:, input_ids.shape[1] - self._width], self._sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)
