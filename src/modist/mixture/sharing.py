"""Tensors that several experts have in common, held once.

Fine-tunes often leave whole tensors as the base had them (embeddings, norms, all but the MLPs after a merge); two experts
then need only one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A prefix tells nearly all differing tensors apart without reading them whole.
_PREFIX = 4096


def share_equal_tensors(models: Sequence[Any]) -> int:
    """Replace parameters of later models by those of earlier ones which have the same name, place and bytes.

    Args:
        models: torch modules, changed in place.  They must not be trained afterwards: a step for one moves the other.

    Returns:
        Bytes of memory this freed.
    """
    before = held_bytes(models)
    seen: dict[str, list[Any]] = {}
    for model in models:
        fresh: dict[str, Any] = {}
        for prefix, module in model.named_modules():
            for name, parameter in list(module._parameters.items()):
                if not _plain(parameter):
                    continue
                full = f"{prefix}.{name}"
                twin = next((other for other in seen.get(full, ()) if _equal(other, parameter)), None)
                if twin is None:
                    fresh[full] = parameter
                else:
                    module._parameters[name] = twin
        for full, parameter in fresh.items():
            seen.setdefault(full, []).append(parameter)
    return before - held_bytes(models)


def held_bytes(models: Sequence[Any]) -> int:
    """Bytes of all parameters, each storage counted once."""
    storages = {}
    for model in models:
        for parameter in model.parameters():
            if parameter.device.type != "meta":
                storage = parameter.untyped_storage()
                storages[str(parameter.device), storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _plain(parameter: Any) -> bool:
    """Whether this is an ordinary tensor in memory, neither offloaded nor packed by a quantiser."""
    import torch

    return type(parameter) is torch.nn.Parameter and parameter.device.type != "meta" and parameter.numel() > 0


def _equal(one: Any, two: Any) -> bool:
    """The same bytes in the same place and form; NaNs never count as equal, which only costs memory."""
    import torch

    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    with torch.no_grad():
        if not torch.equal(one.flatten()[:_PREFIX], two.flatten()[:_PREFIX]):
            return False
        return bool(torch.equal(one, two))
