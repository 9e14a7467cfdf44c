"""Gates: who has what weight at which token.

`static` keeps the recipe's weights.  `bayes` lets the experts' likelihoods of the response so far speak, the paper's "dynamic
adjustment of mixture weights based on input sequences" (arXiv 2411.00406, section 2.3):

    log a_i(t) = log a_i + sum over s < b of g^(b-1-s) log p_i(x_s),   normalised, b the last multiple of `stride` not above t.

With g = 1 and stride 1 these are the posterior weights of the experts, so the sequence scores exactly
log sum_i a_i p_i(text): the mixture of whole answers.  A callable maps the tokens so far to weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modist.errors import UserError
from modist.mixture.weights import check_weights, log_weights

GateFunction = Callable[[Sequence[int]], Sequence[float]]


@dataclass(frozen=True)
class Gate:
    """How weights follow the response.

    Attributes:
        kind: `static`, `bayes` or `callable`.
        discount: g of `bayes`, in [0, 1]: 1 remembers all, 0 only the last token.
        stride: `bayes` renews its weights every this many tokens.
        prompt: `bayes` counts the prompt's tokens too.
        function: of `callable`: token ids of the response so far -> one weight for each expert.
    """

    kind: str = "static"
    discount: float = 1.0
    stride: int = 1
    prompt: bool = False
    function: GateFunction | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("static", "bayes", "callable"):
            raise UserError(f"gate {self.kind!r}: known are static, bayes, callable")
        if not 0 <= self.discount <= 1:
            raise UserError(f"discount {self.discount}: must lie in [0, 1]")
        if self.stride < 1 or self.stride != int(self.stride):
            raise UserError(f"stride {self.stride}: must be a whole number of at least 1")
        if (self.kind == "callable") != (self.function is not None):
            raise UserError("a callable gate needs a function, and only it")

    def renews_at(self, position: int) -> bool:
        """Whether every expert's likelihood must be known before this position."""
        return self.kind == "bayes" and position % self.stride == 0 and (position > 0 or self.prompt)

    def bayes(self, log_a: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Weights from the past.

        Args:
            log_a: log of the recipe's weights, [experts].
            scores: log p_i(x_s) of all tokens before the renewal, [experts, tokens], the oldest first.

        Returns:
            log a_i(b), normalised, float64 [experts]; log a_i where every expert finds the past impossible, which a stride
            above 1 allows: one token was only one expert's, another only another's.
        """
        count = scores.shape[1]
        ages = torch.arange(count - 1, -1, -1, dtype=torch.float64)
        powers = torch.tensor(self.discount, dtype=torch.float64) ** ages
        # A weight of 0 silences even an impossible token: 0 * -inf is 0 here.
        past = torch.where(powers > 0, powers * scores.double().cpu(), 0.0).sum(1)
        posterior = log_a + past
        return log_a if bool(torch.isneginf(posterior).all()) else torch.log_softmax(posterior, 0)

    def called(self, tokens: Sequence[int], experts: int) -> torch.Tensor:
        """log of the function's weights, float64 [experts]; UserError if they are none."""
        assert self.function is not None
        return log_weights(check_weights(self.function(tuple(tokens)), experts, "the gate's weights"))
