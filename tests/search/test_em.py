"""Weights of largest likelihood: against scipy, against the conditions of an optimum, and where the optimum is odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modist.errors import UserError
from modist.search.em import Terms, _em, _look, fit_weights, nonnegative_quadratic


def logs(seed: int, tokens: int, experts: int, spread: float) -> np.ndarray:
    """Log-probabilities of experts that differ by about `spread` nats, about a level that varies by token."""
    generator = np.random.default_rng(seed)
    level = -generator.gamma(2.0, 1.0, (tokens, 1)) - 5 * spread
    return level + spread * generator.standard_normal((tokens, experts))


def value(log_probs: np.ndarray, weights: np.ndarray, counts: np.ndarray | None = None) -> float:
    """The mean log-likelihood, written out."""
    with np.errstate(divide="ignore"):
        return float(np.average(np.log(np.exp(log_probs.astype(np.float64)) @ weights), weights=counts))


def by_scipy(log_probs: np.ndarray, counts: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """The optimum of another solver, and its mean log-likelihood."""
    optimize = pytest.importorskip("scipy.optimize")
    tokens, experts = log_probs.shape
    p = np.exp(log_probs.astype(np.float64))
    share = np.full(tokens, 1 / tokens) if counts is None else counts / counts.sum()

    def negative(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(p @ weights, 1e-300)
        return -float(np.log(mixed) @ share), -(p / mixed[:, None]).T @ share

    best: Any = None
    for begin in (np.full(experts, 1 / experts), np.eye(experts)[0] * 0.5 + 0.5 / experts):
        found = optimize.minimize(
            negative,
            begin,
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * experts,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        best = found if best is None or found.fun < best.fun else best
    return best.x / best.x.sum(), -float(best.fun)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("experts", [2, 3, 6])
@pytest.mark.parametrize("spread", [2.0, 0.1])
def test_the_optimum_is_scipys(experts: int, spread: float, dtype: type) -> None:
    # More than a first climb's tokens for the small ones, so that the climb on a part of them is exercised.
    data = logs(experts, 40_000 if experts < 6 else 3_000, experts, spread).astype(dtype)
    fit = fit_weights(data)
    weights, best = by_scipy(data)
    assert fit.converged and fit.unique and fit.gap <= 1e-10
    assert fit.weights.sum() == pytest.approx(1, abs=1e-12) and (fit.weights >= 0).all()
    assert -fit.nats_per_token == pytest.approx(value(data, fit.weights), abs=1e-12)
    assert abs(-fit.nats_per_token - best) <= 1e-9
    assert np.allclose(fit.weights, weights, atol=1e-4)
    assert np.allclose(fit.experts, -data.astype(np.float64).mean(0), rtol=1e-12)


def test_the_gap_is_the_certificate_written_out_and_bounds_what_is_missing() -> None:
    data = logs(0, 5_000, 3, 1.0)
    early, late = fit_weights(data, max_iterations=1), fit_weights(data)
    p = np.exp(data)
    for fit in (early, late):
        ratios = p / (p @ fit.weights)[:, None]
        assert fit.gap == pytest.approx(max(0.0, ratios.mean(0).max() - 1), abs=1e-12)
    assert not early.converged and early.iterations == 1
    assert 0 < early.nats_per_token - late.nats_per_token <= early.gap


def test_a_useless_expert_gets_exactly_nothing() -> None:
    data = logs(1, 20_000, 3, 1.0)
    data[:, 1] -= 4
    fit = fit_weights(data)
    assert fit.weights[1] == 0 and fit.converged and fit.unique
    p = np.exp(data)
    ratios = (p / (p @ fit.weights)[:, None]).mean(0)
    assert ratios[1] < 0.9
    assert ratios[[0, 2]] == pytest.approx(1, abs=1e-9)


def test_one_that_is_best_everywhere_gets_everything() -> None:
    data = logs(2, 1_000, 2, 1.0)
    data[:, 1] = data[:, 0] - 1e-3
    fit = fit_weights(data)
    assert fit.weights.tolist() == [1, 0] and fit.converged and fit.gap == 0


def test_one_expert() -> None:
    data = logs(3, 100, 1, 1.0)
    fit = fit_weights(data)
    assert fit.weights.tolist() == [1] and fit.converged and fit.unique
    assert fit.nats_per_token == pytest.approx(-data.mean())


def test_identical_experts_stay_as_far_apart_as_in_the_start_and_it_is_said() -> None:
    data = logs(4, 30_000, 3, 1.0)
    data[:, 2] = data[:, 1]
    alike, two = fit_weights(data), fit_weights(data[:, :2])
    assert alike.converged and not alike.unique and two.unique
    assert alike.weights[1] == pytest.approx(alike.weights[2], abs=1e-5)
    assert alike.weights[0] == pytest.approx(two.weights[0], abs=1e-6)
    assert alike.nats_per_token == pytest.approx(two.nats_per_token, abs=1e-12)
    leaning = fit_weights(data, start=[0.4, 0.45, 0.15])
    assert leaning.weights[1] - leaning.weights[2] == pytest.approx(0.3, abs=0.01)
    assert leaning.weights[0] == pytest.approx(two.weights[0], abs=1e-6)
    every = fit_weights(np.repeat(data[:, :1], 3, axis=1))
    assert every.weights == pytest.approx([1 / 3] * 3) and every.converged and not every.unique


def test_an_expert_between_two_others_is_not_told_from_their_mixture() -> None:
    data = logs(5, 5_000, 2, 1.0)
    between = np.log(np.exp(data).mean(1, keepdims=True))
    assert not fit_weights(np.hstack([data, between])).unique


def test_identical_experts_of_no_use_leave_the_optimum_unique() -> None:
    data = logs(6, 5_000, 4, 1.0)
    data[:, 1:] = data[:, :1] - 3 + 0.1 * data[:, 1:2]
    fit = fit_weights(data)
    assert fit.weights.tolist() == [1, 0, 0, 0] and fit.unique


def test_tokens_that_only_one_expert_can_say() -> None:
    data = np.full((1000, 3), -np.inf)
    said = np.repeat([0, 1, 2], [600, 399, 1])
    data[np.arange(1000), said] = -2.0
    fit = fit_weights(data)
    assert fit.converged
    assert fit.weights == pytest.approx([0.6, 0.399, 0.001], abs=1e-9)
    assert np.isinf(fit.experts).all()


@pytest.mark.parametrize("tokens", [2_000, 200_000])
def test_one_token_in_many_keeps_an_otherwise_useless_expert_alive(tokens: int) -> None:
    data = logs(7, tokens, 3, 1.0)
    data[:, 2] -= 8
    data[tokens // 3] = [-np.inf, -np.inf, -1]
    fit = fit_weights(data)
    assert fit.converged and fit.iterations < 60
    assert fit.weights[2] == pytest.approx(1 / tokens, rel=0.2)


def test_values_far_below_what_a_float_can_hold() -> None:
    data = logs(8, 1_000, 2, 1.0)
    assert fit_weights(data - 5000).weights == pytest.approx(fit_weights(data).weights, abs=1e-9)


def test_counts_are_repetitions() -> None:
    data, generator = logs(9, 3_000, 3, 1.0), np.random.default_rng(0)
    counts = generator.integers(0, 4, 3_000)
    counted, repeated = fit_weights(data, counts=counts), fit_weights(np.repeat(data, counts, axis=0))
    assert counted.weights == pytest.approx(repeated.weights, abs=1e-8)
    assert counted.nats_per_token == pytest.approx(repeated.nats_per_token, abs=1e-12)
    assert counted.experts == pytest.approx(repeated.experts)
    assert counted.tokens == repeated.tokens == counts.sum()


def test_a_token_that_does_not_count_keeps_nobody_alive() -> None:
    data = logs(13, 2_000, 3, 1.0)
    data[:, 2] -= 8
    data[7] = [-np.inf, -np.inf, -1]
    fit = fit_weights(data, counts=np.arange(2_000) != 7)
    assert fit.converged and fit.weights[2] == 0
    assert fit.weights == pytest.approx(fit_weights(np.delete(data, 7, axis=0)).weights, abs=1e-8)


def test_masks_leave_an_optimum_of_the_law_that_decoding_has() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    data, generator = logs(10, 4_000, 3, 1.0), np.random.default_rng(1)
    masses = np.log(1 - generator.beta(1, 6, data.shape) * [0.1, 0.6, 0.9])

    def negative(free: np.ndarray) -> float:
        weights = np.exp(free) / np.exp(free).sum()
        return value(masses, weights) - value(data, weights)

    best = min(optimize.minimize(negative, begin, method="BFGS", tol=1e-12).fun for begin in (np.zeros(3), np.arange(3.0)))
    fit = fit_weights(data, log_masses=masses)
    assert fit.converged and fit.iterations <= 12
    assert fit.nats_per_token == pytest.approx(best, abs=1e-9)
    assert fit.nats_per_token == pytest.approx(value(masses, fit.weights) - value(data, fit.weights), abs=1e-12)
    assert fit.experts == pytest.approx((masses - data).mean(0))
    assert not np.allclose(fit.weights, fit_weights(data).weights, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_of_em_never_falls(masked: bool) -> None:
    generator = np.random.default_rng(2)
    for seed in range(20):
        chosen = Terms.of(logs(seed, 200, 4, 2.0))
        allowed = Terms.of(-generator.exponential(3.0, (200, 4)) * [0.1, 1, 1, 3]) if masked else None
        weights = generator.dirichlet(np.ones(4) * 0.3) * 0.99 + 0.0025
        for _ in range(5):
            look = _look(chosen, allowed, weights)
            weights = _em(weights, look)
            assert weights.sum() == pytest.approx(1)
            assert _look(chosen, allowed, weights).value >= look.value - 1e-13


def test_quadratic_programme_meets_its_conditions() -> None:
    generator = np.random.default_rng(3)
    for size in (1, 2, 3, 5, 8):
        for _ in range(40):
            root = generator.standard_normal((size, size + 2))
            matrix, linear = root @ root.T / size + 1e-3 * np.eye(size), generator.standard_normal(size)
            start = np.maximum(generator.standard_normal(size), 0)
            found = nonnegative_quadratic(matrix, linear, start)
            pull = linear - matrix @ found
            assert (found >= 0).all() and (pull <= 1e-9).all() and abs(found @ pull) <= 1e-9


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d[:0], "no tokens"),
        (lambda d: d[:, :0], r"must be \[tokens, experts\]"),
        (lambda d: d[:, 0], r"must be \[tokens, experts\]"),
        (lambda d: d.astype(int), "floating point"),
        (lambda d: _with(d, (17, slice(None)), -np.inf), "row 17: no expert can say this token"),
        (lambda d: _with(_with(d, (40_011, 1), np.nan), (40_012, 0), np.nan), "row 40011: nan for expert 1"),
        (lambda d: _with(d, (5, 0), np.inf), "row 5: inf for expert 0"),
    ],
)
def test_bad_values_are_one_clear_line(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        fit_weights(change(logs(0, 50_000, 2, 1.0)))
    assert "\n" not in str(caught.value)


def _with(data: np.ndarray, place: Any, value: float) -> np.ndarray:
    data = data.copy()
    data[place] = value
    return data


@pytest.mark.parametrize(
    "more, words",
    [
        ({"counts": [1.0] * 9}, "9.*10 tokens"),
        ({"counts": [1.0] * 9 + [-1.0]}, "row 9: the count -1.0"),
        ({"counts": [0.0] * 10}, "every count is 0"),
        ({"start": [0.5, 0.6, 0.1]}, "must be 2 weights"),
        ({"start": [1.5, -0.5]}, "none negative"),
        ({"log_masses": np.zeros((9, 2))}, "must be the same"),
    ],
)
def test_bad_companions_are_one_clear_line(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit_weights(logs(0, 10, 2, 1.0), **more)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_experts_say_the_conditions_of_an_optimum_are_met(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens, experts = int(10 ** generator.uniform(0, 4.5)), int(generator.integers(1, 12))
    spread = 10 ** generator.uniform(-6, 1.5)
    data = logs(seed, tokens, experts, spread) - spread * generator.exponential(1, experts) * generator.integers(0, 2)
    if generator.random() < 0.4:
        unsaid = generator.random(data.shape) < generator.uniform(0, 0.9)
        unsaid[np.arange(tokens), generator.integers(0, experts, tokens)] = False
        data[unsaid] = -np.inf
    more: dict[str, Any] = {}
    if generator.random() < 0.3:
        more["start"] = generator.dirichlet(np.full(experts, 0.2))
    if generator.random() < 0.3:
        more["counts"] = generator.integers(0, 3, tokens) + (np.arange(tokens) == 0)
    fit = fit_weights(data, **more)
    assert fit.converged and fit.iterations < 100, fit
    scaled = np.exp(data - data.max(1, keepdims=True))
    counts = more.get("counts", np.ones(tokens))
    counted = counts > 0
    ratios = scaled[counted] / (scaled[counted] @ fit.weights)[:, None]
    certificate = np.average(ratios, axis=0, weights=counts[counted])
    assert certificate.max() <= 1 + 1e-8
    assert certificate[fit.weights > 1e-6] == pytest.approx(1, abs=1e-6)


def test_a_step_off_a_cliff_is_not_taken() -> None:
    # Each of a few tokens all but hangs on one expert, which is of no use elsewhere; a plain Newton step drops it, and is
    # then 30 nats away from finding it again.
    data = logs(11, 27_000, 4, 1.0)
    data[:, 3] -= 60
    data[::9_000] = [-45.0, -45.0, -45.0, -1.0]
    fit = fit_weights(data)
    assert fit.converged and fit.iterations < 40
    assert fit.weights[3] == pytest.approx(3 / 27_000, rel=0.05)


def test_a_million_tokens_take_a_handful_of_looks() -> None:
    for spread in (2.0, 0.1):
        fit = fit_weights(logs(12, 1_000_000, 3, spread).astype(np.float32))
        assert fit.gap <= 1e-8 and fit.iterations <= 6
