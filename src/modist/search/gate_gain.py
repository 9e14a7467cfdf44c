"""What the bayes gate would gain, on the rows it was fitted to and on rows it was not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.search.em import Array
from modist.search.gate_fit import GateFit, Timeline, fit_gate
from modist.search.likelihoods import Likelihoods
from modist.search.simplex import token_log_probs

# Tokens to which a fold's gate is fitted: trying a whole grid on a million takes a minute a fold.
_ENOUGH = 40_000


@dataclass(frozen=True, eq=False)
class GateGain:
    """The best gate, the weights that go with it, and its nats per token.

    Attributes:
        discount, stride: fitted to all rows, with the weights of largest likelihood without a gate.
        weights: fitted anew under that gate, float64 [experts].  Where the gate remembers much, one token in a text settles
            whose it is, and weights are shares of texts; without a gate they are shares of tokens.
        nats_per_token: of the gated mixture on all rows.
        held_out: of each row under weights and gate fitted without its fold.
        gain: of that over the mixture without a gate, each row under weights fitted without its fold: nats a token, and its
            standard error, clustered by row; NaN where a token has probability 0.
    """

    discount: float
    stride: int
    weights: Array
    nats_per_token: float
    held_out: float
    gain: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the gain, 95%."""
        value, error = self.gain
        return value - 1.96 * error, value + 1.96 * error


def gate_gain(
    found: Likelihoods,
    weights: Array,
    fold_weights: Array,
    seed: int = 0,
    advance: Callable[[float], object] | None = None,
) -> GateGain:
    """Fit the gate on all rows, and again without each fold.

    Args:
        found: what every expert says of every token.
        weights: of largest likelihood on all rows, [experts].
        fold_weights: the same without each fold, [folds, experts], from `simplex.held_out` with this seed.
        seed: of the order in which rows were dealt to folds.
        advance: told which share of the work is done.
    """
    masses = found.log_masses
    best = _fit(found.log_probs, found.lengths, weights, masses, refine=True)
    rows, folds = len(found.lengths), len(fold_weights)
    fold = deal(rows, folds, seed)
    gated, static = np.zeros(rows), np.zeros(rows)
    for number, at in enumerate(fold_weights):
        if advance is not None:
            advance((number + 1) / (folds + 1))
        out = fold == number
        rest = thinned(~out, found.lengths)
        inside, outside = np.repeat(rest, found.lengths), np.repeat(out, found.lengths)
        there, left = (None if masses is None else masses[part] for part in (inside, outside))
        # The grid alone: between its discounts the likelihood is flat next to what folds differ by.
        chosen = _fit(found.log_probs[inside], found.lengths[rest], at, there, refine=False)
        line = Timeline.of(found.log_probs[outside], found.lengths[out], left)
        gated[out] = _rows(line, gated_log_probs(line, chosen.weights, chosen.discount, chosen.stride), found.lengths[out])
        plain = token_log_probs(found.log_probs[outside], at[None], left)[0]
        static[out] = np.add.reduceat(plain, np.cumsum(found.lengths[out]) - found.lengths[out])
    if advance is not None:
        advance(1.0)
    return GateGain(
        discount=best.discount,
        stride=best.stride,
        weights=best.weights,
        nats_per_token=best.nats_per_token,
        held_out=-float(gated.sum() / found.tokens),
        gain=_clustered(gated, static, found.lengths),
    )


def _fit(
    logs: npt.NDArray[np.floating],
    lengths: npt.NDArray[np.int64],
    weights: Array,
    masses: npt.NDArray[np.floating] | None,
    refine: bool,
) -> GateFit:
    # An expert that finds a past impossible has no nats of its own there, and none is asked for.
    with np.errstate(invalid="ignore"):
        return fit_gate(logs, lengths, weights, log_masses=masses, refine=refine, refit=True)


def deal(rows: int, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Which fold each row belongs to, [rows], as `simplex.held_out` deals them."""
    found = np.empty(rows, dtype=np.int64)
    found[np.random.default_rng(seed).permutation(rows)] = np.arange(rows) % folds
    return found


def thinned(chosen: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Of the rows that are chosen, [rows], every second, third ... where they are more than a gate's few numbers need."""
    step = int(lengths[chosen].sum()) // _ENOUGH
    if step < 2:
        return chosen
    found = np.zeros_like(chosen)
    found[np.flatnonzero(chosen)[::step]] = True
    return found


def gated_log_probs(line: Timeline, weights: Array, discount: float, stride: int) -> Array:
    """log p of every token under a gate, [tokens], in the timeline's order."""
    with np.errstate(divide="ignore"):
        log_a = np.log(weights)
    gate = log_a + line.renewed(line.past(discount), stride)
    # Experts of weight 0 may be the only ones that find the past possible.
    gate[np.isneginf(gate).all(1)] = log_a
    left = gate if line.masses is None else gate + line.masses
    return np.asarray(np.logaddexp.reduce(gate + line.logs, axis=1) - np.logaddexp.reduce(left, axis=1))


def _rows(line: Timeline, values: Array, lengths: npt.NDArray[np.int64]) -> Array:
    """Sums of the timeline's tokens by row."""
    owner = np.repeat(np.arange(len(lengths)), lengths)[line.order]
    return np.asarray(np.bincount(owner, values, len(lengths)), dtype=np.float64)


def _clustered(ours: Array, theirs: Array, lengths: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean difference a token of two sums by row, and its standard error where rows are independent."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.nan, math.nan
    difference, rows, tokens = ours - theirs, len(lengths), int(lengths.sum())
    mean = float(difference.sum() / tokens)
    residual = difference - mean * lengths
    return mean, math.sqrt(float(residual @ residual) * rows / (rows - 1)) / tokens
