"""Temperature, top-k, top-p and min-p, in the order and with the edges of transformers' generate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from modist.errors import UserError


@dataclass(frozen=True)
class Warp:
    """How a distribution is sharpened and cut before a token is drawn.

    Attributes:
        temperature: > 0; log-probabilities are divided by it.
        top_k: keep the k most probable ids and all that equal the k-th; 0 keeps all.
        top_p: keep the most probable ids until their mass reaches this; in (0, 1].
        min_p: keep ids at least this fraction as probable as the most probable one; in [0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UserError(f"temperature {self.temperature}: must be above 0; leave it out for greedy decoding")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise UserError(f"top_k {self.top_k}: must be a whole number, 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: must lie in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p {self.min_p}: must lie in [0, 1]")

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return self == Warp()

    @property
    def cuts(self) -> bool:
        """Whether any id can be dropped."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def __call__(self, log_probs: torch.Tensor) -> torch.Tensor:
        """The warped, normalised log-probabilities [..., size] of log-probabilities [..., size]."""
        if self.plain:
            return log_probs
        warped = torch.log_softmax(log_probs / self.temperature, -1)
        if self.top_k and self.top_k < warped.shape[-1]:
            kth = warped.topk(self.top_k, -1).values[..., -1:]
            warped = warped.masked_fill(warped < kth, -torch.inf)
        if self.top_p < 1:
            ordered, ids = torch.sort(torch.log_softmax(warped, -1), dim=-1, stable=True)
            dropped = ordered.exp().cumsum(-1) <= 1 - self.top_p
            dropped[..., -1] = False
            warped = warped.masked_fill(dropped.scatter(-1, ids, dropped), -torch.inf)
        if self.min_p > 0:
            most = warped.max(-1, keepdim=True).values
            warped = warped.masked_fill(warped < most + math.log(self.min_p), -torch.inf)
        return torch.log_softmax(warped, -1)

    def certified(self, floor: float, ceiling: float, draw: float) -> bool:
        """Whether a token drawn from one expert stays in the warped mixture's law, by that expert's word alone.

        Args:
            floor: a_i p_i(x), which the mixture's p(x) cannot be below.
            ceiling: a_i max p_i + 1 - a_i, which the mixture's largest probability cannot exceed.
            draw: uniform in (0, 1): the token is accepted where draw < (p(x) / max p)^(1/T - 1).

        Source: facts of each bound: the mass ranked above x is at most 1 - p(x), also after renormalising over the top k; fewer
        than k ids can exceed 1/(k+1); after temperature min-p compares p(x)^(1/T).  With T != 1 the mass that top-p sums is
        the warped one, of which one expert knows no bound.
        """
        if self.temperature > 1:
            return False
        if self.temperature < 1 and draw >= (floor / ceiling) ** (1 / self.temperature - 1):
            return False
        if self.top_p < 1 and (self.temperature != 1 or not 1 - floor < self.top_p):
            return False
        if self.top_k and floor < 1 / (self.top_k + 1):
            return False
        return not self.min_p or floor >= self.min_p**self.temperature * ceiling
