"""LoRA adapters on disk, and what they are in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_models import Tensor, encode, read_folder, write_safetensors

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Lora:
    """An adapter's folder and, by tensor of its base, the change it stands for (float64)."""

    folder: Path
    deltas: Mapping[str, np.ndarray] = field(default_factory=dict)


def make_lora(
    folder: Path,
    base: Path,
    modules: Sequence[str],
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8,
    dtype: str = "F32",
    ranks: Mapping[str, int] | None = None,
    embeddings: Sequence[str] = (),
    extra: Mapping[str, Tensor] | None = None,
    size: float = 0.3,
    **config: Any,
) -> Lora:
    """An adapter with random factors.

    Args:
        modules, embeddings: of the base; those that are `embeddings` have an embedding's factors.
        ranks: where a module has another than `rank`.
        extra: more tensors for the file.
        config: for adapter_config.json, over what it says otherwise.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    shapes = {name: tensor.bits.shape for name, tensor in read_folder(base).items()}
    tensors: dict[str, Tensor] = {}
    deltas: dict[str, np.ndarray] = {}
    for module in [*modules, *embeddings]:
        turned = module in embeddings or bool(config.get("fan_in_fan_out"))
        rows, columns = shapes[f"{module}.weight"][:: -1 if turned else 1]
        r = (ranks or {}).get(module, rank)
        a = encode(size * generator.standard_normal((r, columns)), dtype)
        b = encode(size * generator.standard_normal((rows, r)), dtype)
        kind, end = ("lora_embedding_", "") if module in embeddings else ("lora_", ".weight")
        tensors |= {f"{PREFIX}{module}.{kind}A{end}": a, f"{PREFIX}{module}.{kind}B{end}": b}
        scale = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
        product = scale * (b.float64 @ a.float64)
        deltas[f"{module}.weight"] = product.T if turned else product
    write_safetensors(folder / "adapter_model.safetensors", {**tensors, **(extra or {})})
    said = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "r": rank, "lora_alpha": alpha,
        "rank_pattern": dict(ranks or {}), "target_modules": sorted({module.split(".")[-1] for module in modules}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    return Lora(folder, deltas)


def every(kind: str, layers: int = 4) -> list[str]:
    """A module of every layer: `self_attn.q_proj`, `mlp.down_proj`."""
    return [f"model.layers.{layer}.{kind}" for layer in range(layers)]
