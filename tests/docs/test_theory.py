"""Each statement of docs/theory.md, under its number, on the modules that rely on it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modist.checkpoint.dtype import round_to_bfloat16
from modist.evaluation.overlap import Claim
from modist.evaluation.statistics import mcnemar
from modist.merge.methods.mod import MOD, released_rule
from modist.merge.source import InMemory
from modist.merge.tensor import Choice, Tensor
from modist.mixture.gate import Gate
from modist.mixture.law import mix_log_probs
from modist.mixture.race import race
from modist.mixture.sampling import drawn_expert
from modist.mixture.score import mixture_scores
from modist.mixture.warp import Warp
from modist.search.em import Terms, fit_weights
from modist.search.simplex import token_log_probs
from modist.vocabulary import CommonVocabulary

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
STATEMENTS: dict[int, list[Callable[..., None]]] = {}


def statement(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks the test of a numbered section."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        STATEMENTS.setdefault(number, []).append(test)
        return test

    return mark


def drawn(seed: int, experts: int = 3, tokens: int = 40, size: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p_i over all ids [experts, tokens, size], those of one text's tokens [experts, tokens], weights [experts]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(experts, tokens, size, generator=generator, dtype=torch.float64)
    said = torch.log_softmax(logits, -1)
    text = torch.randint(size, (tokens,), generator=generator)
    weights = torch.rand(experts, generator=generator, dtype=torch.float64) + 0.05
    return said, said.gather(2, text.expand(experts, tokens)[..., None])[..., 0], weights / weights.sum()


def law(*rows: list[float], weights: list[float], name: str = "arithmetic") -> torch.Tensor:
    """The mixture's probabilities [size] of experts given by theirs."""
    experts = [torch.tensor(row, dtype=torch.float64).log() for row in rows]
    common = CommonVocabulary.of([None] * len(rows), [len(row) for row in rows])
    found: torch.Tensor = mix_log_probs(experts, torch.tensor(weights, dtype=torch.float64).log(), common, law=name)
    return found.exp()


def mean_log(logs: torch.Tensor, points: np.ndarray, masses: np.ndarray | None = None) -> np.ndarray:
    """f at several weights: log p_i [experts, tokens], [points, experts] -> [points]."""
    return np.asarray(token_log_probs(logs.T.numpy(), points, masses).mean(1))


SEEDS = pytest.mark.parametrize("seed", range(12))


# ---------------------------------------------------------------- what holds


@statement(1)
@SEEDS
def test_a_token_costs_at_most_the_log_of_a_weight_more(seed: int) -> None:
    _, parts, weights = drawn(seed)
    log_p, _ = mixture_scores(parts, weights.tolist())
    assert (log_p >= (parts + weights.log()[:, None]).max(0).values - 1e-12).all()
    losses, count = -parts.sum(1), parts.shape[1]
    assert float(-log_p.sum()) <= float((losses - count * weights.log()).min()) + 1e-9
    # Ids masked: a divisor of at most 1.
    masses = -torch.rand(parts.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    masked, _ = mixture_scores(parts + masses, weights.tolist(), masses=masses)
    undivided, _ = mixture_scores(parts + masses, weights.tolist())
    assert (masked > undivided).all()
    assert float(-masked.sum()) <= float((-(parts + masses).sum(1) - count * weights.log()).min()) + 1e-9


@statement(1)
def test_the_bound_is_met_where_the_other_cannot_say_the_token() -> None:
    parts = torch.tensor([[-0.3, -0.7], [-torch.inf, -torch.inf]], dtype=torch.float64)
    log_p, _ = mixture_scores(parts, [0.5, 0.5])
    assert float(-log_p.sum()) == pytest.approx(1.0 + 2 * math.log(2))


@statement(2)
@SEEDS
def test_the_likelihood_is_concave(seed: int) -> None:
    _, parts, _ = drawn(seed)
    ends = np.random.default_rng(seed).dirichlet(np.ones(3), size=(50, 2))
    share = np.random.default_rng(seed + 100).random((50, 1))
    between = mean_log(parts, share * ends[:, 0] + (1 - share) * ends[:, 1])
    chord = share[:, 0] * mean_log(parts, ends[:, 0]) + (1 - share[:, 0]) * mean_log(parts, ends[:, 1])
    assert (between >= chord - 1e-12).all()
    best = fit_weights(parts.T.numpy())
    assert -best.nats_per_token >= mean_log(parts, np.concatenate([ends[:, 0], np.eye(3)])).max() - 1e-12


@statement(2)
def test_it_is_not_where_ids_are_masked() -> None:
    said, left = torch.tensor([[0.1], [0.1]]).double().log(), np.log([[1.0, 0.2]])
    first, middle, last = mean_log(said, np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), left)
    assert middle < (first + last) / 2 - 0.1


@statement(3)
@SEEDS
def test_em_never_falls_and_its_gap_bounds_what_is_left(seed: int) -> None:
    _, parts, weights = drawn(seed)
    logs, best = parts.T.numpy(), fit_weights(parts.T.numpy())
    terms, at, last = Terms.of(logs), weights.numpy(), -math.inf
    for _ in range(60):
        look = terms.at(at)
        assert look is not None
        assert look.value >= last - 1e-13
        assert -best.nats_per_token - look.value <= look.gradient.max() - 1 + 1e-12
        at, last = at * look.gradient, look.value
        assert at.sum() == pytest.approx(1)
    assert last > mean_log(parts, weights.numpy()[None])[0]
    assert best.gap < 1e-8


@statement(4)
@SEEDS
def test_the_full_gate_is_the_mixture_of_whole_answers(seed: int) -> None:
    _, parts, weights = drawn(seed)
    log_p, _ = mixture_scores(parts, weights.tolist(), Gate("bayes", discount=1.0, stride=1))
    whole = torch.logsumexp(weights.log() + parts.sum(1), 0)
    assert float(log_p.sum()) == pytest.approx(float(whole), abs=1e-10)
    assert float(-log_p.sum()) <= float((-parts.sum(1) - weights.log()).min()) + 1e-10


@statement(4)
def test_a_discount_or_a_stride_has_no_such_bound() -> None:
    def loss(parts: list[list[float]], gate: Gate) -> tuple[float, float]:
        """The gated mixture's, and the bound of the full gate."""
        said = torch.tensor(parts, dtype=torch.float64)
        log_p, _ = mixture_scores(said, [0.5, 0.5], gate)
        return float(-log_p.sum()), float((-said.sum(1) + math.log(2)).min())

    # Experts that are right in turn: who remembers only the last token is sure of the wrong one at each.
    right, wrong = [-0.01, -9.0] * 10, [-9.0, -0.01] * 10
    short, bound = loss([right, wrong], Gate("bayes", discount=0.0))
    assert short > bound + 50
    # One expert is right all along, and the stride looks too late.
    late, bound = loss([[-0.01] * 10, [-9.0] * 10], Gate("bayes", stride=10))
    assert late > bound + 5


@statement(5)
def test_one_expert_drawn_a_token_is_the_law() -> None:
    rows, weights = [[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.2, 0.6]], [0.3, 0.7]
    expected = law(*rows, weights=weights).numpy()
    log_a, experts = torch.tensor(weights).double().log(), torch.tensor(rows).double().log()
    count = 4000
    tokens = [race(experts[drawn_expert(log_a, 3, t)], 3, "token", t) for t in range(count)]
    found = np.bincount(tokens, minlength=4)
    assert ((found - count * expected) ** 2 / (count * expected)).sum() < 16.3  # chi-square with 3 degrees: p = 0.001


@statement(5)
def test_an_expert_kept_for_two_tokens_is_another_law() -> None:
    only_a, only_b, weights = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    each = law(only_a, only_b, weights=weights)
    assert float(each[0] * each[1]) == 0.25
    kept = sum(w * row[0] * row[1] for w, row in zip(weights, (only_a, only_b), strict=True))
    assert kept == 0


@statement(6)
@SEEDS
def test_a_lead_above_the_weight_left_is_final(seed: int) -> None:
    generator, final = torch.Generator().manual_seed(seed), 0
    for _ in range(200):
        said = torch.softmax(4 * torch.randn(3, 6, generator=generator, dtype=torch.float64), -1)
        weights = torch.rand(3, generator=generator, dtype=torch.float64) ** 3
        weights /= weights.sum()
        heavy = int(weights.argmax())
        heard = weights[heavy] * said[heavy]
        top = heard.topk(2).values
        if float(top[0] - top[1]) > 1 - float(weights[heavy]):
            final += 1
            assert int(law(*said.tolist(), weights=weights.tolist()).argmax()) == int(heard.argmax())
    assert final > 5


@statement(6)
def test_at_a_lead_of_exactly_that_weight_the_second_comes_level() -> None:
    # a (p(first) - p(second)) = 1 - a at a = 3/4: a lead of 1/3.
    mixed = law([2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0], weights=[0.75, 0.25])
    assert float(mixed[0]) == pytest.approx(float(mixed[1]))


@statement(6)
@SEEDS
def test_what_one_expert_certifies_the_warped_mixture_keeps(seed: int) -> None:
    generator, kept = torch.Generator().manual_seed(seed), 0
    for warp in (Warp(top_p=0.8), Warp(top_k=2), Warp(min_p=0.3)):
        for _ in range(60):
            said = torch.softmax(4 * torch.randn(2, 6, generator=generator, dtype=torch.float64), -1)
            mixed = law(*said.tolist(), weights=[0.8, 0.2])
            token = int(torch.multinomial(said[0], 1, generator=generator))
            ceiling = 0.8 * float(said[0].max()) + 0.2
            if warp.certified(0.8 * float(said[0, token]), ceiling, 0.5):
                kept += 1
                assert torch.isfinite(warp(mixed.log())[token])
    assert kept > 20


@statement(7)
@SEEDS
def test_the_product_is_no_worse_than_the_average(seed: int) -> None:
    said, parts, weights = drawn(seed, tokens=10)
    average = (weights[:, None] * -parts).sum(0)
    for t in range(10):
        token = int((said[0, t] == parts[0, t]).nonzero()[0])
        found = law(*said[:, t].exp().tolist(), weights=weights.tolist(), name="logits")
        z = float((weights[:, None] * said[:, t]).sum(0).exp().sum())
        assert z <= 1 and float(found.sum()) == pytest.approx(1)
        assert -math.log(float(found[token])) == pytest.approx(float(average[t]) + math.log(z))


@statement(7)
def test_one_veto_outweighs_the_best_expert() -> None:
    good, veto = [0.98, 0.02], [1e-30, 1 - 1e-30]
    assert float(law(good, veto, weights=[0.9, 0.1], name="logits")[0]) < 0.1
    assert float(law(good, veto, weights=[0.9, 0.1])[0]) > 0.88


# ---------------------------------------------------------------- what does not


@statement(8)
def test_the_mixture_says_what_neither_expert_would() -> None:
    one, other = [0.50, 0.45, 0.05], [0.05, 0.45, 0.50]
    mixed = law(one, other, weights=[0.5, 0.5])
    assert mixed.tolist() == pytest.approx([0.275, 0.45, 0.275])
    assert (int(np.argmax(one)), int(np.argmax(other)), int(mixed.argmax())) == (0, 2, 1)
    # As values the peaks are kept, to a factor of the weight.
    assert mixed[0] >= 0.5 * one[0] and mixed[2] >= 0.5 * other[2]


@statement(9)
def test_the_likelier_weights_answer_fewer_questions() -> None:
    right = np.array([[0.51, 0.99], [0.51, 0.49]])  # [questions, experts]
    found = fit_weights(np.log(right))
    assert found.weights.tolist() == pytest.approx([0.0, 1.0])
    assert found.experts.tolist() == pytest.approx([0.67, 0.36], abs=0.005)

    def answered(weights: np.ndarray) -> int:
        # The wrong answer has the rest.
        rows = [law(*[[p, 1 - p] for p in question.tolist()], weights=weights.tolist()) for question in right]
        return sum(int(row.argmax()) == 0 for row in rows)

    assert answered(np.array([1.0, 0.0])) == 2
    assert answered(found.weights) == 1


@statement(10)
def test_the_released_rule_takes_a_trace_of_expert_2() -> None:
    theta = round_to_bfloat16(np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32))
    chosen = released_rule(theta, theta.min(), theta.max(), [0.9])
    assert 0 < chosen.mean() < 1e-3
    assert theta[chosen == 1].min() > theta[chosen == 0].max() - 1e-6


@statement(10)
def test_the_released_rule_gives_no_mixture_of_distributions() -> None:
    theta = np.array([[0, 1, 2], [2, 0, -3]], np.float32)
    chosen = released_rule(theta[0], theta[0].min(), theta[0].max(), [0.9])
    merged = np.choose(chosen, theta)
    assert merged.tolist() == [0, 1, -3]
    said = torch.softmax(torch.from_numpy(np.stack([*theta, merged])).double(), -1)
    assert said[:, 1].tolist() == pytest.approx([0.24, 0.12, 0.72], abs=0.006)
    for a in np.linspace(0, 1, 101):
        mixed = law(said[0].tolist(), said[1].tolist(), weights=[float(a), 1 - float(a)])
        assert float(mixed[1]) < 0.25


def merged_by(select: str, *inputs: np.ndarray, seed: int = 0) -> np.ndarray:
    """`mod` with equal weights on tensors in memory."""
    sources = [InMemory(values, f"{number}", "t.mlp") for number, values in enumerate(inputs)]
    values = {"normalize": "quantile", "select": select, "scope": "all"}
    each = [{"weight": 1 / len(inputs)} for _ in inputs]
    tensor = Tensor("t.mlp", inputs[0].shape, sources, None, values, each, seed)
    blend = MOD.merge(tensor)
    assert callable(blend)
    parts = [blend(tensor.block(number)) for number in range(tensor.blocks)]
    chosen = np.concatenate([part.inputs for part in parts if isinstance(part, Choice)])
    return np.choose(chosen, inputs)


def cdf(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), at) / len(values)


def normal(at: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.array([0.5 * math.erfc((mean - x) / math.sqrt(2 * variance)) for x in at])


@statement(11)
def test_a_drawn_merge_has_the_mixtures_density_and_the_average_another() -> None:
    generator = np.random.default_rng(1)
    one = generator.standard_normal(200_000).astype(np.float32)
    other = (5 + generator.standard_normal(200_000)).astype(np.float32)
    at = np.linspace(-4, 9, 60)
    mixture = 0.5 * normal(at, 0, 1) + 0.5 * normal(at, 5, 1)
    assert np.abs(cdf(merged_by("random", one, other), at) - mixture).max() < 0.01
    assert np.abs(cdf((one + other) / 2, at) - normal(at, 2.5, 0.5)).max() < 0.01
    assert np.abs(cdf((one + other) / 2, at) - mixture).max() > 0.3
    # Section 10's last line: a threshold has neither.
    assert np.abs(cdf(merged_by("threshold", one, other), at) - mixture).max() > 0.1


@statement(11)
def test_a_density_of_parameters_fixes_no_function() -> None:
    count = 4000
    one, other = np.ones(2 * count, np.float32), -np.ones(2 * count, np.float32)
    assert (one[:count] * one[count:] == other[:count] * other[count:]).all()  # u v of either expert: the same function
    merged = merged_by("random", one, other)
    assert abs(merged.mean()) < 0.05 and set(merged.tolist()) == {-1.0, 1.0}  # both peaks, half each
    slopes = merged[:count] * merged[count:]
    assert abs((slopes == -1).mean() - 0.5) < 0.04
    average = (one + other) / 2
    assert not (average[:count] * average[count:]).any()


@statement(12)
def test_picking_the_right_parent_beats_the_best_one() -> None:
    first = np.array([number <= 60 for number in range(1, 101)])
    second = np.array([number >= 41 for number in range(1, 101)])
    picked = np.where(first, first, second)
    assert (first.sum(), second.sum(), picked.sum()) == (60, 60, 100)
    assert not (picked & ~first & ~second).any()  # nothing that neither parent solves


@statement(12)
def test_twenty_new_answers_prove_nothing_beside_a_second_try() -> None:
    def claim(gained: int, again: int, both: int) -> Claim:
        only = gained - both, again - both
        return Claim("merge", "parent, again", 200, gained, again, *only, mcnemar(*only))

    assert not claim(20, 18, 8).holds
    assert "no more than a second try" in claim(20, 18, 8).sentence()
    assert claim(60, 18, 8).holds


# ---------------------------------------------------------------- the page


def test_every_section_is_tested_and_every_test_has_a_section() -> None:
    numbers = [int(found) for found in re.findall(r"^## (\d+)\. ", PAGE.read_text(encoding="utf-8"), re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(STATEMENTS) == numbers
    assert all(found.__name__.startswith("test_") for tests in STATEMENTS.values() for found in tests)


def test_each_section_has_a_proof_or_a_counter_example() -> None:
    holds, fails = PAGE.read_text(encoding="utf-8").split("# What does not hold")
    for section in re.split(r"^## ", holds, flags=re.M)[1:]:
        assert "*Proof.*" in section, section.splitlines()[0]
    assert len(re.split(r"^## ", fails, flags=re.M)) == 6
