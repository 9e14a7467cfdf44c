"""Weights of a mixture by maximum likelihood, from what each expert says of tokens that are already known.

The mean log-likelihood f(a) = mean over t of log sum_i a_i p_i(x_t) is concave in the weights a, so there is one best value,
and it needs no decoding.  With r_ti = p_i(x_t) / p(x_t):

    gradient g_i = mean r_ti,    Hessian -h_ij = -mean r_ti r_tj,    and h a = g.

EM (Dempster, Laird and Rubin 1977) is a_i <- a_i g_i: it never falls, and crawls where experts are alike.  Here Newton's step
does the work: a quadratic programme over a >= 0 (sequential quadratic programming on the log-likelihood without the constraint
of the sum, Kim, Carbonetto, Stephens and Anitescu 2020), with EM wherever the quadratic is a poor likeness.  Concavity also
gives the proof that the end is reached: f(best) - f(a) <= max_i g_i - 1, the *gap*.

The same climb serves f(a) = mean log sum_i a_i u_ti - mean log sum_i a_i v_ti, which is the law where some ids are masked
(u = p, v = the mass left) and under the bayes gate (gate_fit).  That one is not concave: the gap is then only how far the
first-order conditions are from holding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.errors import UserError

Array = npt.NDArray[np.float64]

# Elements of a block: its ratios (256 KiB) stay in a core's second-level cache between the products that read them.
_BLOCK = 1 << 15
# The first climb is on about this many tokens; all of them then take two or three steps.
_FEW = 1 << 14
# Added to the Hessian's diagonal: directions in which the likelihood is flat stay where they are.
_RIDGE = 1e-9
# Of the Hessian's largest eigenvalue: experts that agree to a millionth of a nat, which is what float32 keeps of a logarithm.
_FLAT = 1e-12
# A Newton step gained this much of what the quadratic promised: go on with Newton.
_FAITHFUL = (0.75, 1.35)
# No step may lead to a place where an expert's mean ratio is this large, if it was not before.
_CLIFF = 10.0
# Promised gains below this drown in the rounding of f.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights of largest likelihood.

    Attributes:
        weights: a_i, float64 [experts], summing to 1; exactly 0 for an expert that is of no use.
        nats_per_token: of the mixture with these weights: the mean of -log p.
        experts: the same for each expert alone, float64 [experts]; inf where it cannot say some token.
        tokens: how many there were, by their counts.
        iterations: looks at all the tokens.
        gap: max_i mean(p_i / p) - 1: no weights are better by more nats a token.
        converged: whether the gap came down to the tolerance.
        unique: whether no other weights do as well; False where experts (or mixtures of them) cannot be told apart on these
            tokens.  Their weights are then those nearest the start on the way: equal ones for identical experts by default.
    """

    weights: Array
    nats_per_token: float
    experts: Array
    tokens: float
    iterations: int
    gap: float
    converged: bool
    unique: bool


@dataclass(frozen=True, eq=False)
class Look:
    """f at some weights, and what Newton and EM need there.

    Attributes:
        value: f.
        gradient: mean r_i less `price`, [experts].
        hessian: minus the second derivatives, [experts, experts].
        price: what weight costs: 1, from the constraint of the sum; mean of m_i / m where ids are masked.
    """

    value: float
    gradient: Array
    hessian: Array
    price: Array


class Terms:
    """mean over t of log sum_i a_i u_ti, with each token's u divided by its largest, so that nothing under- or overflows.

    Attributes:
        scaled: u_ti / max_i u_ti, float64 [experts, tokens]: each expert's are contiguous.
        shift: mean of log max_i u_ti.
        share: each token's part of the mean, float64 [tokens] summing to 1; None where all count the same.
        experts: mean of log u_ti, float64 [experts].
    """

    def __init__(self, scaled: Array, shift: float, share: Array | None, experts: Array) -> None:
        self.scaled, self.shift, self.share, self.experts = scaled, shift, share, experts

    @classmethod
    def of(cls, logs: npt.NDArray[np.floating], share: Array | None = None, what: str = "row") -> Terms:
        """From log u, [tokens, experts].

        Raises:
            UserError: a value that is no logarithm of anything, or a token that no expert can say.
        """
        tokens, experts = logs.shape
        scaled = np.empty((experts, tokens))
        sums, shift = np.zeros(experts), 0.0
        size = max(1, _BLOCK // experts)
        for start in range(0, tokens, size):
            part = slice(start, min(tokens, start + size))
            block = logs[part].T.astype(np.float64, order="C")
            top = block.max(0)
            if not np.isfinite(top).all():
                _refuse(block, top, start, what)
            weights = None if share is None else share[part]
            sums += block.sum(1) if weights is None else _weighted(block, weights)
            shift += float(top.sum() if weights is None else top @ weights)
            block -= top
            np.exp(block, out=scaled[:, part])
        if share is None:
            sums, shift = sums / tokens, shift / tokens
        return cls(scaled, shift, share, sums)

    @property
    def tokens(self) -> int:
        return int(self.scaled.shape[1])

    def thinned(self, step: int) -> Terms:
        """Every step-th token."""
        share = self.share
        if share is not None:
            share = share[::step]
            share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
        return Terms(np.ascontiguousarray(self.scaled[:, ::step]), 0.0, share, self.experts)

    def at(self, weights: Array) -> Look | None:
        """f and its derivatives; None where some token that counts has probability 0."""
        experts, tokens = self.scaled.shape
        size = max(1, _BLOCK // experts)
        value, hessian = 0.0, np.zeros((experts, experts))
        ratios, roots = np.empty((experts, size)), None
        for start in range(0, tokens, size):
            part = self.scaled[:, start : start + size]
            mixed = weights @ part
            if self.share is not None:
                roots = self.share[start : start + size]
                # A token that does not count may need an expert of weight 0.
                mixed = np.where(roots > 0, mixed, 1.0)
            if not mixed.min() > 0:
                return None
            inside = ratios[:, : len(mixed)]
            np.divide(part, mixed, out=inside)
            if roots is None:
                hessian += inside @ inside.T
                value += float(np.log(mixed).sum())
            else:
                hessian += (inside * roots) @ inside.T
                value += float(np.log(mixed) @ roots)
        if self.share is None:
            hessian /= tokens
            value /= tokens
        return Look(value + self.shift, hessian @ weights, hessian, np.zeros(experts))


def fit_weights(
    log_probs: npt.NDArray[np.floating],
    *,
    counts: Sequence[float] | npt.NDArray[np.generic] | None = None,
    log_masses: npt.NDArray[np.floating] | None = None,
    start: Sequence[float] | npt.NDArray[np.floating] | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
) -> Fit:
    """The weights under which tokens are likeliest.

    Args:
        log_probs: log p_i(x_t), natural, float32 or float64 [tokens, experts]; -inf for a token an expert cannot say.
        counts: how often each token counts, [tokens]; once by default.
        log_masses: log of what each expert leaves for ids that may be chosen at all, [tokens, experts]; left out where no
            id is masked.
        start: weights to begin with, equal ones by default; they decide only where the likelihood does not.
        tolerance: the gap at which to stop, nats a token.
        max_iterations: looks at all the tokens after which to give up, with `converged` False.

    Raises:
        UserError: no tokens, values that are no log-probabilities, or a token that no expert can say (with its row).
    """
    logs = checked_logs(log_probs)
    tokens, experts = logs.shape
    share, total = _shares(counts, tokens)
    chosen = Terms.of(logs, share)
    allowed = None
    if log_masses is not None:
        masses = checked_logs(log_masses, "log_masses")
        if masses.shape != logs.shape:
            raise UserError(f"log_masses has shape {list(masses.shape)}, log_probs {list(logs.shape)}; they must be the same")
        allowed = Terms.of(masses, share, "row of log_masses")
    begin = _start(start, experts)
    weights, look, iterations = climb(chosen, allowed, begin, tolerance, max_iterations)
    alone = -chosen.experts if allowed is None else allowed.experts - chosen.experts
    gap = float(max(0.0, look.gradient.max()))
    return Fit(
        weights=weights,
        nats_per_token=-look.value,
        experts=alone,
        tokens=total,
        iterations=iterations,
        gap=gap,
        converged=gap <= tolerance,
        unique=_unique(weights, look),
    )


def climb(chosen: Terms, allowed: Terms | None, start: Array, tolerance: float, max_iterations: int) -> tuple[Array, Look, int]:
    """Maximise chosen(a) - allowed(a) over the simplex, beginning with positive weights.

    Returns:
        The weights; the look at them (its gradient is mean r_i minus mean of the same for `allowed`, which is 1 where that is
        left out); how often all tokens were looked at.
    """
    step = chosen.tokens // _FEW
    if step > 1:
        few = climb(chosen.thinned(step), None if allowed is None else allowed.thinned(step), start, 1e-6, 50)[0]
        # Nothing is excluded on the word of a few tokens: one of the others may need the expert.
        start = 0.999 * few + 0.001 * start
    weights = start
    look = _look(chosen, allowed, weights)
    assert look is not None, "positive weights give every token a probability"
    iterations, newton = 1, True
    while look.gradient.max() > tolerance and iterations < max_iterations:
        if newton:
            candidate, promised = _newton(weights, look)
            found = _look(chosen, allowed, candidate)
            iterations += 1
            if found is not None:
                gained = found.value - look.value
                drowned = promised < _ROUNDING and found.gradient.max() < look.gradient.max()
                # A weight put to 0 on which some token all but hangs: f may have risen, but the way back would be long.
                fell = found.gradient.max() > max(_CLIFF, look.gradient.max())
                if drowned or (gained >= 0.1 * promised > 0 and not fell):
                    newton = drowned or _FAITHFUL[0] * promised <= gained <= _FAITHFUL[1] * promised
                    weights, look = candidate, found
                    continue
            if promised < _ROUNDING:
                break  # as near as the rounding of f lets anyone see
        candidate = _em(weights, look)
        found = _look(chosen, allowed, candidate)
        iterations += 1
        if found is None:
            break  # an underflow: the weights so far stand
        weights, look, newton = candidate, found, True
    return weights, look, iterations


def _look(chosen: Terms, allowed: Terms | None, weights: Array) -> Look | None:
    """f, its gradient less that of the constraint, and minus the Hessian, in which the direction of the sum has curvature 1."""
    found = chosen.at(weights)
    if found is None:
        return None
    if allowed is None:
        return Look(found.value, found.gradient - 1.0, found.hessian, np.ones_like(weights))
    left = allowed.at(weights)
    if left is None:
        return None
    hessian = found.hessian - left.hessian + 1.0
    if np.linalg.eigvalsh(hessian)[0] < _RIDGE:
        # Not concave here.  Its first part alone bounds f from below, by log z <= z - 1 for the second.
        hessian = found.hessian
    return Look(found.value - left.value, found.gradient - left.gradient, hessian, left.gradient)


def _newton(weights: Array, look: Look) -> tuple[Array, float]:
    """The best weights if the quadratic were true, and what it promises of them."""
    hessian = look.hessian + _RIDGE * np.eye(len(weights))
    found = nonnegative_quadratic(hessian, hessian @ weights + look.gradient, weights)
    # Before its sum is made 1, which can only gain.
    toward = found - weights
    promised = float(look.gradient @ toward - 0.5 * toward @ hessian @ toward)
    total = found.sum()
    return (found / total, promised) if total > 0 else (weights.copy(), promised)


def _em(weights: Array, look: Look) -> Array:
    """a_i mean(r_i) / price_i, which never lowers f: each part of f lies above its minorant in a, and touches it here."""
    found = weights * (look.gradient + look.price) / look.price
    return np.asarray(found / found.sum())


def nonnegative_quadratic(matrix: Array, linear: Array, start: Array) -> Array:
    """The y >= 0 that minimises y' matrix y / 2 - linear' y, by an active set (after Lawson and Hanson 1974, chapter 23).

    Args:
        matrix: positive definite, [n, n].
        linear: [n].
        start: y >= 0 whose positive entries are tried first, [n].
    """
    found, free = start.copy(), start > 0
    slack = 1e-13 * max(1.0, float(np.abs(linear).max()))
    for _ in range(10 * len(linear) + 10):
        while free.any():
            inner = np.zeros_like(found)
            inner[free] = np.linalg.solve(matrix[np.ix_(free, free)], linear[free])
            below = free & (inner <= 0)
            if not below.any():
                found = inner
                break
            # To the first wall on the way there, which then holds.
            room = found[below] / np.maximum(found[below] - inner[below], 1e-300)
            found = np.maximum(found + min(1.0, float(room.min())) * (inner - found), 0.0)
            free &= ~(below & (found <= 1e-15))
            found[~free] = 0.0
        pull = np.where(free, -np.inf, linear - matrix @ found)
        best = int(pull.argmax())
        if not pull[best] > slack:
            return found
        free[best] = True
    return found


def _unique(weights: Array, look: Look) -> bool:
    """Whether no direction along which every token keeps its probability leads to other weights."""
    # Elsewhere the gradient is below 0, so the weight is 0 in every optimum.
    face = (weights > 0) | (look.gradient > -1e-9)
    values, vectors = np.linalg.eigh(look.hessian[np.ix_(face, face)])
    flat = vectors[:, values <= _FLAT * max(1.0, float(values[-1]))]
    if flat.shape[1] != 1:
        return bool(flat.shape[1] == 0)
    # A single direction may lead out of the simplex both ways.
    bound = flat[weights[face] == 0, 0]
    return bool((bound > 1e-9).any() and (bound < -1e-9).any())


def checked_logs(values: npt.NDArray[np.floating], what: str = "log_probs") -> npt.NDArray[np.floating]:
    """The array, if it is [tokens, experts] of floating point numbers with at least one of each; UserError otherwise."""
    found = np.asarray(values)
    if found.ndim != 2 or found.shape[1] == 0:
        raise UserError(f"{what} must be [tokens, experts]; its shape is {list(found.shape)}")
    if found.shape[0] == 0:
        raise UserError("there are no tokens to fit weights to")
    if not np.issubdtype(found.dtype, np.floating):
        raise UserError(f"{what} must be floating point numbers, not {found.dtype}")
    return found


def _refuse(block: Array, top: Array, start: int, what: str) -> None:
    """UserError for the first bad token of a block; a NaN or +inf makes the largest one bad, so these are all."""
    place = int(np.flatnonzero(~np.isfinite(top))[0])
    if np.isneginf(top[place]):
        raise UserError(f"{what} {start + place}: no expert can say this token (every log-probability is -inf)")
    odd = int(np.flatnonzero(~(block[:, place] < np.inf))[0])
    raise UserError(f"{what} {start + place}: {block[odd, place]} for expert {odd} is no log-probability")


def _weighted(block: Array, share: Array) -> Array:
    """sum of block * share over tokens, where 0 * -inf is 0."""
    return np.asarray(np.where(share > 0, block, 0.0) @ share)


def _shares(counts: Sequence[float] | npt.NDArray[np.generic] | None, tokens: int) -> tuple[Array | None, float]:
    """Each token's part of the mean, and the sum of counts."""
    if counts is None:
        return None, float(tokens)
    found = np.asarray(counts, dtype=np.float64)
    if found.shape != (tokens,):
        raise UserError(f"counts has shape {list(found.shape)}; there are {tokens} tokens")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        odd = int(np.flatnonzero(~(np.isfinite(found) & (found >= 0)))[0])
        raise UserError(f"row {odd}: the count {found[odd]} is not a finite number of at least 0")
    total = float(found.sum())
    if total <= 0:
        raise UserError("there are no tokens to fit weights to: every count is 0")
    return found / total, total


def _start(start: Sequence[float] | npt.NDArray[np.floating] | None, experts: int) -> Array:
    """Positive weights to begin with."""
    if start is None:
        return np.full(experts, 1 / experts)
    found = np.asarray(start, dtype=np.float64)
    if found.shape != (experts,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise UserError(f"start {found.tolist()}: must be {experts} weights, none negative and not all 0")
    # A weight of 0 could never grow by EM, and may leave a token without probability.
    return np.asarray(0.999 * found / found.sum() + 0.001 / experts)
