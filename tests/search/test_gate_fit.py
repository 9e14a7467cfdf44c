"""The gate's likelihood against the one `modist score` computes, and a discount that is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.mixture.gate import Gate
from modist.mixture.score import mixture_scores
from modist.search.em import fit_weights
from modist.search.gate_fit import Timeline, fit_gate
from modist.search.simplex import by_domain, held_out, landscape

LENGTHS = np.array([7, 1, 12, 3, 12])


def ragged(seed: int, lengths: np.ndarray = LENGTHS, experts: int = 3) -> np.ndarray:
    return -np.random.default_rng(seed).gamma(2.0, 0.7, (int(np.sum(lengths)), experts))


def by_score(
    data: np.ndarray, lengths: np.ndarray, weights: list[float], gate: Gate | None, masses: np.ndarray | None = None
) -> float:
    """Nats per token as `modist score` has them, text by text."""
    total = 0.0
    for start, stop in pairwise([0, *np.cumsum(lengths)]):
        left = None if masses is None else torch.tensor(masses[start:stop].T)
        total += float(mixture_scores(torch.tensor(data[start:stop].T), weights, gate, masses=left)[0].sum())
    return -total / len(data)


@pytest.mark.parametrize("masked", [False, True])
def test_every_candidate_has_the_likelihood_that_scoring_has(masked: bool) -> None:
    data, weights = ragged(0), [0.5, 0.3, 0.2]
    masses = np.log(np.random.default_rng(1).uniform(0.5, 1, data.shape)) if masked else None
    fit = fit_gate(data, LENGTHS, weights, log_masses=masses, discounts=[0.0, 0.3, 0.9, 1.0], strides=[1, 2, 5, 40])
    assert len(fit.candidates) > 16
    for tried in fit.candidates:
        expected = by_score(data, LENGTHS, weights, Gate("bayes", tried.discount, tried.stride), masses)
        assert tried.nats_per_token == pytest.approx(expected, abs=1e-12)
    assert fit.static == pytest.approx(by_score(data, LENGTHS, weights, None, masses), abs=1e-12)
    assert fit.nats_per_token == min(tried.nats_per_token for tried in fit.candidates)


def test_a_stride_longer_than_every_text_is_no_gate_and_the_larger_of_equals_wins() -> None:
    data = ragged(1)
    fit = fit_gate(data, LENGTHS, [0.5, 0.3, 0.2], discounts=[0.5], strides=[12, 64, 100])
    assert [tried.nats_per_token for tried in fit.candidates] == pytest.approx([fit.static] * 3)
    assert fit.stride == 100


def test_impossible_pasts_are_as_while_decoding() -> None:
    data, weights = ragged(2, np.array([6]), 2), [0.6, 0.4]
    data[1, 0] = data[3, 1] = -np.inf  # from token 4 on, each expert has found something impossible
    line, gate = Timeline.of(data, [6]), Gate("bayes", 0.5, 4)
    expected = 0.0
    for time in range(6):
        begin = time // 4 * 4
        log_a = torch.tensor(weights, dtype=torch.float64).log()
        if begin:
            log_a = gate.bayes(log_a, torch.tensor(data[:begin].T))
        expected += float(torch.logsumexp(log_a + torch.tensor(data[time]), 0))
    found = line.nats(np.log(weights), line.renewed(line.past(0.5), 4))
    assert math.isfinite(expected) and found == pytest.approx(-expected / 6)
    # At every token: the one left had just been excluded.  A discount of 0 forgets even that.
    assert np.isinf(line.nats(np.log(weights), line.renewed(line.past(0.5), 1)))
    assert math.isfinite(line.nats(np.log(weights), line.renewed(line.past(0.0), 1)))


def test_an_expert_of_weight_0_has_no_say() -> None:
    data = ragged(3, experts=2)
    assert fit_gate(data, LENGTHS, [1, 0]).nats_per_token == pytest.approx(-data[:, 0].mean())


def test_a_past_impossible_to_all_that_have_weight_leaves_the_weights_as_they_are() -> None:
    data = np.array([[-1.0, -2.0], [-np.inf, -1.0], [-1.0, -1.0], [-1.0, -1.5]])
    line = Timeline.of(data[[0, 1, 2, 3]], [4])
    with np.errstate(divide="ignore"):
        gate = line.renewed(line.past(1.0), 2)
    first_two_alone = line.nats(np.array([0.0, -np.inf]), gate)
    assert np.isinf(first_two_alone)  # the second token is impossible to it, whatever the gate says
    later = Timeline.of(data[2:], [2])
    past = np.array([[0.0, 0.0], [-np.inf, -1.0]])
    assert later.nats(np.array([0.0, -np.inf]), past) == pytest.approx(1.0)


def test_weights_are_fitted_where_every_past_is_impossible() -> None:
    data, lengths = switching(4, 0.9)
    data, lengths = data[: lengths[:40].sum()].copy(), lengths[:40]
    data[0, 0] = data[1, 1] = -np.inf
    fit = fit_gate(data, lengths, [0.5, 0.5], discounts=[1.0], strides=[2], refine=False, refit=True)
    assert math.isfinite(fit.nats_per_token) and fit.nats_per_token < fit.candidates[0].nats_per_token


def switching(seed: int, stay: float) -> tuple[np.ndarray, np.ndarray]:
    """Texts whose tokens come from one of two experts, which changes with probability 1 - stay before each token."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(20, 60, 150)
    tokens, now, source = int(lengths.sum()), 0, []
    starts = set((np.cumsum(lengths) - lengths).tolist())
    for token in range(tokens):
        if token in starts or generator.random() > stay:
            now = int(generator.random() < 0.5)
        source.append(now)
    p = np.exp(generator.standard_normal((tokens, 6, 2)))
    p /= p.sum(1, keepdims=True)
    drawn = (generator.random(tokens)[:, None] > p[np.arange(tokens), :, source].cumsum(1)).sum(1).clip(0, 5)
    return np.log(p[np.arange(tokens), drawn]), lengths


def test_texts_of_one_expert_each_remember_all_and_mixed_ones_forget() -> None:
    data, lengths = switching(0, 1.0)
    constant = fit_gate(data, lengths, [0.5, 0.5])
    assert (constant.discount, constant.stride) == (pytest.approx(1.0, abs=0.01), 1)
    assert constant.nats_per_token < constant.static - 0.05
    data, lengths = switching(1, 0.8)
    mixed = fit_gate(data, lengths, [0.5, 0.5])
    assert 0.4 < mixed.discount < 0.95 and mixed.nats_per_token < mixed.static - 0.01


def test_refining_finds_the_best_between_the_grids_discounts() -> None:
    data, lengths = switching(2, 0.85)
    coarse = fit_gate(data, lengths, [0.5, 0.5], discounts=[0.0, 0.5, 1.0], strides=[1], refine=False)
    fine = fit_gate(data, lengths, [0.5, 0.5], discounts=[0.0, 0.5, 1.0], strides=[1])
    dense = fit_gate(data, lengths, [0.5, 0.5], discounts=np.linspace(0, 1, 101).tolist(), strides=[1], refine=False)
    assert len(coarse.candidates) == 3
    assert fine.nats_per_token < coarse.nats_per_token - 1e-4
    assert fine.nats_per_token <= dense.nats_per_token + 1e-7
    assert fine.discount == pytest.approx(dense.discount, abs=0.01)


def test_weights_fitted_under_the_gate_are_a_peak() -> None:
    data, lengths = switching(3, 0.9)
    data[:, 1] -= 0.05
    plain = fit_gate(data, lengths, [0.5, 0.5])
    fit = fit_gate(data, lengths, [0.5, 0.5], refit=True)
    assert (fit.discount, fit.stride) == (plain.discount, plain.stride) and plain.weights.tolist() == [0.5, 0.5]
    assert fit.nats_per_token < plain.nats_per_token

    def at(first: float) -> float:
        return by_score(data, lengths, [first, 1 - first], Gate("bayes", fit.discount, fit.stride))

    assert at(fit.weights[0]) == pytest.approx(fit.nats_per_token, abs=1e-10)
    assert fit.nats_per_token <= min(at(fit.weights[0] - 0.01), at(fit.weights[0] + 0.01))


@pytest.mark.parametrize(
    "more, words",
    [
        ({"discounts": [1.5]}, "discount 1.5"),
        ({"strides": [0]}, "stride 0"),
        ({"strides": []}, "at least one"),
        ({"weights": [0.5, 0.6, 0.2]}, "sum 1"),
        ({"weights": [0.5, 0.5]}, "must be 3"),
        ({"lengths": [3, 4]}, "lengths sum to 7"),
    ],
)
def test_bad_input_is_one_clear_line(more: dict[str, list[float]], words: str) -> None:
    arguments = {"lengths": LENGTHS, "weights": [0.5, 0.3, 0.2], **more}
    with pytest.raises(UserError, match=words):
        fit_gate(ragged(0), **arguments)


# -------------------------------------------------------------- what pictures and tables show of the same cache


@pytest.mark.parametrize("experts", [2, 3])
def test_the_landscape_is_the_likelihood_and_bends_down_at_the_fit(experts: int) -> None:
    data = ragged(4, np.array([3000]), experts)
    masses = np.log(np.random.default_rng(2).uniform(0.9, 1, data.shape))
    found = landscape(data, log_masses=masses, divisions=10)
    assert found.weights.shape == ({2: 11, 3: 66}[experts], experts)
    assert np.allclose(found.weights.sum(1), 1) and (found.weights >= 0).all()
    p, m = np.exp(data) @ found.weights.T, np.exp(masses) @ found.weights.T
    assert found.nats_per_token == pytest.approx(-np.log(p / m).mean(0))
    assert fit_weights(data, log_masses=masses).nats_per_token <= found.nats_per_token.min()
    impossible = data.copy()
    impossible[0, 0] = -np.inf
    assert np.isinf(landscape(impossible).nats_per_token).sum() == 1


def test_a_picture_needs_two_or_three_experts() -> None:
    with pytest.raises(UserError, match="two or three experts; these are 4"):
        landscape(ragged(0, experts=4))


def test_responsibilities_by_domain() -> None:
    data, weights = ragged(5), np.array([0.5, 0.5, 0.0])
    found = by_domain(data, LENGTHS, ["a", None, "b", "a", "b"], weights)
    assert [(one.name, one.rows, one.tokens) for one in found] == [("a", 2, 10), (None, 1, 1), ("b", 2, 24)]
    chosen = np.r_[0:7, 20:23]
    joint = np.exp(data[chosen]) * weights
    assert found[0].responsibilities == pytest.approx((joint / joint.sum(1, keepdims=True)).mean(0))
    assert found[0].nats_per_token == pytest.approx(-np.log(joint.sum(1)).mean())
    assert found[0].experts == pytest.approx(-data[chosen].mean(0))
    with pytest.raises(UserError, match="2 domains for 5 rows"):
        by_domain(data, LENGTHS, ["a", "b"], weights)


def test_held_out_rows_are_predicted_by_weights_fitted_without_them() -> None:
    lengths = np.random.default_rng(0).integers(3, 9, 23)
    data = ragged(6, lengths)
    found = held_out(data, lengths, [0.2, 0.3, 0.5], folds=4, seed=3)
    dealt = np.empty(23, dtype=int)
    dealt[np.random.default_rng(3).permutation(23)] = np.arange(23) % 4
    of_token, total = np.repeat(dealt, lengths), 0.0
    for fold in range(4):
        weights = fit_weights(data[of_token != fold]).weights
        assert found.weights[fold] == pytest.approx(weights, abs=1e-6)
        total -= np.log(np.exp(data[of_token == fold]) @ weights).sum()
    assert found.folds == 4 and found.optimum == pytest.approx(total / len(data))
    assert found.given == pytest.approx(-np.log(np.exp(data) @ [0.2, 0.3, 0.5]).mean())
    assert found.experts == pytest.approx(-data.mean(0))
    assert found.gain[0] == pytest.approx(found.experts.min() - found.optimum)
    best, ours = int(found.experts.argmin()), np.empty(len(data))
    for fold in range(4):
        ours[of_token == fold] = np.log(np.exp(data[of_token == fold]) @ found.weights[fold])
    sums = np.add.reduceat(ours - data[:, best] - found.gain[0], np.cumsum(lengths) - lengths)
    assert found.gain[1] == pytest.approx(np.sqrt(23 * sums.var(ddof=1)) / len(data), rel=1e-2)
    assert found.gain[1] == pytest.approx(np.sqrt((sums**2).sum() * 23 / 22) / len(data))


def test_held_out_the_optimum_does_not_lose_to_the_best_expert() -> None:
    lengths = np.full(200, 15)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        p = np.exp(generator.standard_normal((3000, 6, 2)))
        p /= p.sum(1, keepdims=True)
        # Everything is the first expert's, so that the best to hope for is a tie.
        drawn = (generator.random(3000)[:, None] > p[:, :, 0].cumsum(1)).sum(1).clip(0, 5)
        gain, error = held_out(np.log(p[np.arange(3000), drawn]), lengths, seed=seed).gain
        # Fitting one weight too many costs a chi-squared of one degree over twice the tokens: 10.8 once in a thousand.
        assert -3 * error - 10.8 / (2 * 2400) < gain < 0.003


@pytest.mark.parametrize("lengths, folds, words", [([35], 5, "at least two texts"), ([20, 15], 1, "folds 1")])
def test_held_out_needs_texts_and_folds(lengths: list[int], folds: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        held_out(ragged(0), lengths, folds=folds)
