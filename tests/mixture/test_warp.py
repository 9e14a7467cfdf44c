"""Warps are transformers' own, and a certificate never lies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.mixture.warp import Warp

torch.set_num_threads(1)
TEMPERATURES, TOP_K, TOP_P, MIN_P = (0.5, 1.0, 1.6), (0, 3), (1.0, 0.83), (0.0, 0.15)
COMBINATIONS = [Warp(*found) for found in itertools.product(TEMPERATURES, TOP_K, TOP_P, MIN_P)]


def theirs(warp: Warp, logits: torch.Tensor) -> torch.Tensor:
    """transformers' processors in the order of `generate`: [batch, size] -> log-probabilities."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    if warp.temperature != 1:
        logits = TemperatureLogitsWarper(warp.temperature)(ids, logits)
    if warp.top_k:
        logits = TopKLogitsWarper(warp.top_k)(ids, logits)
    if warp.top_p < 1:
        logits = TopPLogitsWarper(warp.top_p)(ids, logits)
    if warp.min_p:
        logits = MinPLogitsWarper(warp.min_p)(ids, logits)
    return logits.log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("warp", COMBINATIONS, ids=str)
def test_equal_to_transformers(warp: Warp, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    for spread in (0.3, 1.0, 3.0, 12.0):
        logits = (torch.randn(60, 23, generator=generator, dtype=torch.float64) * spread).to(dtype)
        logits[::7, 5:9] = -torch.inf
        mine, reference = warp(logits.log_softmax(-1)), theirs(warp, logits)
        assert torch.equal(mine == -torch.inf, reference == -torch.inf)
        torch.testing.assert_close(mine, reference, atol=1e-9 if dtype == torch.float64 else 2e-5, rtol=1e-5)


@pytest.mark.parametrize("warp", COMBINATIONS, ids=str)
def test_equal_to_transformers_with_ties(warp: Warp) -> None:
    """Many ids exactly as likely.  Which of equals top-p drops depends on a sort; how many, and their value, does not."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randint(0, 3, (200, 16), generator=generator).double()
    mine, reference = warp(logits.log_softmax(-1)), theirs(warp, logits)
    if warp.top_p == 1:
        assert torch.equal(mine == -torch.inf, reference == -torch.inf)
    torch.testing.assert_close(mine.sort(-1).values, reference.sort(-1).values)


def test_every_id_as_likely_as_another() -> None:
    flat = torch.zeros(1, 10, dtype=torch.float64).log_softmax(-1)
    assert torch.equal(Warp(top_k=3)(flat), flat), "all equal the third"
    assert torch.equal(Warp(min_p=1.0)(flat), flat)
    assert int((Warp(top_p=0.45)(flat) > -torch.inf).sum()) == 5
    assert int((Warp(top_p=1e-9)(flat) > -torch.inf).sum()) == 1


def test_the_plain_warp_and_its_words() -> None:
    log_p = torch.randn(5).log_softmax(-1)
    assert Warp().plain and not Warp().cuts and Warp()(log_p) is log_p
    assert not Warp(0.7).plain and not Warp(0.7).cuts and Warp(top_k=1).cuts and Warp(top_p=0.5).cuts and Warp(min_p=0.1).cuts
    assert torch.equal(Warp(top_k=99)(log_p), log_p.log_softmax(-1)), "more than there are keeps all"


def test_order_matters_and_is_temperature_first() -> None:
    log_p = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    assert Warp(0.5, top_p=0.9)(log_p)[1] == -torch.inf and Warp(1.0, top_p=0.9)(log_p)[1] > -torch.inf


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
    ],
    ids=str,
)
def test_settings_that_cannot_stand(bad: dict[str, float]) -> None:
    (name,) = bad
    with pytest.raises(UserError, match=name):
        Warp(**bad)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- certificates


def kept_by_hand(warp: Warp, p: np.ndarray) -> np.ndarray:
    """Which ids [n, size] the warped law keeps, from the definitions alone: mass ranked strictly above, counts, ratios."""
    q = p ** (1 / warp.temperature)
    q = q / q.sum(-1, keepdims=True)
    above = q[:, None, :] > q[:, :, None]  # [n, id, others]
    keep = np.ones(p.shape, dtype=bool)
    if warp.top_k:
        keep &= above.sum(-1) < warp.top_k
    if warp.top_p < 1:
        within = np.where(keep, q, 0) / np.where(keep, q, 0).sum(-1, keepdims=True)
        keep &= (above * within[:, None, :]).sum(-1) < warp.top_p
    if warp.min_p:
        keep &= q >= warp.min_p * q.max(-1, keepdims=True)
    return keep


def pairs(draw: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two distributions [count, size] each, sharp and flat, like and unlike; and the first one's weight [count]."""
    spread = draw.choice([0.2, 1.0, 3.0, 8.0], (count, 1))
    common, own, other = draw.normal(size=(3, count, size))
    apart = draw.choice([0.0, 0.3, 1.0], (count, 1))
    p, q = np.exp((common + apart * own) * spread), np.exp((common + apart * other) * spread)
    a = draw.choice([0.05, 0.5, 0.7, 0.9, 0.99, 1.0], count)
    return p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True), a


SETTINGS = [
    Warp(temperature, k, p, m)
    for temperature in (0.6, 1.0)
    for k, p, m in ((0, 0.9, 0), (0, 0.5, 0), (2, 1.0, 0), (5, 1.0, 0), (0, 1.0, 0.1), (0, 1.0, 0.5), (4, 0.8, 0.05))
]


@pytest.mark.parametrize("warp", [*SETTINGS, Warp(0.6), Warp()], ids=str)
def test_certificates_are_sound(warp: Warp) -> None:
    """30,000 random pairs: a certified token is in the brute-force kept set, and below T = 1 the full law accepts it."""
    draw = np.random.default_rng(12)
    count, certified = 30_000, 0
    p, q, a = pairs(draw, count, 6)
    mixture = a[:, None] * p + (1 - a[:, None]) * q
    kept = kept_by_hand(warp, mixture)
    rows = np.arange(count)
    token = (p.cumsum(-1) < draw.random((count, 1))).sum(-1).clip(max=5)
    uniform = draw.random(count)
    floor, ceiling = a * p[rows, token], a * p.max(-1) + 1 - a
    accepted = uniform < (mixture[rows, token] / mixture.max(-1)) ** (1 / warp.temperature - 1)
    for row in range(count):
        if warp.certified(float(floor[row]), float(ceiling[row]), float(uniform[row])):
            certified += 1
            assert kept[row, token[row]], (warp, row)
            assert warp.temperature == 1 or accepted[row], (warp, row)
    if warp.temperature == 1 or warp.top_p == 1:
        assert certified > 100, "a certificate that never fires proves nothing"
    else:
        assert certified == 0, "top-p below T = 1 sums a mass of which one expert knows no bound"


def test_the_known_trap_of_top_p_below_temperature_1() -> None:
    assert not Warp(0.5, top_p=0.9).certified(0.2, 0.8, 1e-9)
    assert Warp(1.0, top_p=0.9).certified(0.2, 0.8, 1e-9)


def test_above_temperature_1_nothing_is_certified() -> None:
    assert not Warp(1.5).certified(1.0, 1.0, 0.5)


def test_one_expert_alone_is_always_certain_of_its_favourite() -> None:
    for warp in (Warp(top_k=1), Warp(top_p=0.01), Warp(min_p=1.0)):
        assert warp.certified(0.999, 0.999, 0.5)
