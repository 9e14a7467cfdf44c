"""How busy the input channels of linear layers are: what AIM scales by.

The mean of |x_c| over all tokens of some texts, for each input channel c of each linear layer, as Activation-Informed Merging
(Nobari et al. 2025, arXiv 2502.02421) takes it from about 256 texts of the Pile, read by the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modist.errors import ModistError

Values = npt.NDArray[np.float64]


def mean_activations(
    model: Any, sequences: Iterable[Sequence[int]], advance: Callable[[int], object] = lambda done: None
) -> dict[str, Values]:
    """Mean absolute input activation of every linear layer, over all tokens alike.

    Args:
        model: a living causal LM of transformers.
        sequences: token ids of each text, read one by one: no padding is ever counted.
        advance: told how many sequences are read.

    Returns:
        The layer's weight, as a checkpoint names it -> [input channels], float64.  A layer that never was run is left out.

    Raises:
        ModistError: an activation is no finite number.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def listen(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(layer: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, layer.in_features)
            # float64 has no place on some devices, so a text's sum is taken there and added here.
            total = rows.abs().float().sum(0).double().cpu()
            sums[name] = sums[name] + total if name in sums else total
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    linear = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    handles = [layer.register_forward_pre_hook(listen(name)) for name, layer in linear.items()]
    try:
        with torch.inference_mode():
            for done, ids in enumerate(sequences, 1):
                model(torch.tensor([list(ids)], device=model.device), use_cache=False)
                advance(done)
    finally:
        for handle in handles:
            handle.remove()
    found = {name: (total / counts[name]).numpy() for name, total in sums.items()}
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ModistError(f"the inputs of {name} are not finite; the model is damaged, or its dtype too narrow")
    return found
