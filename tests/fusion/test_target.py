"""Each fused target is its dense twin; who is chosen is who ought to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.fusion.aligned import Aligned, gathered
from modist.fusion.target import cross_entropies, fused_target

VOCABULARY = 30


def drawn(
    seed: int, n: int = 7, k: int = 4, nats: float | None = None, tokens: int | None = None
) -> tuple[Aligned, np.ndarray]:
    """An expert on `n` positions, a third of them not aligned; and the labels, which every expert shares."""
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, VOCABULARY, n).astype(np.int32)
    ids = np.stack([generator.permutation(VOCABULARY)[:k] for _ in range(n)]).astype(np.int32)
    whole = generator.dirichlet(np.ones(k + 1), n)
    probs, aligned = whole[:, :k].copy(), generator.random(n) > 0.33
    ids[~aligned], probs[~aligned] = -1, 0.0
    ids[~aligned, 0], probs[~aligned, 0] = labels[~aligned], 1.0
    ids, probs = gathered(ids, probs)
    total = generator.uniform(1, 20) if nats is None else nats
    return Aligned(ids, probs, 1 - probs.sum(1), generator.uniform(-5, 0, n), aligned, total, tokens or n), labels


def dense(expert: Aligned) -> np.ndarray:
    """[n, vocabulary + 1], the tail last."""
    found = np.zeros((len(expert.tail), VOCABULARY + 1))
    for row in range(len(found)):
        for number, p in zip(expert.ids[row], expert.probs[row], strict=True):
            if number >= 0:
                found[row, number] += p
    found[:, -1] = expert.tail
    return found


def dense_target(experts: list[Aligned], kind: str, temperature: float, weights: list[float]) -> np.ndarray:
    """By loops and full matrices."""
    n = len(experts[0].tail)
    ces = [expert.nats / n for expert in experts]
    if kind == "mince":
        return dense(experts[ces.index(min(ces))])
    if kind == "mince_position":
        found = np.zeros((n, VOCABULARY + 1))
        for row in range(n):
            best, at = -math.inf, 0
            for index, expert in enumerate(experts):
                if expert.aligned[row] and expert.gold[row] > best:
                    best, at = expert.gold[row], index
            found[row] = dense(experts[at])[row]
        return found
    if kind == "avgce":
        raw = [math.exp(-ce / temperature) for ce in ces]
        weights = [value / sum(raw) for value in raw]
    return sum(weight * dense(expert) for weight, expert in zip(weights, experts, strict=True))


@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["mince", "mince_position", "avgce", "weights"]),
    count=st.integers(1, 4),
    temperature=st.sampled_from([0.3, 1.0, 5.0]),
)
@settings(max_examples=120, deadline=None)
def test_equals_its_dense_twin(seed: int, kind: str, count: int, temperature: float) -> None:
    experts = [drawn(seed * 10 + index)[0] for index in range(count)]
    weights = np.random.default_rng(seed).dirichlet(np.ones(count)).tolist()
    found = fused_target(experts, kind, temperature=temperature, weights=weights)
    sparse = Aligned(found.ids, found.probs, found.tail, np.zeros(7), np.ones(7, dtype=bool), 0.0, 7)
    np.testing.assert_allclose(dense(sparse), dense_target(experts, kind, temperature, weights), atol=1e-12)
    np.testing.assert_allclose(found.probs.sum(1) + found.tail, 1, atol=1e-12)
    assert found.shares.sum() == pytest.approx(1)
    for row in found.ids:  # each id once, the first place filled
        there = row[row >= 0]
        assert len(set(there)) == len(there) and row[0] >= 0


def test_mince_is_by_the_text_and_not_by_small_tokens() -> None:
    # The second says the text with half the probability, in three times as many tokens.
    words, letters = drawn(1, nats=7.0)[0], drawn(2, nats=7.7, tokens=21)[0]
    assert fused_target([words, letters], "mince").shares.tolist() == [1, 0]
    assert fused_target([words, letters], "mince", compare="token").shares.tolist() == [0, 1]
    np.testing.assert_allclose(cross_entropies([words, letters]), [1.0, 1.1])


def test_of_equals_the_first_is_taken() -> None:
    one, two = drawn(1, nats=7.0)[0], drawn(2, nats=7.0)[0]
    assert fused_target([one, two], "mince").shares.tolist() == [1, 0]


def test_avgce_at_low_temperature_is_mince_and_at_high_the_mean() -> None:
    experts = [drawn(1, nats=7.0)[0], drawn(2, nats=8.0)[0]]
    cold, hot = fused_target(experts, "avgce", temperature=1e-3), fused_target(experts, "avgce", temperature=1e6)
    np.testing.assert_allclose(cold.shares, [1, 0], atol=1e-9)
    np.testing.assert_allclose(hot.shares, [0.5, 0.5], atol=1e-5)


def test_an_expert_that_cannot_say_the_response_weighs_nothing() -> None:
    experts = [drawn(1, nats=math.inf)[0], drawn(2, nats=8.0)[0]]
    assert fused_target(experts, "avgce").shares.tolist() == [0, 1]
    assert fused_target(experts, "mince").shares.tolist() == [0, 1]
    both = [drawn(1, nats=math.inf)[0], drawn(2, nats=math.inf)[0]]
    assert fused_target(both, "avgce").shares.tolist() == [0.5, 0.5]


def test_where_nobody_is_aligned_the_target_is_the_label() -> None:
    experts = [drawn(seed)[0] for seed in (3, 4)]
    labels = drawn(3)[1]
    nobody = ~(experts[0].aligned | experts[1].aligned)
    assert nobody.any()
    for kind in ("mince", "mince_position", "avgce", "weights"):
        found = fused_target(experts, kind, weights=[0.5, 0.5])
        for row in np.flatnonzero(nobody):
            there = found.ids[row] >= 0
            assert found.ids[row][there].tolist() == [labels[row]] and found.probs[row][there] == pytest.approx(1)
            assert found.tail[row] == pytest.approx(0)


def test_gathered_sums_repeats_and_drops_what_is_empty() -> None:
    ids = np.array([[5, 3, 5, -1], [-1, 7, -1, -1]], dtype=np.int32)
    probs = np.array([[0.1, 0.2, 0.3, 0.0], [0.0, 0.4, 0.0, 0.0]])
    found, summed = gathered(ids, probs)
    assert found.tolist() == [[3, 5], [7, -1]]
    np.testing.assert_allclose(summed, [[0.2, 0.4], [0.4, 0.0]])
