"""The exponential race: a draw from p, the same one for whoever computes p."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch

from modist.mixture.race import exponentials, race, uniform
from tests.mixture.fakes import surprise

torch.set_num_threads(1)


def test_a_race_draws_from_its_distribution() -> None:
    law = np.array([0.4, 0.0, 0.3, 0.15, 0.1, 0.05])
    log_p = torch.tensor(law).log()
    counts = np.bincount([race(log_p, 7, 0, position, 0) for position in range(4000)], minlength=6)
    assert surprise(counts, law) < 4


def test_a_constant_added_changes_nothing() -> None:
    log_p = torch.randn(50, dtype=torch.float64)
    assert all(race(log_p, seed) == race(log_p + 3, seed) == race(log_p.log_softmax(-1), seed) for seed in range(50))


def test_the_key_is_all_that_counts() -> None:
    assert torch.equal(exponentials(8, 1, 2, 3), exponentials(8, 1, 2, 3))
    others = [(1, 2, 4), (1, 3, 3), (2, 2, 3), (1, 2), (1, 2, 3, 0), (12, 3), (1, 23), (1, "expert", 3), ("1", "2", 33)]
    assert not any(torch.equal(exponentials(8, 1, 2, 3), exponentials(8, *key)) for key in others)


def test_a_longer_vocabulary_begins_with_the_same_exponentials() -> None:
    for size in (1, 5, 300, 4096):
        assert torch.equal(exponentials(5000, 9, 0, 4)[:size], exponentials(size, 9, 0, 4))


def test_padding_a_distribution_with_impossible_ids_changes_no_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(100):
        log_p = torch.randn(20, generator=generator, dtype=torch.float64)
        padded = torch.cat([log_p, torch.full((13,), -torch.inf, dtype=torch.float64)])
        assert race(log_p, seed) == race(padded, seed)


def test_an_impossible_id_never_wins() -> None:
    log_p = torch.full((1000,), -torch.inf)
    log_p[613] = -80.0
    assert {race(log_p, seed) for seed in range(200)} == {613}


def test_positions_rows_and_attempts_are_independent() -> None:
    law = torch.tensor([0.5, 0.5]).log()
    pairs = Counter(
        (race(law, 3, 0, t, 0), race(law, 3, 0, t + 1, 0), race(law, 3, 1, t, 0), race(law, 3, 0, t, 1)) for t in range(4000)
    )
    assert surprise(np.array([pairs[key] for key in sorted(pairs)]), np.full(16, 1 / 16)) < 4


def test_the_expert_and_its_token_are_independent() -> None:
    law = torch.tensor([0.5, 0.5]).log()
    pairs = Counter((race(law, seed, "expert", 0), race(law, seed, 0, 0, 0), uniform(seed, 0, 0) < 0.5) for seed in range(3000))
    assert surprise(np.array([pairs[key] for key in sorted(pairs)]), np.full(8, 1 / 8)) < 4


def test_uniforms_lie_inside_0_and_1_evenly() -> None:
    found = np.sort([uniform(seed, 0, 5) for seed in range(4000)])
    assert found[0] > 0 and found[-1] < 1
    assert np.abs(found - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)  # Kolmogorov, 1 in 1000


def test_half_precision_and_single_give_the_races_of_their_values() -> None:
    log_p = torch.randn(64).log_softmax(-1)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rounded = log_p.to(dtype)
        assert [race(rounded, seed) for seed in range(30)] == [race(rounded.double(), seed) for seed in range(30)]


def test_draws_do_not_change_between_versions() -> None:
    """Seeds that people noted must go on giving what they gave."""
    log_p = torch.arange(10, dtype=torch.float64).div(4).log_softmax(-1)
    assert [race(log_p, 0, 0, position, 0) for position in range(12)] == FROZEN
    assert [race(log_p, 1, "expert", position) for position in range(6)] == FROZEN_EXPERTS


FROZEN = [9, 3, 3, 0, 6, 1, 5, 8, 7, 9, 8, 4]
FROZEN_EXPERTS = [3, 2, 1, 8, 9, 7]
