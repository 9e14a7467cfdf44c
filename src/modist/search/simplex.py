"""What pictures and tables of fitted weights show: the likelihood over the simplex, shares by domain, held-out folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.errors import UserError
from modist.search.bootstrap import checked_lengths
from modist.search.em import Array, checked_logs, fit_weights

# Probabilities held at once, for all points together.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Landscape:
    """Nats per token at points of the simplex.

    Attributes:
        weights: the points, float64 [points, experts].
        nats_per_token: the mean of -log p at each, float64 [points]; inf where a token is impossible.
    """

    weights: Array
    nats_per_token: Array


@dataclass(frozen=True, eq=False)
class Domain:
    """One domain's tokens under given weights.

    Attributes:
        name: as the data says it; None for rows that say none.
        rows, tokens: in it.
        responsibilities: mean of a_i p_i / p, float64 [experts], summing to 1.
        nats_per_token: of the mixture.
        experts: of each expert alone, float64 [experts].
    """

    name: str | None
    rows: int
    tokens: int
    responsibilities: Array
    nats_per_token: float
    experts: Array


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Nats per token of rows that the weights were not fitted on.

    Attributes:
        folds: how many.
        weights: fitted without each fold, float64 [folds, experts].
        optimum: each row under the weights fitted without its fold.
        given: all rows under the given weights; None where there were none.
        experts: all rows under each expert alone, float64 [experts].
        gain: of the optimum over the best of the experts, nats a token, and its standard error, clustered by row; inf and
            NaN where that expert finds a token impossible.
    """

    folds: int
    weights: Array
    optimum: float
    given: float | None
    experts: Array
    gain: tuple[float, float]


def landscape(
    log_probs: npt.NDArray[np.floating], *, log_masses: npt.NDArray[np.floating] | None = None, divisions: int | None = None
) -> Landscape:
    """The likelihood along a for two experts, or over the triangle for three.

    Args:
        log_probs: log p_i(x_t), [tokens, experts].
        log_masses: as for `fit_weights`.
        divisions: of an edge; 200 for two experts and 24 (325 points) for three by default.

    Raises:
        UserError: another number of experts.
    """
    experts = checked_logs(log_probs).shape[1]
    if experts not in (2, 3):
        raise UserError(f"a picture of the weights needs two or three experts; these are {experts}")
    count = divisions if divisions is not None else {2: 200, 3: 24}[experts]
    if count < 1:
        raise UserError(f"divisions {count}: must be at least 1")
    if experts == 2:
        first = np.arange(count + 1) / count
        points = np.stack([first, 1 - first], 1)
    else:
        whole = [(i, j, count - i - j) for i in range(count + 1) for j in range(count + 1 - i)]
        points = np.array(whole) / count
    total = np.zeros(len(points))
    size = max(1, _BLOCK // len(points))
    for start in range(0, len(log_probs), size):
        total += token_log_probs(log_probs[start : start + size], points, _part(log_masses, start, size)).sum(1)
    return Landscape(points, -total / len(log_probs))


def token_log_probs(log_probs: npt.NDArray[np.floating], weights: Array, log_masses: npt.NDArray[np.floating] | None) -> Array:
    """log p(x_t) under several weights: [tokens, experts], [points, experts] -> float64 [points, tokens]; -inf for 0."""
    found = _mixed(log_probs, weights)
    return found if log_masses is None else found - _mixed(log_masses, weights)


def _mixed(logs: npt.NDArray[np.floating], weights: Array) -> Array:
    wide = logs.astype(np.float64)
    top = wide.max(1, keepdims=True)
    # A token that nobody says stays impossible under all weights.
    top = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights @ np.exp(wide - top).T) + top.T)


def _part(values: npt.NDArray[np.floating] | None, start: int, size: int) -> npt.NDArray[np.floating] | None:
    return None if values is None else values[start : start + size]


def by_domain(
    log_probs: npt.NDArray[np.floating],
    lengths: Sequence[int] | npt.NDArray[np.integer],
    domains: Sequence[str | None],
    weights: Sequence[float] | Array,
    *,
    log_masses: npt.NDArray[np.floating] | None = None,
) -> list[Domain]:
    """Whose tokens each domain's are, under given weights; domains in the order in which they appear.

    Args:
        log_probs: log p_i(x_t), [tokens, experts], row after row.
        lengths: tokens of each row, [rows].
        domains: of each row, [rows].
        weights: a_i, [experts].
        log_masses: as for `fit_weights`.
    """
    logs = checked_logs(log_probs)
    sizes = checked_lengths(lengths, len(logs))
    if len(domains) != len(sizes):
        raise UserError(f"{len(domains)} domains for {len(sizes)} rows")
    at = np.asarray(weights, dtype=np.float64)
    found = []
    for name in dict.fromkeys(domains):
        inside = np.array([domain == name for domain in domains])
        chosen = np.repeat(inside, sizes)
        own = logs[chosen].astype(np.float64)
        masses = None if log_masses is None else log_masses[chosen]
        mixed = _mixed(own, at[None])[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.exp(own + np.log(at) - mixed[:, None])
        left = 0.0 if masses is None else _mixed(masses, at[None])[0]
        alone = own if masses is None else own - masses
        found.append(Domain(name, int(inside.sum()), len(own), shares.mean(0), -float((mixed - left).mean()), -alone.mean(0)))
    return found


def held_out(
    log_probs: npt.NDArray[np.floating],
    lengths: Sequence[int] | npt.NDArray[np.integer],
    given: Sequence[float] | Array | None = None,
    *,
    log_masses: npt.NDArray[np.floating] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> HeldOut:
    """Cross-validation over rows: each fold is predicted with the weights of largest likelihood on the others.

    Args:
        log_probs: log p_i(x_t), [tokens, experts], row after row.
        lengths: tokens of each row, [rows].
        given: weights to compare with, [experts].
        log_masses: as for `fit_weights`.
        folds: at most as many as there are rows.
        seed: of the order in which rows are dealt to folds.

    Raises:
        UserError: fewer than two rows or folds.
    """
    logs = checked_logs(log_probs)
    sizes = checked_lengths(lengths, len(logs))
    if folds < 2:
        raise UserError(f"folds {folds}: must be at least 2")
    if len(sizes) < 2:
        raise UserError("held-out folds need at least two texts")
    count = min(folds, len(sizes))
    fold = np.empty(len(sizes), dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(len(sizes))] = np.arange(len(sizes)) % count
    of_token = np.repeat(fold, sizes)
    predicted = np.empty(len(logs))
    fitted: list[Array] = []
    for number in range(count):
        out = of_token == number
        inside = None if log_masses is None else log_masses[~out]
        fitted.append(fit_weights(logs[~out], log_masses=inside, start=fitted[-1] if fitted else None).weights)
        predicted[out] = token_log_probs(logs[out], fitted[-1][None], None if log_masses is None else log_masses[out])[0]
    alone = token_log_probs(logs, np.eye(logs.shape[1]), log_masses)
    best = int(alone.sum(1).argmax())
    beside = None if given is None else -float(token_log_probs(logs, np.asarray(given, np.float64)[None], log_masses).mean())
    return HeldOut(
        folds=count,
        weights=np.stack(fitted),
        optimum=-float(predicted.mean()),
        given=beside,
        experts=-alone.mean(1),
        gain=_clustered(predicted, alone[best], sizes),
    )


def _clustered(ours: Array, theirs: Array, sizes: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The mean of ours - theirs over tokens, and its standard error where rows, not tokens, are independent."""
    if not np.isfinite(theirs).all():
        return math.inf, math.nan
    difference = ours - theirs
    mean = float(difference.mean())
    sums = np.add.reduceat(difference - mean, np.cumsum(sizes) - sizes)
    rows = len(sizes)
    return mean, math.sqrt(float(sums @ sums) * rows / (rows - 1)) / len(ours)
