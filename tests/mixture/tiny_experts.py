"""Tiny experts in memory and on disk, drawn wide so that their distributions differ and are far from flat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import add_tokenizer, configuration

MODELS = Path(__file__).parents[3] / "shared" / "models"
GRIMM, GSM8K = MODELS / "stories260K-ft-grimm", MODELS / "stories260K-ft-gsm8k"


def tiny(seed: int, family: str = "llama", vocab: int = 160, layers: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """A random causal LM of two layers of 64, in eval mode."""
    from transformers import AutoModelForCausalLM

    config = configuration(family)
    config.vocab_size, config.num_hidden_layers = vocab, layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    # Logits of a few nats: a wider draw puts all mass on one token.
    config.initializer_range = 0.15
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def saved(folder: Path, model: Any, size: int | None = None, words: Sequence[str] = ()) -> Path:
    """The model in a folder, with a word tokenizer of `size` ids (as many as the model has rows by default)."""
    model.save_pretrained(folder)
    return add_tokenizer(folder, words, size=size or model.config.vocab_size)


def mixed64(models: Sequence[Any], weights: Sequence[float], ids: torch.Tensor) -> torch.Tensor:
    """log sum_i a_i p_i written out in float64 from the experts' own logits: [batch, time, vocab]."""
    with torch.no_grad():
        parts = [torch.softmax(model(ids).logits.double(), -1) for model in models]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True)).log()


def greedy_by_hand(models: Sequence[Any], weights: Sequence[float], ids: list[int], count: int, ends: set[int]) -> list[int]:
    """New tokens of the most likely continuation, everything read again for every token."""
    new: list[int] = []
    while len(new) < count and (not new or new[-1] not in ends):
        new.append(int(mixed64(models, weights, torch.tensor([ids + new]))[0, -1].argmax()))
    return new
