"""Logits at chosen positions only: the head never sees the prompt.

At a vocabulary of 151k a position's logits are as much work as half the layers of a small model, and most positions of a chat
are the prompt's.  A hook before the head picks the positions that are wanted; whatever the architecture does to logits
afterwards (soft caps, scales) is done to those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class PickedPositions:
    """A causal LM whose forward gives the logits of picked positions.

    Args:
        model: a transformers causal LM, perhaps wrapped by peft.
    """

    def __init__(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        head = inner.get_output_embeddings()
        self._wanted: torch.Tensor | None = None
        self._picked = False
        self._handle = head.register_forward_pre_hook(self._pick) if head is not None else None

    def _pick(self, module: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._wanted is None:
            return None
        hidden = given[0]
        self._picked = True
        # [batch, length, width] -> [1, picked, width]
        return (hidden.reshape(-1, hidden.shape[-1])[self._wanted.to(hidden.device)].unsqueeze(0), *given[1:])

    def logits(self, model: Any, wanted: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """One forward.

        Args:
            model: the one given, or what an accelerator made of it.
            wanted: flat positions, row * length + column, [n].
            inputs: of the forward; `input_ids` [batch, length].

        Returns:
            [n, vocabulary], of the model's dtype.
        """
        self._wanted, self._picked = wanted, False
        try:
            found = model(**inputs, use_cache=False).logits
        finally:
            self._wanted = None
        if not self._picked:  # a model whose head is not a module of its own
            found = found.reshape(-1, found.shape[-1])[wanted.to(found.device)]
        return found.reshape(-1, found.shape[-1])

    def close(self) -> None:
        """Take the hook away again."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@contextmanager
def picked_positions(model: Any) -> Iterator[PickedPositions]:
    """A model with the hook for as long as the block lasts."""
    picked = PickedPositions(model)
    try:
        yield picked
    finally:
        picked.close()
