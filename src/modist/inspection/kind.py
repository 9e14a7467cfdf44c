"""What a tensor is for, told by its name."""

from __future__ import annotations

import re
from typing import Literal

from modist.merge.plan import is_attention, is_embedding

Kind = Literal["embeddings", "attention", "mlp", "norms", "head", "other"]
KINDS: tuple[Kind, ...] = ("embeddings", "attention", "mlp", "norms", "head", "other")

# Norms come first: `post_attention_layernorm` is no attention.
_NORM = re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.")
_EMBEDDING = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings|wte|tok_embeddings)\.")
_MLP = re.compile(r"mlp|feed_forward|ffn|expert|block_sparse_moe|(^|\.)fc\d|dense_h_to_4h|dense_4h_to_h|(^|\.)gate\.")


def kind_of(name: str) -> Kind:
    """Embeddings, attention, mlp, norms, head, or other."""
    if _NORM.search(name):
        return "norms"
    if _HEAD.search(name):
        return "head"
    if is_embedding(name) or _EMBEDDING.search(name):
        return "embeddings"
    if is_attention(name):
        return "attention"
    return "mlp" if _MLP.search(name) else "other"
