"""The sparse loss is the dense one, its gradient the derivative, in every corner of the vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.fusion.loss import fusion_loss, log1mexp, plain_fusion_loss

torch.set_num_threads(1)


def drawn(seed: int, n: int = 6, vocabulary: int = 37, k: int = 5, scale: float = 3.0, dtype: torch.dtype = torch.float64):
    """Logits, labels and a target: `k` ids a row in any order, the last row with fewer, one with no tail."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, vocabulary, generator=generator, dtype=dtype)
    labels = torch.randint(vocabulary, (n,), generator=generator)
    ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:k] for _ in range(n)]).int()
    probs = torch.rand(n, k, generator=generator, dtype=dtype)
    tail = torch.rand(n, generator=generator, dtype=dtype)
    ids[-1, 1:], probs[-1, 1:] = -1, 0.0
    tail[0] = 0.0
    whole = probs.sum(1) + tail
    return logits, labels, ids, probs / whole[:, None], tail / whole


def dense(logits, labels, ids, probs, tail, mix):
    """The loss by dense [n, vocabulary] tensors: a target, a mask of what it names, the student's mass outside."""
    n, vocabulary = logits.shape
    target, named = torch.zeros(n, vocabulary, dtype=logits.dtype), torch.zeros(n, vocabulary, dtype=torch.bool)
    for row in range(n):
        for number, p in zip(ids[row].tolist(), probs[row], strict=True):
            if number >= 0:
                target[row, number] += p
                named[row, number] = True
    q = torch.softmax(logits, -1)
    outside = torch.where(named, 0.0, q).sum(1)
    fused = -(target * torch.log_softmax(logits, -1)).sum(1)
    fused = fused - torch.where(tail > 0, tail * torch.where(tail > 0, outside, 1.0).log(), torch.zeros_like(tail))
    clm = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return mix * clm + (1 - mix) * fused


@given(seed=st.integers(0, 1 << 20), mix=st.sampled_from([0.0, 0.3, 0.9, 1.0]), scale=st.sampled_from([0.1, 3.0, 12.0]))
@settings(max_examples=60, deadline=None)
def test_equals_the_dense_loss_and_its_gradient(seed: int, mix: float, scale: float) -> None:
    logits, *rest = drawn(seed, scale=scale)
    one, two, three = (logits.clone().requires_grad_() for _ in range(3))
    found = fusion_loss(one, *rest, mix).total
    wanted = dense(two, *rest, mix)
    plain = plain_fusion_loss(three, *rest, mix).total
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain, wanted, rtol=1e-6, atol=1e-6)
    weights = torch.linspace(0.5, 2, len(found), dtype=torch.float64)
    for total in (found, wanted, plain):
        (total * weights).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(three.grad, two.grad, rtol=1e-5, atol=1e-6)


def test_gradcheck() -> None:
    logits, *rest = drawn(3)
    assert torch.autograd.gradcheck(lambda z: fusion_loss(z, *rest, 0.7).total, (logits.requires_grad_(),), eps=1e-6, atol=1e-7)


def test_equals_the_dense_loss_to_a_millionth_at_a_large_vocabulary() -> None:
    logits, labels, ids, probs, tail = drawn(1, n=8, vocabulary=151_936, k=10, scale=4.0)
    wanted = dense(logits, labels, ids, probs, tail, 0.9)
    exact = fusion_loss(logits, labels, ids, probs, tail, 0.9).total
    assert float((exact / wanted - 1).abs().max()) < 1e-12
    single = (logits.float(), labels, ids, probs.float(), tail.float(), 0.9)
    found = fusion_loss(*single).total
    assert float((found / dense(*single) - 1).abs().max()) < 1e-6
    # Both have the rounding of a float32 log-softmax over 151,936 ids.
    assert float((found.double() / wanted - 1).abs().max()) < 4e-6


@pytest.mark.parametrize("gap", [20.0, 60.0, 200.0])
def test_a_confident_student_gets_a_finite_and_right_gradient(gap: float) -> None:
    # 1 - Q is far below float32's resolution of Q, and 1 - sum would be 0.
    logits = torch.zeros(1, 50)
    logits[0, :3] = gap
    labels, ids = torch.tensor([0]), torch.tensor([[0, 1, 2]])
    probs, tail = torch.tensor([[0.5, 0.3, 0.15]]), torch.tensor([0.05])
    one, two = logits.clone().requires_grad_(), logits.double().requires_grad_()
    fusion_loss(one, labels, ids, probs, tail, 0.0).total.sum().backward()
    assert bool(torch.isfinite(one.grad).all())
    if gap < 80:  # exp(-200) is nothing in float32
        dense(two, labels, ids, probs.double(), tail.double(), 0.0).sum().backward()
        torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-4, atol=1e-7)


def test_an_impossible_id_with_probability_zero_is_no_nan() -> None:
    logits = torch.zeros(1, 6)
    logits[0, 4] = -math.inf
    found = fusion_loss(
        logits.requires_grad_(), torch.tensor([0]), torch.tensor([[0, 4]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1), 0.5
    )
    found.total.sum().backward()
    assert bool(torch.isfinite(found.total).all()) and bool(torch.isfinite(logits.grad).all())


def test_the_least_is_at_the_teacher() -> None:
    """On the named ids the gradient is q - p: it vanishes where the student says what the teacher says."""
    probs, tail = torch.tensor([[0.5, 0.2]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    q = torch.tensor([[0.5, 0.2, 0.1, 0.2]], dtype=torch.float64)
    logits = q.log().requires_grad_()
    fusion_loss(logits, torch.tensor([0]), torch.tensor([[0, 1]]), probs, tail, 0.0).total.sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(q), atol=1e-12, rtol=0)


def test_lambda_one_is_plain_clm_and_a_label_target_is_too() -> None:
    logits, labels, ids, probs, tail = drawn(5)
    clm = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(fusion_loss(logits, labels, ids, probs, tail, 1.0).total, clm)
    ones = torch.ones(len(labels), 1, dtype=torch.float64)
    torch.testing.assert_close(
        fusion_loss(logits, labels, labels[:, None].int(), ones, torch.zeros(len(labels)), 0.0).total, clm
    )


def test_bfloat16_logits_are_computed_in_float32_and_get_bfloat16_gradients() -> None:
    logits, *rest = drawn(2)
    low = logits.bfloat16().requires_grad_()
    found = fusion_loss(low, *rest, 0.5).total
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), dense(low.detach().double(), *rest, 0.5), rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert low.grad.dtype == torch.bfloat16


@given(st.floats(-700, -1e-300))
@settings(max_examples=200, deadline=None)
def test_log1mexp_against_exact_arithmetic(x: float) -> None:
    from fractions import Fraction

    found = float(log1mexp(torch.tensor(x, dtype=torch.float64)))
    small = x > -1e-5
    # Near 0, 1 - exp(x) = -x (1 + x / 2 + x^2 / 6); elsewhere a double's exp is exact enough to subtract as a fraction.
    wanted = math.log(-x) + math.log1p(x / 2 + x * x / 6) if small else math.log1p(-math.exp(x))
    if -1e-5 >= x > -0.7:
        wanted = math.log(-math.expm1(x))
    assert Fraction(abs(found - wanted)) <= Fraction(1e-9) * max(1, abs(wanted))
