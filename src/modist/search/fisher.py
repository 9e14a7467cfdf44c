"""How much a model's output hangs on each of its tensors: the mean of the diagonal of the Fisher information.

    F = E_x E_y~p(.|x) [ (d log p(y|x) / d theta)^2 ]

After FIM-Merging (Xia 2026, arXiv 2603.21705), which takes x to be random tokens, 8 sequences of 64, and so needs no data.  The
labels y are drawn here from the model's own predictions, as the definition has it; which labels the paper takes is not known
here (Kunstner et al. 2019, arXiv 1905.12558, on why it matters).  At one position after another y is drawn independently, so
the squared gradient of a whole sequence's sum has the expectation of the sum of the positions' squared gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modist.errors import ModistError


def fisher_means(
    model: Any,
    sequences: Iterable[Sequence[int]],
    *,
    seed: int = 0,
    draws: int = 1,
    advance: Callable[[int], object] = lambda done: None,
) -> dict[str, float]:
    """The mean of the Fisher diagonal over each parameter's elements, for one predicted token.

    Args:
        model: a living causal LM of transformers; its gradients are left as they were, and it is run in eval mode.
        sequences: token ids, one sequence after another.
        seed: of the labels.
        draws: labels drawn for each sequence, a backward pass each.
        advance: told how many sequences are done.

    Returns:
        Parameter -> mean of (d log p / d theta)^2, nats^2; tied tensors once, under the first of their names.

    Raises:
        ModistError: a gradient is no finite number.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    parameters = [parameter for _, parameter in model.named_parameters() if parameter.is_floating_point()]
    wanted = [parameter.requires_grad for parameter in parameters]
    squares: dict[str, list[float]] = {name: [] for name in names}
    positions, training = 0, model.training
    model.eval()
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for done, ids in enumerate(sequences, 1):
            with torch.enable_grad():
                logits = model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0].float()
                logs = torch.log_softmax(logits, -1)  # [positions, vocabulary]
            chances = logs.detach().exp().cpu()
            if not torch.isfinite(chances).all():
                raise ModistError("the model's predictions are not finite; it is damaged, or its dtype too narrow")
            for draw in range(draws):
                labels = torch.multinomial(chances, 1, generator=generator).to(logs.device)
                with torch.enable_grad():
                    total = logs.gather(1, labels).sum()
                    gradients = torch.autograd.grad(total, parameters, retain_graph=draw + 1 < draws, allow_unused=True)
                for name, gradient in zip(names, gradients, strict=True):
                    if gradient is not None:
                        squares[name].append(float(gradient.float().square().mean(dtype=torch.float32)))
                positions += len(ids)
            advance(done)
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)
        model.train(training)
    found = {name: math.fsum(values) / positions for name, values in squares.items() if values}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ModistError(f"the gradients of {name} are not finite; the model is damaged, or its dtype too narrow")
    return found
