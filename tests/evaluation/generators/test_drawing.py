"""Drawn tokens follow the law that was asked for, and depend on nothing but their own ask."""

from __future__ import annotations

import pytest
import torch

from modist.errors import UserError
from modist.evaluation.generators import Ask, Sampling
from modist.evaluation.generators.drawing import draw, uniforms

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.1, 1.1, -4.0])


def law_by_hand(temperature: float, top_p: float, top_k: int) -> list[float]:
    """The law in the order the settings are told: temperature, the k best, then the fewest that hold top_p of those."""
    masses = (LOGITS.double() / temperature).exp().tolist()
    best = sorted(range(len(masses)), key=lambda token: (-masses[token], token))[: top_k or None]
    total, kept, held = sum(masses[token] for token in best), [], 0.0
    for token in best:
        kept.append(token)
        held += masses[token] / total
        if held >= top_p:
            break
    total = sum(masses[token] for token in kept)
    return [masses[token] / total if token in kept else 0.0 for token in range(len(masses))]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, 0), (0.5, 1.0, 0), (2.0, 1.0, 0), (1.0, 0.8, 0), (1.0, 0.3, 0), (1.0, 1.0, 2), (0.7, 0.6, 4), (1.0, 1.0, 50)],
)
def test_the_law(temperature: float, top_p: float, top_k: int) -> None:
    # Evenly spread numbers instead of random ones: every share must come out to one part in a thousand.
    count = 4000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(LOGITS.expand(count, -1), numbers, Sampling(temperature, top_p, top_k))
    shares = torch.bincount(tokens, minlength=6).double() / count
    expected = torch.tensor(law_by_hand(temperature, top_p, top_k), dtype=torch.float64)
    torch.testing.assert_close(shares, expected, atol=1e-3, rtol=0)
    assert not bool(shares[expected == 0].any())


def test_the_ends_of_the_numbers_draw_tokens_that_may_be_drawn() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]]).expand(2, -1)
    tokens = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), Sampling(1.0))
    assert tokens.tolist() == [1, 0]


def test_numbers_belong_to_key_and_seed() -> None:
    one, two, three = Ask("a", "q", 4, seed=1), Ask("b", "q", 4, seed=1), Ask("a", "q", 4, seed=2)
    drawn = uniforms([one, two, three], 8)
    assert len({tuple(row) for row in drawn.tolist()}) == 3
    assert torch.equal(uniforms([one], 4)[0], drawn[0, :4]) and torch.equal(uniforms([three, one], 8)[1], drawn[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((None, 0.9), "need a temperature"),
        ((None, 1.0, 5), "need a temperature"),
        ((0.0,), "more than 0"),
        ((float("nan"),), "more than 0"),
        ((1.0, 0.0), "top_p 0"),
        ((1.0, 1.1), "top_p 1.1"),
        ((1.0, 1.0, -1), "top_k -1"),
    ],
)
def test_settings_that_cannot_be(settings: tuple[float, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Sampling(*settings)  # type: ignore[arg-type]
