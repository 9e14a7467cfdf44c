"""What is drawn has the law it should: one-step samples against distributions summed by hand, and symmetries."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from modist.mixture.decode import Settings
from modist.mixture.gate import Gate
from tests.mixture.fakes import FakeExperts, decode, fake_experts, fixed, start, surprise, table, tied

torch.set_num_threads(1)
SIZE = 6
EXPERTS = [[0.5, 0.2, 0.15, 0.1, 0.05, 0.0], [0.05, 0.1, 0.15, 0.3, 0.0, 0.4], [0.02, 0.03, 0.62, 0.12, 0.13, 0.08]]
WEIGHTS = [0.6, 0.3, 0.1]


def warped_by_hand(p: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """A distribution warped in plain loops, in transformers' order; no ties expected."""
    q = p ** (1 / temperature)
    q = q / q.sum()
    ranked = sorted(range(len(q)), key=lambda number: -q[number])
    if top_k:
        ranked = ranked[:top_k]
    if top_p < 1:
        inside, mass, kept = sum(q[number] for number in ranked), 0.0, []
        for number in ranked:
            if mass / inside >= top_p:
                break
            kept.append(number)
            mass += q[number]
        ranked = kept
    ranked = [number for number in ranked if q[number] >= min_p * q.max()]
    return np.array([q[number] if number in ranked else 0.0 for number in range(len(q))]) / sum(q[number] for number in ranked)


def law_by_hand(parts: list[list[float]], weights: list[float], settings: Settings) -> np.ndarray:
    knobs = (settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    if settings.warp == "mixture":
        return warped_by_hand(sum(a * np.array(p) for a, p in zip(weights, parts, strict=True)), *knobs)  # type: ignore[arg-type]
    return sum(a * warped_by_hand(np.array(p), *knobs) for a, p in zip(weights, parts, strict=True))  # type: ignore[arg-type,return-value]


def first_tokens(experts: FakeExperts, parts: list[Any], settings: dict[str, Any], count: int, steps: int = 25) -> np.ndarray:
    """Counts of tokens drawn, `steps` a run: the logits are the same at every position, so every position is a new draw."""
    counts = np.zeros(experts.vocabulary.size)
    for seed in range(count // steps):
        rows, _, _ = decode(experts, parts, [[0]], Settings(steps, seed=seed, **settings))
        counts += np.bincount(rows[0].token_ids, minlength=len(counts))
    return counts


COMBINATIONS = list(itertools.product(("experts", "mixture"), (0.6, 1.0, 1.5), (0, 3), (1.0, 0.75), (0.0, 0.25)))


def check(warp: str, temperature: float, top_k: int, top_p: float, min_p: float, weights: list[float], count: int) -> None:
    knobs = {"warp": warp, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    wanted = law_by_hand(EXPERTS, weights, Settings(**knobs))  # type: ignore[arg-type]
    counts = first_tokens(fake_experts(weights, [SIZE] * 3), [fixed(p) for p in EXPERTS], knobs, count)
    assert surprise(counts, wanted) < 4.5, (counts / counts.sum(), wanted)


@pytest.mark.parametrize("knobs", COMBINATIONS, ids=str)
def test_every_combination_of_warps_draws_its_law(knobs: tuple[Any, ...]) -> None:
    check(*knobs, WEIGHTS, 500)


@pytest.mark.full
@pytest.mark.parametrize("weights", [WEIGHTS, [0.05, 0.05, 0.9]], ids=str)
@pytest.mark.parametrize("knobs", COMBINATIONS, ids=str)
def test_every_combination_of_warps_draws_its_law_at_length(knobs: tuple[Any, ...], weights: list[float]) -> None:
    check(*knobs, weights, 3000)


MASKED = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.0, "warp": "mixture"},
    {"temperature": 0.7, "warp": "mixture", "min_p": 0.1},
    {"temperature": 1.4, "warp": "mixture"},
]


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("knobs", MASKED, ids=str)
def test_masked_ids_leave_the_rest_of_the_law_as_it_is(knobs: dict[str, Any], ending: bool) -> None:
    """What an expert gives to ids it cannot read is lost to it, not shared out among its others.

    Ids 1 and 2 mean something else to one expert each.  They are masked, unless id 2 ends the answer: then its readers may.
    """
    experts = fake_experts(WEIGHTS, [SIZE] * 3, foreign=[{1}, {2}, ()], stops={2} if ending else ())
    counts = first_tokens(experts, [fixed(p) for p in EXPERTS], knobs, 1200, steps=1 if ending else 25)
    given = np.array(EXPERTS)
    given[:, 1] = 0
    given[:, 2] = [EXPERTS[0][2], 0, EXPERTS[2][2]] if ending else 0
    warp: Any = (knobs["temperature"], knobs.get("top_k", 0), 1.0, knobs.get("min_p", 0.0))
    if knobs.get("warp") == "mixture":
        wanted = WEIGHTS @ given
        wanted = warped_by_hand(wanted / wanted.sum(), *warp)
    else:
        wanted = sum(a * p.sum() * warped_by_hand(p / p.sum(), *warp) for a, p in zip(WEIGHTS, given, strict=True))  # type: ignore[assignment]
    assert surprise(counts, wanted) < 4.5, (counts / counts.sum(), wanted / wanted.sum())


@pytest.mark.parametrize(
    "mode", [{"temperature": 1.0, "top_k": 1}, {"temperature": 0.5, "top_p": 0.1, "warp": "mixture"}, {}], ids=str
)
def test_a_favourite_that_is_masked_leaves_the_next(mode: dict[str, Any]) -> None:
    """Every expert would say id 3, which none but the first can read."""
    parts = [fixed([0.0, 0.0, 0.1, 0.9]), fixed([0.05, 0.0, 0.15, 0.8])]
    for eager in (False, True):
        (row,), _, _ = decode(
            fake_experts([0.5, 0.5], [4, 4], foreign=[(), {3}]), parts, [[0]], Settings(20, eager=eager, **mode)
        )
        assert set(row.token_ids) <= {0, 2} and 2 in row.token_ids
        for token, logprob in zip(row.token_ids, row.logprobs, strict=True):
            assert abs(logprob - math.log({0: 0.05, 2: 0.25}[token] / 0.3)) < 1e-9


def test_a_token_drawn_anew_is_drawn_from_new_exponentials() -> None:
    """Half of all draws are rejected, all of one expert; raced again, its favourite would lose too often."""
    parts, weights = [[0.3, 0.02, 0.17, 0.17, 0.17, 0.17], [0.02, 0.98, 0, 0, 0, 0]], [0.8, 0.2]
    for settings in ({"temperature": 1.0, "top_k": 2, "warp": "mixture"}, {"temperature": 0.5, "top_k": 2, "warp": "mixture"}):
        counts = first_tokens(fake_experts(weights, [SIZE] * 2), [fixed(p) for p in parts], settings, 3000)
        assert surprise(counts, law_by_hand(parts, weights, Settings(**settings))) < 4.5  # type: ignore[arg-type]


def test_what_falls_on_masked_ids_is_drawn_from_the_mixture_of_the_rest() -> None:
    parts, weights = [[0.36, 0.02, 0.02, 0.2, 0.2, 0.2], [0.02, 0.3, 0.2, 0.15, 0.16, 0.17]], [0.5, 0.5]
    experts = fake_experts(weights, [SIZE] * 2, foreign=[{3, 4, 5}, ()])
    counts = first_tokens(experts, [fixed(p) for p in parts], {"temperature": 1.0}, 3000)
    assert surprise(counts, np.array([0.19, 0.16, 0.11, 0, 0, 0]) / 0.46) < 4.5


def test_a_batch_shares_the_expert_and_keeps_each_rows_law() -> None:
    experts, parts = fake_experts(WEIGHTS, [SIZE] * 3), [fixed(p) for p in EXPERTS]
    counts = np.zeros((3, SIZE))
    for seed in range(40):
        rows, ledger, _ = decode(experts, parts, [[0], [1, 2], [3]], Settings(25, 1.0, seed=seed))
        assert ledger.passes_per_step == 1
        counts += [np.bincount(row.token_ids, minlength=SIZE) for row in rows]
    wanted = law_by_hand(EXPERTS, WEIGHTS, Settings(temperature=1.0))
    assert all(surprise(own, wanted) < 4.5 for own in counts)


def test_successive_tokens_are_independent() -> None:
    """The expert is drawn anew for every token: pairs of neighbours have the product law."""
    counts = np.zeros((SIZE, SIZE))
    for seed in range(60):
        (row,), _, _ = decode(
            fake_experts(WEIGHTS, [SIZE] * 3), [fixed(p) for p in EXPERTS], [[0]], Settings(40, 1.0, seed=seed)
        )
        np.add.at(counts, (row.token_ids[:-1:2], row.token_ids[1::2]), 1)
    one = law_by_hand(EXPERTS, WEIGHTS, Settings(temperature=1.0))
    assert surprise(counts.ravel(), np.outer(one, one).ravel()) < 4.5


def test_the_product_of_experts_draws_its_law() -> None:
    parts = [[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]]
    p = np.prod([np.array(own) ** a for a, own in zip((0.7, 0.3), parts, strict=True)], 0)
    p /= p.sum()
    experts = fake_experts([0.7, 0.3], [3, 3])
    for knobs in ({"temperature": 1.0}, {"temperature": 0.6, "warp": "mixture"}, {"temperature": 1.0, "top_k": 2}):
        counts = first_tokens(experts, [fixed(own) for own in parts], {"law": "logits", "eager": True, **knobs}, 1000)
        wanted = warped_by_hand(p, knobs["temperature"], knobs.get("top_k", 0), 1.0, 0.0)  # type: ignore[arg-type]
        assert surprise(counts, wanted) < 4.5
    for temperature in (1.0, None):
        (row,), _, _ = decode(experts, [fixed(own) for own in parts], [[0]], Settings(5, temperature, law="logits", eager=True))
        np.testing.assert_allclose(row.logprobs, np.log(p[list(row.token_ids)]), atol=1e-12)
        np.testing.assert_allclose(np.sum(row.responsibilities, 1), 1)


@pytest.mark.parametrize("eager", [False, True])
def test_greedy_takes_what_neither_expert_would(eager: bool) -> None:
    """p=(.50,.45,.05), q=(.05,.45,.50): the mixture's best id is the second of both."""
    parts = [fixed([0.50, 0.45, 0.05]), fixed([0.05, 0.45, 0.50])]
    (row,), _, _ = decode(fake_experts([0.5, 0.5], [3, 3]), parts, [[0]], Settings(6, eager=eager))
    assert row.token_ids == (1,) * 6
    np.testing.assert_allclose(row.logprobs, math.log(0.45), atol=1e-12)


MODES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "warp": "experts"},
    {"temperature": 1.0, "top_p": 0.9, "warp": "mixture"},
    {"temperature": 0.7, "min_p": 0.1, "warp": "mixture"},
    {"temperature": 1.4, "warp": "mixture"},
    {"gate": Gate("bayes", stride=2)},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_weight_1_gives_that_expert(mode: dict[str, Any]) -> None:
    parts = [table(seed, SIZE) for seed in (1, 2, 3)]
    for place in range(3):
        weights = [float(index == place) for index in range(3)]
        (row,), _, _ = decode(fake_experts(weights, [SIZE] * 3), parts, [[1, 2]], Settings(20, seed=4, **mode))
        (alone,), _, _ = decode(fake_experts([1.0], [SIZE]), [parts[place]], [[1, 2]], Settings(20, seed=4, **mode))
        assert row.token_ids == alone.token_ids
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-12)
        assert all(share[place] == 1 for share in row.responsibilities)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_identical_experts_give_the_expert(mode: dict[str, Any]) -> None:
    """The same law; greedy the same tokens, and when sampling the same race is run whichever expert is heard."""
    parts = [table(1, SIZE) for _ in range(3)]
    (row,), _, _ = decode(fake_experts(WEIGHTS, [SIZE] * 3), parts, [[1]], Settings(20, seed=4, **mode))
    (alone,), _, _ = decode(fake_experts([1.0], [SIZE]), parts[:1], [[1]], Settings(20, seed=4, **mode))
    assert row.token_ids == alone.token_ids
    np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-9)
    np.testing.assert_allclose(row.responsibilities, [WEIGHTS] * 20, atol=1e-9)


def test_the_order_of_experts_changes_neither_scores_nor_greedy_tokens() -> None:
    for make in (table, tied):
        for seed in range(15):
            parts = [make(seed + 50 * index, SIZE) for index in range(3)]
            found = []
            for order in itertools.permutations(range(3)):
                experts = fake_experts([WEIGHTS[index] for index in order], [SIZE] * 3)
                (row,), _, _ = decode(experts, [parts[index] for index in order], [[seed % SIZE]], Settings(15))
                found.append((row.token_ids, np.array(row.logprobs)))
            if make is table:
                assert len({tokens for tokens, _ in found}) == 1
            else:  # exactly equal sums may be rounded apart by their order, and then either is the argmax
                found = [one for one in found if one[0] == found[0][0]]
            assert max(np.abs(scores - found[0][1]).max() for _, scores in found) < 1e-6


def test_the_order_of_experts_does_not_change_the_law() -> None:
    wanted = law_by_hand(EXPERTS, WEIGHTS, Settings(temperature=1.0))
    for order in itertools.permutations(range(3)):
        experts = fake_experts([WEIGHTS[index] for index in order], [SIZE] * 3)
        assert (
            surprise(first_tokens(experts, [fixed(EXPERTS[index]) for index in order], {"temperature": 1.0}, 1000), wanted)
            < 4.5
        )


@pytest.mark.parametrize("foreign", [(), [{5}, (), ()]], ids=["whole", "blocked"])
def test_probabilities_sum_to_1(foreign: Any) -> None:
    """Over all ids that may be chosen, the log-probability a response reports is a distribution."""
    parts = [table(seed, SIZE) for seed in (1, 2, 3)]
    total = 0.0
    for token in range(SIZE):
        run = start(fake_experts(WEIGHTS, [SIZE] * 3, foreign=foreign), parts, [[[1]]] * 3, Settings(1, 1.0))
        if not run.state.law.takes(token, 1):
            continue
        run.state.weigh()
        run.state.append([token], [False])
        total += math.exp(run.results()[0].logprobs[0])
    assert abs(total - 1) < 1e-12
