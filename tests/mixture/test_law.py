"""p = sum_i a_i p_i, against the sum written out in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from modist.errors import UserError
from modist.mixture.law import mix_log_probs, responsibilities
from modist.vocabulary import CommonVocabulary

CASES = list(itertools.product(range(4), ("equal", "padded", "odd")))


def vocabulary(kind: str, experts: int) -> CommonVocabulary:
    names = [f"t{number}" for number in range(20)]
    if kind == "equal":
        return CommonVocabulary.of([None] * experts, [20] * experts)
    if kind == "padded":
        return CommonVocabulary.of([None] * experts, [20 + 3 * index for index in range(experts)])
    maps = [{name: number for number, name in enumerate(names)} for _ in range(experts)]
    maps[-1]["other"] = maps[-1].pop("t7")
    return CommonVocabulary.of(maps, [20] * experts)


def draw(seed: int, common: CommonVocabulary, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(2, 3, rows, generator=generator, dtype=torch.float64).to(dtype) for rows in common.outputs]
    weights = torch.rand(len(common.outputs), generator=generator, dtype=torch.float64)
    return logits, weights / weights.sum()


def brute(
    logits: list[torch.Tensor], weights: torch.Tensor, common: CommonVocabulary, stop_ids: tuple[int, ...]
) -> torch.Tensor:
    """The law token by token, in float64, with plain loops."""
    batch, time = logits[0].shape[:2]
    found = torch.zeros(batch, time, common.size, dtype=torch.float64)
    for index, given in enumerate(logits):
        shares = given.double().softmax(-1)
        for number in range(common.outputs[index]):
            if common.readable[index, number]:
                found[..., number] += weights[index] * shares[..., number]
    for number in range(common.size):
        if number not in stop_ids and not bool(common.shared[number]):
            found[..., number] = 0
    return found / found.sum(-1, keepdim=True)


@pytest.mark.parametrize(("seed", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_law_is_the_sum(seed: int, kind: str, dtype: torch.dtype) -> None:
    common = vocabulary(kind, 2 + seed % 3)
    logits, weights = draw(seed, common, dtype)
    for stop_ids in ((), (2, 7), (21,)):
        found = mix_log_probs(logits, weights.log(), common, stop_ids=stop_ids)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected = brute(logits, weights, common, stop_ids)
        torch.testing.assert_close(found.double().exp(), expected, atol=1e-6, rtol=1e-5)
        assert found.double().exp().sum(-1).sub(1).abs().max() < 1e-5
        assert torch.equal(torch.isneginf(found), expected == 0)


def test_the_counter_example() -> None:
    """Each expert alone prefers its own token; the mixture prefers the one both find likely."""
    p, q = torch.tensor([0.50, 0.45, 0.05]), torch.tensor([0.05, 0.45, 0.50])
    common = CommonVocabulary.of([None, None], [3, 3])
    mixed = mix_log_probs([p.log(), q.log()], torch.tensor([0.5, 0.5]).log(), common)
    assert int(mixed.argmax()) == 1
    torch.testing.assert_close(mixed.exp(), torch.tensor([0.275, 0.45, 0.275]))


@pytest.mark.parametrize("law", ["arithmetic", "logits"])
def test_identical_experts_are_the_expert(law: str) -> None:
    common = vocabulary("equal", 2)
    logits, _ = draw(5, common)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    mixed = mix_log_probs([logits[0]] * 3, weights.log(), vocabulary("equal", 3), law=law)
    torch.testing.assert_close(mixed, logits[0].log_softmax(-1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("law", ["arithmetic", "logits"])
@pytest.mark.parametrize("lone", [0, 1])
def test_weight_one_is_that_expert_to_the_bit(law: str, lone: int) -> None:
    common = vocabulary("equal", 2)
    logits, _ = draw(6, common, torch.float32)
    logits[1 - lone][..., 4] = -math.inf  # must not turn into NaN
    weights = torch.tensor([0.0, 0.0])
    weights[lone] = 1
    mixed = mix_log_probs(logits, weights.log(), common, law=law)
    expected = logits[lone].log_softmax(-1)
    if law == "arithmetic":
        assert torch.equal(mixed, expected)
    else:
        torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("law", ["arithmetic", "logits"])
def test_order_does_not_matter(law: str) -> None:
    common = vocabulary("equal", 3)
    logits, weights = draw(7, common, torch.float32)
    first = mix_log_probs(logits, weights.log(), common, law=law)
    for order in itertools.permutations(range(3)):
        other = mix_log_probs([logits[i] for i in order], weights[list(order)].log(), common, law=law)
        torch.testing.assert_close(other, first, atol=1e-6, rtol=1e-6)


def test_the_product_of_experts() -> None:
    common = vocabulary("odd", 2)
    logits, weights = draw(8, common)
    found = mix_log_probs(logits, weights.log(), common, law="logits", stop_ids=(7,))
    total = sum(weight * given.log_softmax(-1) for weight, given in zip(weights, logits, strict=True))
    total[..., 7] = -math.inf  # not every expert can produce it, stop id or not
    torch.testing.assert_close(found, total.log_softmax(-1))
    # Over equal vocabularies it is the weighted sum of the logits themselves.
    common = vocabulary("equal", 2)
    found = mix_log_probs(logits, weights.log(), common, law="logits")
    torch.testing.assert_close(found, sum(w * z for w, z in zip(weights, logits, strict=True)).log_softmax(-1))


def test_weights_may_move_with_the_token() -> None:
    common = vocabulary("padded", 2)
    logits, _ = draw(9, common)
    gate = torch.rand(2, 3, 2, dtype=torch.float64)
    gate /= gate.sum(-1, keepdim=True)
    found = mix_log_probs(logits, gate.log(), common)
    for row, step in itertools.product(range(2), range(3)):
        alone = mix_log_probs([given[row, step] for given in logits], gate[row, step].log(), common)
        torch.testing.assert_close(found[row, step], alone)


def test_responsibilities_are_shares_of_the_token() -> None:
    log_probs = torch.tensor([[0.6, 0.2], [0.0, 0.5], [0.0, 0.0]], dtype=torch.float64).log()
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    shares = responsibilities(log_probs, weights.log())
    expected = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(shares, expected)
    assert responsibilities(log_probs, torch.tensor([1.0, 0.0]).log())[0].tolist() == [1.0, 0.0]


def test_wrong_laws_and_shapes_are_refused() -> None:
    common = vocabulary("equal", 2)
    logits, weights = draw(1, common)
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        mix_log_probs(logits, weights.log(), common, law="aritmetic")
    with pytest.raises(ValueError, match="expert 1 gave 19 logits"):
        mix_log_probs([logits[0], logits[1][..., :19]], weights.log(), common)
