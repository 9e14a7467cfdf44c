"""How sure fitted weights are: a bootstrap over sequences.

Tokens of one text are not independent, so texts are drawn again, not tokens (a cluster bootstrap).  A replicate is not fitted
from nothing: at the optimum of all the data, each sequence leaves the sums of its gradients and Hessians, a replicate is their
sum over the sequences drawn, and one Newton step on it (a quadratic programme, because weights stay at or above 0), bent once
by the third derivatives of all the data (Chebyshev's step), gives its weights.  Tokens are read once, whatever the number of
replicates.

The interval is the plain percentile one.  Tried on synthetic mixtures with known weights, it covers as often as the sandwich
(estimate +- 1.96 clustered standard errors), and unlike that it never leaves [0, 1] and needs no normality near a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.errors import UserError
from modist.search.em import Array, checked_logs, fit_weights, nonnegative_quadratic

REPLICATES = 1000
# Tokens whose ratios are held at once.
_BLOCK = 1 << 16
_RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class Intervals:
    """What the resampled sequences say.

    Attributes:
        low, high: the ends of the interval of each weight, float64 [experts].
        standard_error: of each weight, float64 [experts]: the replicates' standard deviation.
        level: share of the time the interval is meant to hold the truth.
        gain: of the mixture over the expert that is best on all the data, nats a token, with its interval: (value, low,
            high); inf where that expert cannot say some token.
        sequences: how many were drawn from.
        replicates: weights of each, float64 [replicates, experts].
    """

    low: Array
    high: Array
    standard_error: Array
    level: float
    gain: tuple[float, float, float]
    sequences: int
    replicates: Array


def bootstrap_weights(
    log_probs: npt.NDArray[np.floating],
    lengths: Sequence[int] | npt.NDArray[np.integer],
    weights: Sequence[float] | Array,
    *,
    log_masses: npt.NDArray[np.floating] | None = None,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
    refit: bool = False,
) -> Intervals:
    """Intervals of weights that `fit_weights` found.

    Args:
        log_probs: log p_i(x_t), [tokens, experts], sequence after sequence.
        lengths: tokens of each sequence, [sequences].
        weights: the optimum on these tokens, [experts].
        log_masses: as for `fit_weights`.
        replicates: how many times sequences are drawn.
        level: of the interval.
        seed: of the draws.
        refit: fit each replicate to the end instead of by one step: the slow twin, for comparison.

    Raises:
        UserError: fewer than two sequences, lengths that do not add up, a nonsensical level or number of replicates.
    """
    logs = checked_logs(log_probs)
    sizes = checked_lengths(lengths, len(logs))
    if len(sizes) < 2:
        raise UserError("an interval needs at least two texts: they are what is drawn again")
    if replicates < 2:
        raise UserError(f"replicates {replicates}: must be at least 2")
    if not 0 < level < 1:
        raise UserError(f"level {level}: must lie between 0 and 1")
    at = np.asarray(weights, dtype=np.float64)
    sums = _sequence_sums(logs, log_masses, sizes, at)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), replicates)
    if refit:
        found = np.stack(
            [fit_weights(logs, counts=np.repeat(row, sizes), log_masses=log_masses, start=at).weights for row in drawn]
        )
    else:
        found = _one_step(drawn.astype(np.float64), sizes, sums, at)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(found, [tail, 100 - tail], axis=0)
    return Intervals(
        low=low,
        high=high,
        standard_error=found.std(0, ddof=1),
        level=level,
        gain=_gain(drawn, sizes, sums, tail),
        sequences=len(sizes),
        replicates=found,
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over each sequence's tokens, at the optimum."""

    gradient: Array  # [sequences, experts]
    hessian: Array  # [sequences, experts, experts]
    third: Array  # of all tokens, [experts, experts, experts]: half the second derivatives of the gradient
    log_p: Array  # of the mixture, [sequences]
    experts: Array  # log p_i, [sequences, experts]


def _sequence_sums(
    logs: npt.NDArray[np.floating], masses: npt.NDArray[np.floating] | None, sizes: npt.NDArray[np.int64], weights: Array
) -> _Sums:
    count, experts = len(sizes), logs.shape[1]
    gradient, hessian = np.zeros((count, experts)), np.zeros((count, experts, experts))
    log_p, alone, third = np.zeros(count), np.zeros((count, experts)), np.zeros((experts * experts, experts))
    ends = np.cumsum(sizes)
    first = 0
    while first < count:
        # Whole sequences, as many as fit.
        begin = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + _BLOCK, side="right")))
        rows, inside = slice(first, last), slice(begin, int(ends[last - 1]))
        starts = ends[rows] - sizes[rows] - begin
        ratio, value = _ratios(logs[inside].astype(np.float64), weights)
        price, left, own = np.ones_like(ratio), np.zeros_like(value), logs[inside].astype(np.float64)
        products = ratio[:, :, None] * ratio[:, None, :]
        third += products.reshape(len(ratio), -1).T @ ratio
        if masses is not None:
            price, left = _ratios(masses[inside].astype(np.float64), weights)
            own = own - masses[inside]
            prices = price[:, :, None] * price[:, None, :]
            third -= prices.reshape(len(price), -1).T @ price
            # Less the masses' part, plus 1 in the direction of the sum, in which the likelihood is flat.
            products = products - prices + 1.0
        gradient[rows] = np.add.reduceat(ratio - price, starts, axis=0)
        hessian[rows] = np.add.reduceat(products, starts, axis=0)
        log_p[rows] = np.add.reduceat(value - left, starts)
        alone[rows] = np.add.reduceat(own, starts, axis=0)
        first = last
    return _Sums(gradient, hessian, third.reshape(experts, experts, experts), log_p, alone)


def _ratios(logs: Array, weights: Array) -> tuple[Array, Array]:
    """p_i / p, [tokens, experts], and log p, [tokens]."""
    top = logs.max(1, keepdims=True)
    scaled = np.exp(logs - top)
    mixed = scaled @ weights
    if not mixed.min(initial=1.0) > 0:
        place = int(np.flatnonzero(~(mixed > 0))[0])
        raise UserError(f"the weights {weights.tolist()} give a token probability 0, expert values {logs[place].tolist()}")
    return scaled / mixed[:, None], np.log(mixed) + top[:, 0]


def _one_step(drawn: Array, sizes: npt.NDArray[np.int64], sums: _Sums, weights: Array) -> Array:
    """Each replicate's weights by one bent Newton step from the optimum of all, [replicates, experts]."""
    experts = len(weights)
    tokens = drawn @ sizes
    gradient = (drawn @ sums.gradient) / tokens[:, None]
    hessian = (drawn @ sums.hessian.reshape(len(sizes), -1)).reshape(-1, experts, experts) / tokens[:, None, None]
    hessian += _RIDGE * np.eye(experts)
    step = _quadratic(hessian, gradient, weights) - weights
    bend = np.einsum("bj,ijk,bk->bi", step, sums.third / sizes.sum(), step)
    found = _quadratic(hessian, gradient + bend, weights)
    return np.asarray(found / found.sum(1, keepdims=True))


def _quadratic(hessian: Array, gradient: Array, weights: Array) -> Array:
    """The best weights >= 0 of each replicate's quadratic, [replicates, experts]."""
    linear = hessian @ weights + gradient
    found = np.linalg.solve(hessian, linear[:, :, None])[:, :, 0]
    for place in np.flatnonzero((found < 0).any(1)):
        found[place] = nonnegative_quadratic(hessian[place], linear[place], weights)
    return np.asarray(found)


def _gain(drawn: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], sums: _Sums, tail: float) -> tuple[float, float, float]:
    best = int(sums.experts.sum(0).argmax())
    gains = sums.log_p - sums.experts[:, best]
    if not np.isfinite(gains).all():
        return np.inf, np.inf, np.inf
    low, high = np.percentile((drawn @ gains) / (drawn @ sizes), [tail, 100 - tail])
    return float(gains.sum() / sizes.sum()), float(low), float(high)


def checked_lengths(lengths: Sequence[int] | npt.NDArray[np.integer], tokens: int) -> npt.NDArray[np.int64]:
    """Lengths of sequences as int64 [sequences], if each is at least 1 and together they are all the tokens."""
    found = np.asarray(lengths)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or len(found) == 0:
        raise UserError("lengths must be a list of whole numbers, one for each sequence")
    if found.min() < 1:
        raise UserError(f"sequence {int(found.argmin())} has {int(found.min())} tokens; each needs at least one")
    if int(found.sum()) != tokens:
        raise UserError(f"lengths sum to {int(found.sum())}; there are {tokens} tokens")
    return found.astype(np.int64)
