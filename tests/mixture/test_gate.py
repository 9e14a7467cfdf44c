"""Gates: the bayes weights against the formula written out, and the mixture of whole answers."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.mixture.decode import Settings
from modist.mixture.gate import Gate
from modist.mixture.weights import check_weights, log_weights
from tests.mixture.fakes import FakeCore, cores_of, decode, fake_experts, fixed, holed, start, table

torch.set_num_threads(1)
SIZE = 9


def log_p(logits: Any, tokens: list[int]) -> np.ndarray:
    found = np.asarray(logits(tokens), dtype=np.float64)
    return found - np.logaddexp.reduce(found)


def weights_by_hand(
    gate: Gate, prior: list[float], tables: list[Any], prompt: list[int], response: list[int], t: int
) -> np.ndarray:
    """a_i(t): the formula of `modist.mixture.gate`, token by token."""
    b = t - t % gate.stride
    text = prompt + response
    found = []
    for weight, logits in zip(prior, tables, strict=True):
        total = math.log(weight)
        for s in range(b):
            total += gate.discount ** (b - 1 - s) * log_p(logits, prompt + response[:s])[response[s]]
        if gate.prompt:
            for s in range(1, len(prompt)):  # the first id of a prompt has nothing before it
                total += gate.discount ** (b - 1 + len(prompt) - s) * log_p(logits, text[:s])[text[s]]
        found.append(total)
    return np.exp(np.array(found) - np.logaddexp.reduce(found))


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("temperature", [1.0, None])
@pytest.mark.parametrize("stride, discount, prompt", list(product((1, 2, 4), (1.0, 0.7), (False, True))))
def test_bayes_weights_are_the_formula(
    stride: int, discount: float, prompt: bool, temperature: float | None, eager: bool
) -> None:
    gate = Gate("bayes", discount=discount, stride=stride, prompt=prompt)
    prior, tables, prompts = [0.5, 0.2, 0.3], [table(seed, SIZE) for seed in (1, 2, 3)], [[3, 1, 4], [1], [2, 7]]
    settings = Settings(max_new_tokens=11, temperature=temperature, gate=gate, eager=eager, seed=8)
    rows, _, runs = decode(fake_experts(prior, [SIZE] * 3), tables, prompts, settings)
    for index, row in enumerate(rows):
        run, place = (runs[index], 0) if len(runs) > 1 else (runs[0], index)
        for t in range(len(row.token_ids)):
            wanted = weights_by_hand(gate, prior, tables, prompts[index], list(row.token_ids), t)
            np.testing.assert_allclose(run.state.log_a[t][place].exp().numpy(), wanted, atol=1e-9)
            said = [log_p(own, prompts[index] + list(row.token_ids[:t]))[row.token_ids[t]] for own in tables]
            joint = np.log(wanted) + said
            assert abs(row.logprobs[t] - np.logaddexp.reduce(joint)) < 1e-9
            np.testing.assert_allclose(row.responsibilities[t], np.exp(joint - np.logaddexp.reduce(joint)), atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, None])
def test_without_discount_and_stride_1_the_text_scores_as_the_mixture_of_whole_answers(temperature: float | None) -> None:
    prior, tables = [0.6, 0.3, 0.1], [table(seed, SIZE) for seed in (4, 5, 6)]
    settings = Settings(max_new_tokens=30, temperature=temperature, gate=Gate("bayes"), seed=1)
    for prompt in ([2, 3], [1], [5, 5, 5, 0]):
        ((row,), _, _) = decode(fake_experts(prior, [SIZE] * 3), tables, [prompt], settings)
        whole = [
            math.log(weight) + sum(log_p(own, prompt + list(row.token_ids[:t]))[token] for t, token in enumerate(row.token_ids))
            for weight, own in zip(prior, tables, strict=True)
        ]
        assert abs(sum(row.logprobs) - np.logaddexp.reduce(whole)) < 1e-9


def test_a_renewal_has_every_expert_read_and_nothing_else_does() -> None:
    run = start(
        fake_experts([1.0, 0.0], [SIZE] * 2),
        [table(1, SIZE), table(2, SIZE)],
        [[[1]], [[1]]],
        Settings(11, 1.0, gate=Gate("bayes", stride=4)),
    )
    for _ in run.steps():
        pass
    # The silent expert is heard at 4 and 8 only: the prompt and four tokens, then four more.
    assert cores_of(run)[1].reads == [4, 4]


def test_a_callable_sees_the_response_and_nothing_else() -> None:
    seen: list[Any] = []

    def weights(tokens: Any) -> list[float]:
        seen.append(tokens)
        return [0.25, 0.75]

    ((row,), _, _) = decode(
        fake_experts([0.5, 0.5], [SIZE] * 2),
        [table(1, SIZE), table(2, SIZE)],
        [[3, 4]],
        Settings(5, 1.0, gate=Gate("callable", function=weights)),
    )
    assert seen == [row.token_ids[:t] for t in range(5)]


@pytest.mark.parametrize("eager", [False, True])
def test_a_callable_that_changes_the_leader_at_every_token(eager: bool) -> None:
    """A guess is pending on one expert's word while another leads at the next token."""
    gate = Gate("callable", function=lambda tokens: [(0.55, 0.45), (0.45, 0.55)][len(tokens) % 2])
    for seed in range(20):
        tables = [table(seed, SIZE), table(seed + 99, SIZE)]
        settings = Settings(20, gate=gate, eager=eager)
        ((row,), _, (run,)) = decode(fake_experts([0.5, 0.5], [SIZE] * 2), tables, [[1]], settings)
        for t, token in enumerate(row.token_ids):
            p = sum(
                a * np.exp(log_p(own, [1, *row.token_ids[:t]])) for a, own in zip(gate.function(range(t)), tables, strict=True)
            )  # type: ignore[misc]
            assert token == int(np.argmax(p))
        assert run.ledger().passes_per_step <= 2


def test_bayes_survives_a_past_that_every_expert_finds_impossible() -> None:
    """With a stride one token may be one expert's alone and the next another's."""
    apart = [fixed([0.5, 0.5, 0, 0]), fixed([0, 0, 0.5, 0.5])]
    settings = Settings(40, 1.0, gate=Gate("bayes", stride=3), seed=2)
    ((row,), _, (run,)) = decode(fake_experts([0.5, 0.5], [4, 4]), apart, [[0]], settings)
    assert len(row.token_ids) == 40 and all(math.isfinite(value) for value in row.logprobs)
    assert not any(bool(log_a.isnan().any()) for log_a in run.state.log_a)


def test_the_impossible_token_silences_an_expert_for_good() -> None:
    tables = [holed(1, 6, holes=0.9), table(2, 6)]
    ((row,), _, (run,)) = decode(fake_experts([0.5, 0.5], [6, 6]), tables, [[0]], Settings(30, 1.0, gate=Gate("bayes"), seed=4))
    weights = [float(log_a[0, 0].exp()) for log_a in run.state.log_a]
    assert 0.0 in weights and set(weights[weights.index(0.0) :]) == {0.0}
    assert row.responsibilities[-1] == (0.0, 1.0)


def test_discount_0_remembers_the_last_token_only() -> None:
    scores = torch.tensor([[-1.0, -torch.inf, -2.0], [-1.0, -3.0, -4.0]], dtype=torch.float64)
    found = Gate("bayes", discount=0.0).bayes(log_weights([0.5, 0.5]), scores)
    torch.testing.assert_close(found.exp(), torch.tensor([-2.0, -4.0], dtype=torch.float64).softmax(0))


def test_when_gates_renew() -> None:
    assert [t for t in range(9) if Gate("bayes", stride=3).renews_at(t)] == [3, 6]
    assert [t for t in range(9) if Gate("bayes", stride=3, prompt=True).renews_at(t)] == [0, 3, 6]
    assert not any(Gate().renews_at(t) for t in range(5))


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "moe"},
        {"kind": "bayes", "discount": 1.5},
        {"kind": "bayes", "discount": -0.1},
        {"kind": "bayes", "discount": float("nan")},
        {"kind": "bayes", "stride": 0},
        {"kind": "bayes", "stride": 1.5},
        {"kind": "callable"},
        {"kind": "static", "function": lambda tokens: [1.0]},
    ],
    ids=lambda bad: "-".join(bad),
)
def test_gates_that_cannot_stand(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Gate(**bad)


@pytest.mark.parametrize(
    "bad, word",
    [
        ([0.5, 0.6], "sum to 1.1"),
        ([1.5, -0.5], "1.5 among"),
        ([float("nan"), 1.0], "nan among"),
        ([math.inf, 0.0], "inf among"),
        ([], "0 weights for 2 experts"),
    ],
)
def test_weights_that_are_none(bad: list[float], word: str) -> None:
    with pytest.raises(UserError, match=word):
        check_weights(bad, 2)
    with pytest.raises(UserError, match="gate's weights"):
        Gate("callable", function=lambda tokens: bad).called([], 2)


def test_a_callable_with_too_few_weights() -> None:
    with pytest.raises(UserError, match="1 weights for 2 experts"):
        Gate("callable", function=lambda tokens: [1.0]).called([], 2)


def test_fakes_agree_however_they_are_read() -> None:
    """The stand-in itself: chunks, single tokens and rollbacks give one and the same."""
    one, two = FakeCore(table(3, SIZE), SIZE), FakeCore(table(3, SIZE), SIZE)
    for core in (one, two):
        core.start([[1, 2], [3]])
    together = one.read(torch.tensor([[4, 5], [6, 7]]), 3)
    two.read(torch.zeros(2, 0, dtype=torch.long), 1)
    two.read(torch.tensor([[4, 8], [6, 8]]), 2)
    two.rollback(1)
    assert torch.equal(two.read(torch.tensor([[5], [7]]), 1)[:, 0], together[:, 2])
