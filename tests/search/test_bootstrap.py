"""Intervals of weights: how often they hold the truth, and one step against fitting every replicate to its end."""

from __future__ import annotations

import numpy as np
import pytest

from modist.errors import UserError
from modist.search import bootstrap
from modist.search.bootstrap import bootstrap_weights
from modist.search.em import fit_weights

TRUTH = np.array([0.5, 0.3, 0.2])


def synthetic(
    seed: int, sequences: int = 200, alike: float | None = None, spread: float = 1.0, ids: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences drawn from a mixture with weights TRUTH: log p_i of the ids drawn, lengths.

    With `alike`, each sequence has weights of its own, from a Dirichlet with mean TRUTH: its tokens are not independent.
    """
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 40, sequences)
    own = np.tile(TRUTH, (sequences, 1)) if alike is None else generator.dirichlet(alike * TRUTH, sequences)
    tokens = int(lengths.sum())
    source = (generator.random(tokens)[:, None] > np.repeat(own, lengths, axis=0).cumsum(1)).sum(1).clip(0, 2)
    p = np.exp(spread * generator.standard_normal((tokens, ids, 3)))
    p /= p.sum(1, keepdims=True)
    drawn = (generator.random(tokens)[:, None] > p[np.arange(tokens), :, source].cumsum(1)).sum(1).clip(0, ids - 1)
    return np.log(p[np.arange(tokens), drawn]), lengths


def coverage(seeds: range, alike: float | None) -> np.ndarray:
    """How many of the seeds' intervals hold each weight of TRUTH."""
    held = np.zeros(3, dtype=int)
    for seed in seeds:
        data, lengths = synthetic(seed, alike=alike)
        found = bootstrap_weights(data, lengths, fit_weights(data).weights, replicates=500)
        held += (found.low <= TRUTH) & (found.high >= TRUTH)
    return held


@pytest.mark.full
@pytest.mark.parametrize("alike", [None, 2.0], ids=["independent", "clustered"])
def test_intervals_hold_each_weight_as_often_as_they_say(alike: float | None) -> None:
    held = coverage(range(100), alike)
    assert ((held >= 90) & (held <= 99)).all(), held


@pytest.mark.parametrize("alike", [None, 2.0], ids=["independent", "clustered"])
def test_intervals_hold_each_weight_in_a_sample_of_the_seeds(alike: float | None) -> None:
    assert (coverage(range(20), alike) >= 16).all()


def test_tokens_of_one_text_are_not_taken_for_independent() -> None:
    data, lengths = synthetic(0, alike=0.5)
    weights = fit_weights(data).weights
    by_text = bootstrap_weights(data, lengths, weights)
    by_token = bootstrap_weights(data, np.ones(len(data), dtype=int), weights)
    assert (by_text.standard_error > 1.8 * by_token.standard_error).all()


def test_one_step_is_as_good_as_fitting_each_replicate() -> None:
    data, lengths = synthetic(1, alike=2.0)
    weights = fit_weights(data).weights
    quick, slow = (bootstrap_weights(data, lengths, weights, replicates=150, refit=refit) for refit in (False, True))
    # The same draws, so replicate by replicate; the step's error is small beside the interval's width.
    assert np.abs(quick.replicates - slow.replicates).max() < 0.15 * slow.standard_error.max()
    assert np.abs(quick.low - slow.low).max() < 0.05 * (slow.high - slow.low).max()


def test_the_standard_error_is_the_sandwichs() -> None:
    data, lengths = synthetic(2)
    weights = fit_weights(data).weights
    p = np.exp(data)
    ratios = p / (p @ weights)[:, None]
    bread = np.linalg.inv(ratios.T @ ratios)
    sums = np.add.reduceat(ratios - 1, np.cumsum(lengths) - lengths, axis=0)
    expected = np.sqrt(np.diag(bread @ sums.T @ sums @ bread))
    found = bootstrap_weights(data, lengths, weights, replicates=4000).standard_error
    assert found == pytest.approx(expected, rel=0.06)


def test_weights_at_the_boundary_stay_in_the_simplex() -> None:
    data, lengths = synthetic(3)
    data[:, 2] -= 0.7
    fit = fit_weights(data)
    assert fit.weights[2] == 0
    found = bootstrap_weights(data, lengths, fit.weights)
    assert (found.replicates >= 0).all() and found.replicates.sum(1) == pytest.approx(1)
    assert found.low[2] == 0 and found.high[2] < 0.05


def test_the_gain_is_over_the_best_expert() -> None:
    data, lengths = synthetic(4)
    fit = fit_weights(data)
    value, low, high = bootstrap_weights(data, lengths, fit.weights).gain
    assert value == pytest.approx(fit.experts.min() - fit.nats_per_token)
    assert 0 < low < value < high
    best = int(fit.experts.argmin())
    data[7] = -np.inf
    data[7, (best + 1) % 3] = data[8, best] = -1.0
    data[8] = np.where(np.arange(3) == best, -1.0, -np.inf)
    data[9] = np.where(np.arange(3) == (best + 2) % 3, -1.0, -np.inf)
    assert np.isinf(bootstrap_weights(data, lengths, fit_weights(data).weights).gain[0])


def test_the_ends_are_percentiles_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    data, lengths = synthetic(7, sequences=30)
    weights = fit_weights(data).weights
    found = bootstrap_weights(data, lengths, weights)
    assert found.low == pytest.approx(np.percentile(found.replicates, 2.5, axis=0))
    assert found.high == pytest.approx(np.percentile(found.replicates, 97.5, axis=0))
    narrow = bootstrap_weights(data, lengths, weights, level=0.5)
    assert (narrow.low > found.low).all() and (narrow.high < found.high).all()
    monkeypatch.setattr(bootstrap, "_BLOCK", 64)
    assert bootstrap_weights(data, lengths, weights).replicates == pytest.approx(found.replicates, abs=1e-12)


def test_masks_are_taken_into_account() -> None:
    data, lengths = synthetic(5)
    masses = np.log(np.random.default_rng(0).uniform(0.3, 1, data.shape))
    weights = fit_weights(data, log_masses=masses).weights
    quick, slow = (
        bootstrap_weights(data, lengths, weights, log_masses=masses, replicates=60, refit=refit) for refit in (False, True)
    )
    assert np.abs(quick.replicates - slow.replicates).max() < 0.2 * slow.standard_error.max()


def test_the_seed_decides() -> None:
    data, lengths = synthetic(6, sequences=20)
    weights = fit_weights(data).weights
    one, same, other = (bootstrap_weights(data, lengths, weights, seed=seed, replicates=50) for seed in (1, 1, 2))
    assert np.array_equal(one.replicates, same.replicates) and not np.array_equal(one.replicates, other.replicates)


@pytest.mark.parametrize(
    "lengths, more, words",
    [
        ([100], {}, "at least two texts"),
        ([60, 41], {}, "lengths sum to 101; there are 100"),
        ([100, 0], {}, "sequence 1 has 0 tokens"),
        ([50, 50], {"replicates": 1}, "replicates 1"),
        ([50, 50], {"level": 95}, "level 95"),
        ([], {}, "whole numbers"),
    ],
)
def test_bad_input_is_one_clear_line(lengths: list[int], more: dict[str, float], words: str) -> None:
    data = np.log(np.random.default_rng(0).uniform(0.1, 1, (100, 2)))
    with pytest.raises(UserError, match=words):
        bootstrap_weights(data, lengths, [0.5, 0.5], **more)
