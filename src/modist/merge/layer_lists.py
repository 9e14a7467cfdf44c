"""What a config says layer by layer, said anew for layers that are stacked in another order.

A list with one entry for each layer (`layer_types`, heads of pruned models) takes each entry from the layer's own model.  Older
configs leave `layer_types` to a rule on the layer's number; a stacked layer has another number and the same nature, so the list
is then written out.  Lists of layers' numbers are counted anew, and what a config lays down by number alone is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modist.checkpoint.folder import Checkpoint
from modist.errors import UserError
from modist.merge.layer import main_stack, stack_depths, text_config

Origins = Sequence[tuple[Checkpoint, int]]

TYPES = "layer_types"
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NUMBERS = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers")
# Other lists that may happen to be as long as the model is deep.
_NO_LAYERS = ("architectures", "mrope_section", "suppress_tokens", "begin_suppress_tokens")
_PERIODS = ("decoder_sparse_step", "interleave_moe_layer_step", "attn_layer_period", "expert_layer_period", "moe_layer_freq")
_THRESHOLDS = ("first_k_dense_replace",)
_SHARED = ("num_kv_shared_layers",)
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}


def depth_of(checkpoint: Checkpoint) -> int:
    """How many layers a model has."""
    stack = main_stack(checkpoint.tensors, checkpoint.config)
    return 0 if stack is None else stack_depths(checkpoint.tensors)[stack]


def restack(config: dict[str, Any], donor: Checkpoint, origins: Origins) -> None:
    """Make a copy of the donor's config, in place, one of the stacked layers.

    Args:
        origins: for each layer of the output, the model and the layer there.

    Raises:
        UserError: the config does not say how many layers it has, or lays something down by number that the stacking breaks.
    """
    inner = config.get("text_config")
    text: dict[str, Any] = inner if isinstance(inner, dict) else config
    depth = depth_of(donor)
    counts = [key for key in _COUNTS if text.get(key) == depth and not isinstance(text.get(key), bool)]
    if not counts:
        raise UserError(
            f"{donor.label}: its config does not give {depth} as its number of layers; such layers cannot be stacked"
        )
    _check_numbers(text, donor, origins)
    for key, value in list(text.items()):
        if isinstance(value, list) and key in _NUMBERS:
            text[key] = [new for new, (model, old) in enumerate(origins) if old in _numbers(model, key)]
        elif isinstance(value, list) and len(value) == depth and key != TYPES and not _is_other(key):
            text[key] = [_entry(model, key, old) for model, old in origins]
    types = [layer_types(model) for model, _ in origins]
    if TYPES in text or any(found is not None and len(set(found)) > 1 for found in types):
        text[TYPES] = [_type(model, found, old) for (model, old), found in zip(origins, types, strict=True)]
    if isinstance(text.get("max_window_layers"), int):
        _set_window(text, len(origins), depth)
    for key in counts:
        text[key] = len(origins)


def layer_types(checkpoint: Checkpoint) -> list[str] | None:
    """Each layer's nature (`full_attention`, `sliding_attention`, ...) as transformers reads it; None if all are one."""
    text, depth = text_config(checkpoint.config), depth_of(checkpoint)
    listed = text.get(TYPES)
    if isinstance(listed, list):
        return [str(kind) for kind in listed]
    pattern = text.get("sliding_window_pattern", _WINDOW_PATTERNS.get(str(text.get("model_type"))))
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        return ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(depth)]
    first = text.get("max_window_layers")
    if isinstance(first, int) and text.get("use_sliding_window") and text.get("sliding_window"):
        return ["sliding_attention" if layer >= first else "full_attention" for layer in range(depth)]
    return None


def mixed_layers(parts: Iterable[tuple[Sequence[Checkpoint], Sequence[int], int]]) -> list[str]:
    """Remarks on slices that merge layers of different natures: models, their first layers, how many."""
    remarks = []
    for models, starts, length in parts:
        kinds = [layer_types(model) for model in models]
        for offset in range(length):
            found = {
                listed[start + offset]
                for listed, start in zip(kinds, starts, strict=True)
                if listed is not None and start + offset < len(listed)
            }
            if len(found) > 1:
                where = " and ".join(
                    f"layer {start + offset} of {model.label}" for model, start in zip(models, starts, strict=True)
                )
                remarks.append(f"{where} are merged, of which one is {' and one '.join(sorted(found))}")
                break
    return remarks


def _is_other(key: str) -> bool:
    return key in _NO_LAYERS or key.endswith(("token_id", "token_ids", "_tokens"))


def _numbers(model: Checkpoint, key: str) -> list[Any]:
    found = text_config(model.config).get(key)
    return found if isinstance(found, list) else []


def _entry(model: Checkpoint, key: str, layer: int) -> Any:
    found = text_config(model.config).get(key)
    if not isinstance(found, list) or layer >= len(found):
        raise UserError(f"{model.label}: its config has no {key!r} for layer {layer}, and the result's needs one")
    return found[layer]


def _type(model: Checkpoint, kinds: list[str] | None, layer: int) -> str:
    if kinds is None:
        return "full_attention"
    if layer >= len(kinds):
        raise UserError(f"{model.label}: its config has {len(kinds)} {TYPES} and no layer {layer}")
    return kinds[layer]


def _set_window(text: dict[str, Any], layers: int, depth: int) -> None:
    """`max_window_layers` for readers that know no `layer_types`: layers below it have full attention."""
    if not text.get("use_sliding_window"):
        if text["max_window_layers"] >= depth:
            text["max_window_layers"] = layers
        return
    kinds = text.get(TYPES) or []
    text["max_window_layers"] = next((n for n, kind in enumerate(kinds) if kind == "sliding_attention"), layers)


def _check_numbers(text: dict[str, Any], donor: Checkpoint, origins: Origins) -> None:
    layers = [layer for _, layer in origins]
    for key in (*_PERIODS, *_THRESHOLDS, *_SHARED):
        value = text.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (key in _PERIODS and value == 1):
            continue
        if key in _PERIODS:
            broken = next((new for new, old in enumerate(layers) if new % value != old % value), None)
        elif key in _THRESHOLDS:
            broken = next((new for new, old in enumerate(layers) if (new < value) != (old < value)), None)
        else:
            broken = 0
        if broken is not None:
            raise UserError(
                f"{donor.label}: its config has {key}: {value}, which lays down layers by their number; layer"
                f" {layers[broken]} cannot stand as layer {broken} of the result"
            )
