"""Layers in tensors' names: `model.layers.7.mlp.up_proj.weight` is of layer 7 of the stack `model.layers`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_LAYER = re.compile(r"\.(\d+)\.")
_TOWER = re.compile(r"vision|visual|audio|image|encoder")


def layer_of(tensor: str) -> int | None:
    """The number of the layer a tensor belongs to, or None for embeddings, final norm and head."""
    found = _LAYER.search(tensor)
    return int(found[1]) if found else None


def stack_of(tensor: str) -> str | None:
    """The name of the stack of layers a tensor belongs to, or None."""
    found = _LAYER.search(tensor)
    return tensor[: found.start()] if found else None


def renumbered(tensor: str, layer: int | str) -> str:
    """The same name with another layer's number."""
    return _LAYER.sub(f".{layer}.", tensor, count=1)


def template(tensor: str) -> str:
    """The name without the layer's number: the same for all layers."""
    return renumbered(tensor, "*")


def stack_depths(tensors: Iterable[str]) -> dict[str, int]:
    """Each stack and how many layers it has."""
    found: dict[str, int] = {}
    for name in tensors:
        stack, layer = stack_of(name), layer_of(name)
        if stack is not None and layer is not None:
            found[stack] = max(found.get(stack, 0), layer + 1)
    return found


def main_stack(tensors: Iterable[str], config: Mapping[str, object]) -> str | None:
    """The stack of the language model: not a tower's, of the depth the config says, or else the deepest."""
    depths = stack_depths(tensors)
    asked = text_config(config).get("num_hidden_layers")
    return max(depths, key=lambda stack: (not _TOWER.search(stack), depths[stack] == asked, depths[stack]), default=None)


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part of a config that speaks of the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config
