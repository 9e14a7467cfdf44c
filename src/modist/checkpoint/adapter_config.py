"""adapter_config.json, read with suspicion: what each module's update is, and what cannot be added on the fly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.header import StoredTensor
from modist.errors import CheckpointError, UserError

CONFIG = "adapter_config.json"

# What changes the meaning of the factors, and what it is called.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "target_parameters": "factors on bare parameters (target_parameters)",
    "trainable_token_indices": "trained single tokens (trainable_token_indices)",
    "lora_bias": "biases in the factors (lora_bias)",
}
# Starts from which the base itself was changed, and the file holds the way from that changed base.
_MOVED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LONGEST, _REPEATS = 500, 3
WAY_OUT = "load it with PEFT, merge_and_unload() and save_pretrained(), and name that folder"


@dataclass(frozen=True)
class LowRank:
    """The update of one tensor.

    Attributes:
        module: as the adapter calls it.
        left, right: names of the factors whose product, of [rows, r] and [r, columns], is added (B and A, as a rule).
        rank: r.
        scale: what the product is multiplied with.
        transposed: whether the tensor is laid out as (B A)^T, so that `left` is A's and `right` B's transpose.
    """

    module: str
    left: str
    right: str
    rank: int
    scale: float
    transposed: bool


class AdapterConfig:
    """adapter_config.json, checked."""

    def __init__(self, path: Path, label: str, config: Mapping[str, Any]) -> None:
        self._path, self._label, self._config = path, label, config
        kind = config.get("peft_type")
        if kind != "LORA":
            raise UserError(f"{label}: is an adapter of the type {_short(kind)}; only LORA can be added on the fly: {WAY_OUT}")
        for key, name in _REFUSED.items():
            if config.get(key):
                raise UserError(f"{label}: uses {name}, which cannot be added on the fly; {WAY_OUT}")
        if config.get("bias", "none") != "none":
            raise UserError(f"{label}: trained biases too (bias: {_short(config['bias'])}); {WAY_OUT}")
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_MOVED_BASES):
            raise UserError(
                f"{label}: was started with {start!r}, which changed its base: the factors alone are not it; {WAY_OUT}"
            )
        self._ranks = self._pattern("rank_pattern", whole=True)
        self._alphas = self._pattern("alpha_pattern", whole=False)
        self._rank = self._number("r", 8, whole=True)
        self._alpha = self._number("lora_alpha", 8, whole=False)

    def saves(self, name: str) -> bool:
        """Whether a tensor belongs to one of `modules_to_save`."""
        listed = self._config.get("modules_to_save") or []
        if not isinstance(listed, list) or not all(isinstance(module, str) for module in listed):
            raise CheckpointError(f"{self._path}: modules_to_save is {_short(listed)}, not a list of names")
        # PEFT's rule: every module whose name ends so, and what is in it.
        parts = name.split(".")
        modules = [".".join(parts[:count]) for count in range(1, len(parts))]
        return any(module.endswith(wanted) for wanted in listed for module in modules)

    def update(self, module: str, tensors: Mapping[str, StoredTensor], sides: Mapping[str, str]) -> LowRank:
        """A module's update from its two factors; CheckpointError where their shapes contradict each other or the config."""
        embedding = any(side.startswith("embedding_") for side in sides)
        prefix = "embedding_" if embedding else ""
        if sides.keys() != {prefix + "A", prefix + "B"}:
            raise CheckpointError(f"{self._label}: module {module!r} has {' and '.join(sorted(sides))} of its two factors")
        a, b = tensors[sides[prefix + "A"]], tensors[sides[prefix + "B"]]
        self._check_factors(module, a, b)
        rank, alpha = self._found(self._ranks, module, self._rank), self._found(self._alphas, module, self._alpha)
        if a.shape[0] != rank:
            raise CheckpointError(f"{self._label}: module {module!r} has factors of rank {a.shape[0]}, {CONFIG} says {rank:g}")
        scale = alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank
        transposed = embedding or bool(self._config.get("fan_in_fan_out"))
        left, right = (a.name, b.name) if transposed else (b.name, a.name)
        return LowRank(module, left, right, int(rank), scale, transposed)

    def _check_factors(self, module: str, a: StoredTensor, b: StoredTensor) -> None:
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise UserError(f"{self._label}: module {module!r} has factors of {len(a.shape)} dimensions; {WAY_OUT}")
        if a.shape[0] != b.shape[1] or 0 in a.shape or 0 in b.shape:
            raise CheckpointError(
                f"{self._label}: module {module!r} has the factors {list(a.shape)} and {list(b.shape)}, which make no product"
            )

    def _found(self, pattern: Mapping[str, float], module: str, usual: float) -> float:
        # PEFT's rule: the first key that matches the end of the name, as a regular expression.
        for key, value in pattern.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return usual

    def _pattern(self, key: str, whole: bool) -> dict[str, float]:
        found = self._config.get(key) or {}
        if not isinstance(found, dict):
            raise CheckpointError(f"{self._path}: {key} is {_short(found)}, not a mapping")
        for name in found:
            if not _is_pattern(name):
                raise CheckpointError(f"{self._path}: {key} has {name[:60]!r}, which is no pattern that is matched here")
        return {name: _checked(f"{self._path}: {key}[{name[:60]!r}]", value, whole) for name, value in found.items()}

    def _number(self, key: str, usual: float, whole: bool) -> float:
        return _checked(f"{self._path}: {key}", self._config.get(key, usual), whole)


def _is_pattern(text: str) -> bool:
    """Whether a key compiles, and cannot take for ever: no repeated groups, and few repetitions."""
    if len(text) > _LONGEST or re.search(r"\)[*+{]", text) or len(re.findall(r"[*+{]", text)) > _REPEATS:
        return False
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _checked(where: str, value: object, whole: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{where} is {_short(value)}, not a number")
    if whole and (value != int(value) or not 1 <= value < 1 << 31):
        raise CheckpointError(f"{where} is {_short(value)}, not a rank")
    return float(value)


def _short(value: object) -> str:
    return repr(value)[:60]
