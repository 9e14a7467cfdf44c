"""The memory a model needs to run: its weights, and the cache of keys and values that grows with the text.

A layer of full attention keeps 2 * kv_heads * head_dim numbers for every token; a layer of sliding attention keeps those of
its window only, however long the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modist.checkpoint.dtype import FLOATS, HOLDERS
from modist.checkpoint.folder import Checkpoint
from modist.merge.layer import layer_of, text_config
from modist.merge.plan import HEAD

_LIMIT = 1 << 48


@dataclass(frozen=True)
class Memory:
    """What running a model takes, activations and the runtime itself not counted.

    Attributes:
        weights_bytes: of the tensors, in the dtype they are stored in.
        cache_bytes_per_token: keys and values of one token in all layers, or None where the config does not say.
        cache_bytes_full: those of one text as long as the context, or None.
        total_bytes: weights and one full context, or None.
        assumptions: what was taken for granted.
    """

    weights_bytes: int
    cache_bytes_per_token: int | None
    cache_bytes_full: int | None
    total_bytes: int | None
    assumptions: tuple[str, ...]


def count(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of some keys that holds a positive whole number."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LIMIT:
            return value
    return None


def layers_of(checkpoint: Checkpoint) -> int | None:
    """How many layers a model has: what its config says, else what its tensors' names show."""
    stated = count(text_config(checkpoint.config), "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    found = 1 + max((layer for name in checkpoint.tensors if (layer := layer_of(name)) is not None), default=-1)
    return stated or found or None


def heads_of(config: Mapping[str, Any]) -> int | None:
    return count(config, "num_attention_heads", "n_head", "n_heads", "num_heads")


def hidden_of(config: Mapping[str, Any]) -> int | None:
    return count(config, "hidden_size", "n_embd", "d_model", "dim")


def kv_heads_of(config: Mapping[str, Any]) -> int | None:
    """Heads that have keys and values of their own."""
    stated = count(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads")
    if stated is None and config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    return stated or heads_of(config)


def head_dim_of(config: Mapping[str, Any]) -> int | None:
    stated, hidden, heads = count(config, "head_dim"), hidden_of(config), heads_of(config)
    return stated or (hidden // heads if hidden and heads else None)


def context_of(config: Mapping[str, Any]) -> int | None:
    """The longest text the config promises, in tokens."""
    return count(config, "max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx")


def layer_kinds(config: Mapping[str, Any], layers: int) -> tuple[int, int, int]:
    """How many layers attend to everything, to a window, and keep no cache that grows (linear attention, state spaces)."""
    listed = config.get("layer_types")
    if isinstance(listed, list) and len(listed) == layers:
        full = sum(kind in ("full_attention", "attention") for kind in listed)
        sliding = sum(kind in ("sliding_attention", "chunked_attention") for kind in listed)
        return full, sliding, layers - full - sliding
    if not count(config, "sliding_window") or config.get("use_sliding_window") is False:
        return layers, 0, 0
    pattern = count(config, "sliding_window_pattern", "_sliding_window_pattern")
    if pattern is None and config.get("model_type") == "gemma2":
        pattern = 2
    if pattern is not None:
        return layers // pattern, layers - layers // pattern, 0
    if config.get("use_sliding_window") is True and isinstance(config.get("max_window_layers"), int):
        full = min(max(int(config["max_window_layers"]), 0), layers)
        return full, layers - full, 0
    return 0, layers, 0


def memory_of(checkpoint: Checkpoint) -> Memory:
    """Weights and cache of a model, from its config and headers alone."""
    config = text_config(checkpoint.config)
    assumptions = []
    weights = checkpoint.nbytes
    if HEAD in checkpoint.tensors and config.get("tie_word_embeddings") is True:
        weights -= checkpoint.tensors[HEAD].nbytes
        assumptions.append("the stored head is dropped on loading, as the config ties it to the embeddings")
    width = _cache_width(checkpoint, assumptions)
    layers, kv_heads, head_dim = layers_of(checkpoint), kv_heads_of(config), head_dim_of(config)
    context = context_of(config)
    if not (layers and kv_heads and head_dim):
        assumptions.append("the config does not say how large the cache is")
        return Memory(weights, None, None, None, tuple(assumptions))
    full, sliding, others = layer_kinds(config, layers)
    per_layer = 2 * kv_heads * head_dim * width
    if (rank := count(config, "kv_lora_rank")) is not None:
        per_layer = (rank + (count(config, "qk_rope_head_dim") or 0)) * width
        assumptions.append("the cache holds latents; a runtime that expands them to keys and values needs many times that")
    if sliding:
        window = count(config, "sliding_window", "attention_chunk_size") or context or 0
        assumptions.append(f"{sliding} of {layers} layers keep a window of {window:,} tokens only; not every runtime does")
    if others:
        assumptions.append(f"{others} of {layers} layers keep a state of fixed size, not counted")
    per_token = per_layer * (full + sliding)
    at_full = None
    if context:
        window = min(count(config, "sliding_window", "attention_chunk_size") or context, context)
        at_full = per_layer * (full * context + sliding * window)
    assumptions.append("one text at a time; activations and the runtime itself come on top")
    return Memory(weights, per_token, at_full, weights + at_full if at_full is not None else None, tuple(assumptions))


def _cache_width(checkpoint: Checkpoint, assumptions: list[str]) -> int:
    """Bytes of one cached number: those of the dtype in which most of the weights are stored."""
    held: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.nbytes
    common = max(held, key=lambda dtype: held[dtype], default="")
    if common not in FLOATS:
        assumptions.append("the cache holds 16-bit numbers, the weights being quantised")
        return 2
    assumptions.append(f"the cache holds {common}, as the weights do")
    return HOLDERS[common].itemsize
