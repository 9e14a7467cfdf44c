"""The law of a mixture: p = sum_i a_i p_i, token by token (arXiv 2411.00406, equation 2), and its geometric sister.

Everything is computed from log-probabilities in float32, or in float64 where the experts' logits are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from modist.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

    from modist.vocabulary import CommonVocabulary

Law = Literal["arithmetic", "logits"]
LAWS: dict[str, str] = {
    "arithmetic": "p = sum a_i p_i, the paper's mixture of distributions",
    "logits": "p ~ prod p_i^a_i, the weighted sum of logits: a product of experts, normalised again",
}


def check_law(law: str) -> Law:
    """The law by its name.

    Raises:
        UserError: there is no such law.
    """
    if law not in LAWS:
        raise UserError(f"there is no law {law!r}{nearest(law, LAWS)}; the laws are {' and '.join(LAWS)}")
    return law  # type: ignore[return-value]


def expert_log_probs(logits: torch.Tensor, expert: int, common: CommonVocabulary) -> torch.Tensor:
    """One expert's log-probabilities over the mixture's ids.

    The softmax is over the expert's own full output; what it gives to ids it cannot read is lost, not shared out.

    Args:
        logits: [..., outputs[expert]], any float dtype.
        expert: its number in `common`.
        common: whose ids the result has.

    Returns:
        [..., size], float32 (float64 for float64 logits); -inf for ids the expert cannot read.
    """
    import torch

    if logits.shape[-1] != common.outputs[expert]:
        raise ValueError(f"{common.names[expert]} gave {logits.shape[-1]} logits; its output has {common.outputs[expert]} rows")
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    found = torch.log_softmax(logits, dim=-1, dtype=exact)
    if found.shape[-1] < common.size:
        found = torch.nn.functional.pad(found, (0, common.size - found.shape[-1]), value=-torch.inf)
    if not common.reads_all(expert):
        found = found.masked_fill(~common.read_by(expert, found.device), -torch.inf)
    return found


def mix_log_probs(
    logits: Sequence[torch.Tensor],
    log_weights: torch.Tensor,
    common: CommonVocabulary,
    *,
    stop_ids: Iterable[int] = (),
    law: str = "arithmetic",
) -> torch.Tensor:
    """The mixture's log-probabilities.

    Args:
        logits: for each expert [batch, time, V_i] (any leading shape, the same for all).
        log_weights: log a_i, [experts], or [batch, time, experts] where a gate moves them; -inf for weight 0.
        common: the vocabulary.
        stop_ids: ids that end the answer; those that some expert cannot read are kept (see `CommonVocabulary.masked`).
        law: `arithmetic` or `logits` (LAWS).

    Returns:
        [batch, time, size] on the first expert's device, float32 or float64; masked ids are -inf and the rest sum to 1.
    """
    import torch

    if check_law(law) == "logits":
        return _geometric(logits, log_weights, common)
    total: torch.Tensor | None = None
    for index, given in enumerate(logits):
        part = expert_log_probs(given, index, common)
        if total is not None:
            part = part.to(total.device)
        part = part + log_weights[..., index, None].to(part.device, part.dtype)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    if common.whole:
        return total  # sums to 1 as it stands
    total = total.masked_fill(common.masked(stop_ids, total.device), -torch.inf)
    return total - total.logsumexp(-1, keepdim=True)


def _geometric(logits: Sequence[torch.Tensor], log_weights: torch.Tensor, common: CommonVocabulary) -> torch.Tensor:
    """sum_i a_i log p_i, normalised over the ids that every expert reads."""
    import torch

    total: torch.Tensor | None = None
    for index, given in enumerate(logits):
        part = expert_log_probs(given, index, common)
        if total is not None:
            part = part.to(total.device)
        weight = log_weights[..., index, None].to(part.device, part.dtype).exp()
        # p^0 is 1 even where p is 0; 0 * -inf would be NaN.
        part = torch.where(weight > 0, weight * part, torch.zeros_like(part))
        total = part if total is None else total + part
    assert total is not None
    if not common.whole:
        total = total.masked_fill(~common.shared.to(total.device), -torch.inf)
    return torch.log_softmax(total, dim=-1)


def responsibilities(log_probs: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """How much of a token is each expert's: r_i = a_i p_i(x) / p(x).

    Args:
        log_probs: log p_i(x) of the token that was taken, [..., experts].
        log_weights: log a_i, [experts] or [..., experts].

    Returns:
        [..., experts], summing to 1; the weights themselves for a token that no expert can produce.
    """
    import torch

    weights = log_weights.to(log_probs.device, log_probs.dtype)
    joint = log_probs + weights
    impossible = torch.isneginf(joint).all(-1, keepdim=True)
    return torch.softmax(torch.where(impossible, weights.expand_as(joint), joint), dim=-1)
