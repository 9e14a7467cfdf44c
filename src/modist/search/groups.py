"""Which tensors share their coefficients: blocks of consecutive layers, split by kind of module.

UMM's groups (section 3.2, "fine-grained layer-wise") are embeddings, layer 0 ... L-1 by attention, MLP and norm, final norm
and head; a coarser split is a union of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modist.merge import Plan
from modist.merge.plan import HEAD, PlannedTensor, is_attention, is_embedding
from modist.search.settings import SearchSettings

REST = "rest"
_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)\.")
_NORM = re.compile(r"norm|(^|\.)ln_")
_MLP = re.compile(r"mlp|ffn|feed_forward|moe|(^|\.)fc\d?\.")


@dataclass(frozen=True)
class Group:
    """Tensors with the same coefficients, in the plan's order, and what to call them ("" for all of them)."""

    label: str
    tensors: tuple[PlannedTensor, ...]


def module_of(name: str) -> str:
    """`attention`, `mlp`, `norms`, `embeddings` (the head with them) or `rest`."""
    if is_embedding(name) or name == HEAD or _POSITIONS.search(name):
        return "embeddings"
    # Before attention: a `post_attention_layernorm` is a norm.
    if _NORM.search(name):
        return "norms"
    if is_attention(name):
        return "attention"
    return "mlp" if _MLP.search(name) else REST


def groups_of(plan: Plan, settings: SearchSettings) -> tuple[Group, ...]:
    """The groups of a plan's tensors, from the embeddings up; tensors that are only copied belong to none.

    Of the tensors outside layers, those whose kind is among the settings' modules are groups of their own (embeddings, head,
    final norm); the others go with the first block (embeddings) or the last one (all else), as recipes have it.
    """
    merged = [planned for planned in plan.tensors if not planned.copied]
    layers = 1 + max((planned.layer for planned in merged if planned.layer is not None), default=0)
    size = settings.layer_blocks or layers
    last = (layers - 1) // size
    found: dict[tuple[int, str], list[PlannedTensor]] = {}
    for planned in merged:
        module = module_of(planned.name)
        kind = module if module in settings.modules else REST
        if planned.layer is not None:
            place = planned.layer // size
        elif kind == REST:
            place = 0 if is_embedding(planned.name) else last
        elif module == "embeddings":
            kind, place = ("head", last + 1) if planned.name == HEAD else (kind, -1)
        else:
            kind, place = ("final norm" if module == "norms" else kind), last + 1
        found.setdefault((place, kind), []).append(planned)

    def label(place: int, kind: str) -> str:
        words = [] if kind == REST and not settings.modules else [kind]
        if 0 <= place <= last and last > 0:
            first, end = place * size, min((place + 1) * size, layers) - 1
            words.append(f"layer {first}" if first == end else f"layers {first}-{end}")
        return ", ".join(words)

    order = {kind: at for at, kind in enumerate(("embeddings", "attention", "mlp", "norms", REST, "final norm", "head"))}
    keys = sorted(found, key=lambda key: (key[0], order[key[1]]))
    return tuple(Group(label(*key), tuple(found[key])) for key in keys)
