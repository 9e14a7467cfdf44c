"""Ten ids and a tail are what a dense softmax says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modist.fusion import sparse
from modist.fusion.sparse import sparse_log_probs

torch.set_num_threads(1)


def dense(logits: torch.Tensor, gold: torch.Tensor, k: int):
    log_p = torch.log_softmax(logits.double(), -1)
    top = log_p.topk(k, dim=1)
    left = log_p.exp().scatter(1, top.indices, 0.0).sum(1)
    return top.indices, top.values, left.log(), log_p.gather(1, gold[:, None])[:, 0]


@pytest.mark.parametrize("scale", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_the_dense_softmax(scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # A permutation has no ties, which topk may break either way.
    logits = torch.stack([torch.randperm(512, generator=generator) for _ in range(20)]).float().mul(scale / 512).to(dtype)
    gold = torch.randint(512, (20,), generator=generator)
    found = sparse_log_probs(logits, gold, 10)
    ids, log_probs, log_tail, of_gold = dense(logits, gold, 10)
    if dtype == torch.float32:
        assert torch.equal(found.ids.long(), ids)
    torch.testing.assert_close(found.log_probs.double(), log_probs, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.log_tail.double(), log_tail, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.gold.double(), of_gold, rtol=2e-6, atol=2e-6)


def test_a_tiny_tail_keeps_its_digits() -> None:
    logits = torch.full((1, 100), -60.0)
    logits[0, :10] = 10.0
    found = sparse_log_probs(logits, torch.tensor([0]), 10)
    assert float(found.log_tail) == pytest.approx(math.log(9) - 70, abs=1e-4)


def test_all_ids_leave_no_tail_and_k_may_exceed_the_vocabulary() -> None:
    found = sparse_log_probs(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2]), 10)
    assert found.ids.shape == (3, 4) and bool(torch.isneginf(found.log_tail).all())
    np.testing.assert_allclose(found.log_probs.exp().sum(1).numpy(), 1, rtol=1e-6)


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(17, 64, generator=torch.Generator().manual_seed(1))
    gold = torch.arange(17)
    whole = sparse_log_probs(logits, gold, 5)
    monkeypatch.setattr(sparse, "_ELEMENTS", 3 * 64)
    for one, two in zip(whole, sparse_log_probs(logits, gold, 5), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_number_is_told_with_its_row(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_ELEMENTS", 2 * 8)
    logits = torch.zeros(5, 8)
    logits[3, 2] = bad
    with pytest.raises(ValueError) as told:
        sparse_log_probs(logits, torch.zeros(5, dtype=torch.long), 2)
    assert told.value.args == (3,)


def test_the_logits_are_left_alone() -> None:
    logits = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    before = logits.clone()
    sparse_log_probs(logits, torch.zeros(4, dtype=torch.long), 3)
    assert torch.equal(logits, before)
