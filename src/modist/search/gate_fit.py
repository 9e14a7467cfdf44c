"""The bayes gate's discount and stride by likelihood, from the same cached log-probabilities as the weights.

    log a_i(t) = log a_i + past_i(b),   past_i(t + 1) = log p_i(x_t) + g past_i(t),   past_i(0) = 0,

b the last multiple of the stride not above t, each sequence on its own (modist.mixture.gate).  The recursion does not depend on
the stride, so one pass over the tokens serves every stride at a discount.  What the prompt said is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from modist.errors import UserError
from modist.search.bootstrap import checked_lengths
from modist.search.em import Array, checked_logs, fit_weights

DISCOUNTS = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
STRIDES = (1, 2, 4, 8, 16, 32)
_GOLDEN = (math.sqrt(5) - 1) / 2
_REFINEMENTS = 14


@dataclass(frozen=True)
class Candidate:
    """One gate and how well it predicts: the mean of -log p, nats a token; inf where it makes a token impossible."""

    discount: float
    stride: int
    nats_per_token: float


@dataclass(frozen=True, eq=False)
class GateFit:
    """The best gate found.

    Attributes:
        discount: g.
        stride: tokens between renewals.
        nats_per_token: of the gated mixture.
        static: nats per token of the weights without a gate.
        weights: a_i that go with it, float64 [experts]: those given, or fitted under the gate.
        candidates: all that were tried with the given weights, the grid first.
    """

    discount: float
    stride: int
    nats_per_token: float
    static: float
    weights: Array
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, eq=False)
class Timeline:
    """Sequences side by side: all first tokens, then all second ones ..., the longest sequence first.

    Attributes:
        logs: log p_i(x_t), float64 [tokens, experts], in that order.
        masses: log of what may be chosen, likewise; None where nothing is masked.
        alive: sequences that have a token t, [longest]; never growing.
        order: which token of the caller's each is, [tokens].
    """

    logs: Array
    masses: Array | None
    alive: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        log_probs: npt.NDArray[np.floating],
        lengths: Sequence[int] | npt.NDArray[np.integer],
        log_masses: npt.NDArray[np.floating] | None = None,
    ) -> Timeline:
        logs = checked_logs(log_probs)
        sizes = checked_lengths(lengths, len(logs))
        time = np.arange(len(logs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rank = np.empty(len(sizes), dtype=np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
        order = np.lexsort((np.repeat(rank, sizes), time))
        alive = np.bincount(time)
        masses = None if log_masses is None else checked_logs(log_masses, "log_masses")[order].astype(np.float64)
        return cls(logs[order].astype(np.float64), masses, alive, order)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each time's tokens begin, [longest]."""
        return np.asarray(np.cumsum(self.alive) - self.alive)

    @cached_property
    def time(self) -> npt.NDArray[np.int64]:
        """Each token's t, [tokens]."""
        return np.repeat(np.arange(len(self.alive)), self.alive)

    def past(self, discount: float) -> Array:
        """past_i(t) of every token, float64 [tokens, experts]."""
        past = np.zeros_like(self.logs)
        for time in range(1, len(self.alive)):
            begin, before, count = self.offsets[time], self.offsets[time - 1], self.alive[time]
            now, last = past[begin : begin + count], slice(before, before + count)
            if discount > 0:  # 0 times -inf is 0 here
                np.multiply(past[last], discount, out=now)
            now += self.logs[last]
        return past

    def renewed(self, past: Array, stride: int) -> Array:
        """past_i(b) of every token; 0 for all experts where each finds the past impossible."""
        seat = np.arange(len(self.time)) - self.offsets[self.time]
        found = past[self.offsets[self.time // stride * stride] + seat] if stride > 1 else past.copy()
        found[np.isneginf(found).all(1)] = 0.0
        return np.asarray(found)

    def nats(self, log_a: Array, renewed: Array | None) -> float:
        """The mean of -log p under weights and a gate's past (None: static)."""
        gate = np.broadcast_to(log_a, self.logs.shape)
        if renewed is not None:
            gate = log_a + renewed
            # Experts of weight 0 may be the only ones that find the past possible.
            gate[np.isneginf(gate).all(1)] = log_a
        left = gate if self.masses is None else gate + self.masses
        return -float((_log_sum(gate + self.logs) - _log_sum(left)).mean())


def fit_gate(
    log_probs: npt.NDArray[np.floating],
    lengths: Sequence[int] | npt.NDArray[np.integer],
    weights: Sequence[float] | Array,
    *,
    log_masses: npt.NDArray[np.floating] | None = None,
    discounts: Sequence[float] = DISCOUNTS,
    strides: Sequence[int] = STRIDES,
    refine: bool = True,
    refit: bool = False,
) -> GateFit:
    """The discount and stride under which tokens are likeliest: every pair of a grid, then the discount by golden section.

    Args:
        log_probs: log p_i(x_t), [tokens, experts], sequence after sequence.
        lengths: tokens of each sequence, [sequences].
        weights: a_i, [experts].
        log_masses: as for `fit_weights`.
        discounts, strides: the grid.
        refine: look between the grid's discounts next to the best.
        refit: fit a_i anew under the best gate.  That likelihood is not concave, so it is the nearest peak that is found.

    Raises:
        UserError: values out of range, shapes that do not fit.
    """
    line = Timeline.of(log_probs, lengths, log_masses)
    at = np.asarray(weights, dtype=np.float64)
    if at.shape != (line.logs.shape[1],) or not (at >= 0).all() or abs(at.sum() - 1) > 1e-6:
        raise UserError(f"the weights {at.tolist()} must be {line.logs.shape[1]}, none negative, with sum 1")
    for discount in discounts:
        if not 0 <= discount <= 1:
            raise UserError(f"discount {discount}: must lie in [0, 1]")
    for stride in strides:
        if stride < 1 or stride != int(stride):
            raise UserError(f"stride {stride}: must be a whole number of at least 1")
    if not discounts or not strides:
        raise UserError("fitting a gate needs at least one discount and one stride to try")
    with np.errstate(divide="ignore"):
        log_a = np.log(at)
    tried = [
        Candidate(discount, int(stride), line.nats(log_a, line.renewed(past, stride)))
        for discount in discounts
        for past in [line.past(discount)]
        for stride in strides
    ]
    best = min(tried, key=_quality)
    if refine and math.isfinite(best.nats_per_token):
        tried += _refined(line, log_a, best, sorted(set(discounts)))
        best = min(tried, key=_quality)
    nats = best.nats_per_token
    if refit and math.isfinite(nats):
        renewed = line.renewed(line.past(best.discount), best.stride)
        left = renewed if line.masses is None else renewed + line.masses
        found = fit_weights(line.logs + renewed, log_masses=left, start=at)
        if -math.inf < found.nats_per_token < nats:
            at, nats = found.weights, found.nats_per_token
    return GateFit(best.discount, best.stride, nats, line.nats(log_a, None), at, tuple(tried))


def _quality(candidate: Candidate) -> tuple[float, int]:
    """Fewer nats; of equals the larger stride, which is the cheaper to decode with."""
    return candidate.nats_per_token, -candidate.stride


def _refined(line: Timeline, log_a: Array, best: Candidate, grid: Sequence[float]) -> list[Candidate]:
    """Golden section between the grid's neighbours of the best discount (Kiefer 1953)."""
    place = grid.index(best.discount)
    low, high = grid[max(0, place - 1)], grid[min(len(grid) - 1, place + 1)]
    if not low < high:
        return []
    tried: list[Candidate] = []

    def at(discount: float) -> float:
        nats = line.nats(log_a, line.renewed(line.past(discount), best.stride))
        tried.append(Candidate(discount, best.stride, nats))
        return nats

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    below, above = at(left), at(right)
    for _ in range(_REFINEMENTS):
        if below <= above:
            high, right, above = right, left, below
            left = high - _GOLDEN * (high - low)
            below = at(left)
        else:
            low, left, below = left, right, above
            right = low + _GOLDEN * (high - low)
            above = at(right)
    return tried


def _log_sum(values: Array) -> Array:
    """log sum exp over experts, [tokens]; -inf where all are."""
    top = values.max(1)
    safe = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(values - safe[:, None]).sum(1)) + safe)
