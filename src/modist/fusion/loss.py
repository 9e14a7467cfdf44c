"""The loss of fusing: lambda CLM + (1 - lambda) CE(fused target), from a handful of ids a position.

A target at one position is a set S of ids with probabilities p_k, and a tail r: what the teacher leaves for all other ids
together.  The student's q enters as the same k + 1 buckets, so that nothing is said of how the tail is spread inside:

    CE = - sum_{k in S} p_k log q_k  -  r log(1 - sum_{k in S} q_k)

which is the cross-entropy of the coarsened distributions; as coarsening only loses information, its minimum over q is where
q_k = p_k on S, and it never asks for more than the full teacher would.  FuseLLM and FuseChat renormalise the k ids to 1
instead (r = 0), which makes every target sharper than what the teacher said.

With logits z, s = sum p_k + r (1 but for rounding), Q = sum_S q_k and O = 1 - Q, the gradient is

    dCE/dz_v = s q_v - p_v          for v in S
    dCE/dz_v = q_v (s - r / O)      elsewhere

Nothing cancels in it.  O is summed over the ids outside S, not taken as 1 - Q, and is thus as exact as any probability even
where a confident student leaves it 1e-20.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Losses(NamedTuple):
    """By position, [n].

    Attributes:
        total: lambda * clm + (1 - lambda) * fused; the one with a gradient.
        clm: -log q(label).
        fused: the cross-entropy with the target.
    """

    total: torch.Tensor
    clm: torch.Tensor
    fused: torch.Tensor


def fusion_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ids: torch.Tensor,
    probs: torch.Tensor,
    tail: torch.Tensor,
    mix: float,
) -> Losses:
    """The loss of each position, without any [positions, vocabulary] target.

    Args:
        logits: [n, vocabulary], any float dtype; float64 is computed in float64, all else in float32.
        labels: the tokens that follow, [n].
        ids: of the target, [n, k]; each at most once in a row; -1 fills up, never in the first place.
        probs: [n, k], 0 where ids are -1.
        tail: [n], what the target leaves for all other ids.
        mix: lambda, from 0 (the target alone) to 1 (plain CLM).
    """
    return Losses(*_Fusion.apply(logits, labels, ids, probs, tail, mix))


class _Fusion(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        labels: torch.Tensor,
        ids: torch.Tensor,
        probs: torch.Tensor,
        tail: torch.Tensor,
        mix: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
        probs, tail = probs.to(exact), tail.to(exact)
        # What fills a row up repeats its first id, so that a scatter writes the same value twice.
        filler = ids < 0
        ids = torch.where(filler, ids[:, :1], ids).long()
        held = torch.log_softmax(logits, dim=-1, dtype=exact)  # [n, vocabulary], the only buffer of that size
        clm = -held.gather(1, labels[:, None]).squeeze(1)
        log_inside = held.gather(1, ids)
        # 0 * -inf is not a number, and an id with probability 0 asks for nothing.
        fused = -torch.where(probs > 0, probs * log_inside, torch.zeros_like(probs)).sum(1)
        held.exp_().scatter_(1, ids, 0.0)
        outside = held.sum(1).clamp_min(torch.finfo(exact).tiny)
        fused = fused - torch.where(tail > 0, tail * outside.log(), torch.zeros_like(tail))
        ctx.save_for_backward(held, labels, ids, filler, probs, tail, log_inside, outside)
        ctx.mix, ctx.dtype = mix, logits.dtype
        ctx.mark_non_differentiable(clm, fused)
        return mix * clm + (1 - mix) * fused, clm, fused

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        held, labels, ids, filler, probs, tail, log_inside, outside = ctx.saved_tensors
        mix = ctx.mix
        grad = grad[:, None].to(held.dtype)
        mass = (probs.sum(1) + tail)[:, None]
        found = held * (grad * (mix + (1 - mix) * (mass - (tail / outside)[:, None])))
        q = log_inside.exp()
        inside = grad * (mix * q + (1 - mix) * (mass * q - probs))
        inside = torch.where(filler, inside[:, :1], inside)
        found.scatter_(1, ids, inside)
        found.scatter_add_(1, labels[:, None], -mix * grad)
        return found.to(ctx.dtype), None, None, None, None, None


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x <= 0, with the full precision of the dtype (Maechler 2012, equation 7)."""
    return torch.where(x > -0.6931471805599453, (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


def plain_fusion_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ids: torch.Tensor,
    probs: torch.Tensor,
    tail: torch.Tensor,
    mix: float,
) -> Losses:
    """The same by autograd and `log1mexp`, line by line as the formula stands; what `fusion_loss` is held against."""
    log_q = torch.log_softmax(logits, dim=-1)
    clm = -log_q.gather(1, labels[:, None]).squeeze(1)
    filler = ids < 0
    inside = log_q.gather(1, ids.clamp_min(0).long()).masked_fill(filler, -torch.inf)
    weighted = torch.where(filler, torch.zeros_like(inside), probs * inside.masked_fill(filler, 0.0))
    log_outside = log1mexp(torch.logsumexp(inside, 1))
    fused = -weighted.sum(1) - torch.where(tail > 0, tail * log_outside, torch.zeros_like(tail))
    return Losses(mix * clm + (1 - mix) * fused, clm, fused)
