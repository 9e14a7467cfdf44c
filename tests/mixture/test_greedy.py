"""Greedy decoding: always the eager argmax, never more passes than asking everyone, one where one expert is enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modist.mixture.decode import Ledger, Run, Settings
from modist.mixture.greedy import Greedy
from tests.mixture.fakes import FakeExperts, Logits, cores_of, decode, fake_experts, fixed, pointing, start, table, tied

torch.set_num_threads(1)
SIZE = 8


def both(experts: FakeExperts, parts: list[Logits], length: int, **more: Any) -> tuple[Run, Ledger]:
    """The lazy run and what it cost without the closing flush, after its tokens were found to be the twin's."""
    (lazy,), ledger, (run,) = decode(experts, parts, [[1]], Settings(length, **more))
    (eager,), _, _ = decode(experts, parts, [[1]], Settings(length, eager=True, **more))
    assert lazy.token_ids == eager.token_ids
    np.testing.assert_allclose(lazy.logprobs, eager.logprobs, atol=1e-9)
    return run, ledger


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (0.4, 0.35, 0.25), (0.1, 0.2, 0.3, 0.4)], ids=str)
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_always_the_eager_argmax(weights: tuple[float, ...], spread: float) -> None:
    for seed in range(4):
        parts = [table(seed + 10 * index, SIZE, spread=spread, shared=seed) for index in range(len(weights))]
        _run, ledger = both(fake_experts(weights, [SIZE] * len(weights)), parts, 60)
        assert sum(ledger.passes.values()) <= len(weights) * 60


def test_ties_go_to_the_lowest_id() -> None:
    for seed in range(15):
        both(fake_experts([0.5, 0.5], [SIZE] * 2), [tied(seed, SIZE), tied(seed + 1, SIZE)], 25)
    run, _ledger = both(fake_experts([0.5, 0.5], [4, 4]), [fixed([0.4, 0.2, 0.2, 0.2]), fixed([0.2, 0.2, 0.2, 0.4])], 9)
    assert run.state.chosen[0] == [0] * 9


def next_id(tokens: Any) -> int:
    return int(np.random.default_rng(list(tokens)[-2:]).integers(SIZE))


def test_one_pass_where_one_expert_is_always_enough() -> None:
    parts = [pointing(next_id, SIZE), table(1, SIZE, spread=0.1)]
    _run, ledger = both(fake_experts([0.9, 0.1], [SIZE] * 2), parts, 100)
    assert list(ledger.passes.values()) == [100, 0] and ledger.certified_share == 1


def test_never_above_two_passes_where_every_guess_fails() -> None:
    """The heavier expert's favourite never wins: the other puts all its mass on the runner-up."""

    def first(tokens: Any) -> np.ndarray:
        p = np.full(SIZE, 0.01)
        p[next_id(tokens)], p[(next_id(tokens) + 1) % SIZE] = 0.48, 0.46
        return np.log(p / p.sum())

    parts: list[Logits] = [first, pointing(lambda tokens: (next_id(tokens) + 1) % SIZE, SIZE)]
    run, ledger = both(fake_experts([0.6, 0.4], [SIZE] * 2), parts, 128)
    assert ledger.certified_share == 0 and sum(cores_of(run)[1].rollbacks) > 100
    assert sum(ledger.passes.values()) <= 2 * 128


def test_never_above_two_passes_where_a_failing_guess_is_followed_by_certainties() -> None:
    """The cruellest fake: whatever follows a wrong guess is certified, so that a late check throws much away."""
    for period in (1, 2, 5, 9, 33):

        def doubtful(tokens: Any, period: int = period) -> bool:
            return sum(tokens) % (period + 1) == 0  # the response so far decides, so a replaced guess moves the next doubt

        def first(tokens: Any) -> np.ndarray:
            p = np.full(SIZE, 1e-4)
            p[1] = 0.5 if doubtful(tokens) else 1.0
            p[2] = 0.49 if doubtful(tokens) else 1e-4
            return np.log(p / p.sum())

        def second(tokens: Any) -> np.ndarray:
            p = np.full(SIZE, 1e-4)
            p[2 if doubtful(tokens) else 1] = 1
            return np.log(p / p.sum())

        _run, ledger = both(fake_experts([0.9, 0.1], [SIZE] * 2), [first, second], 150)
        assert sum(ledger.passes.values()) <= 2 * 150, period


@pytest.mark.parametrize("count", [2, 3, 4])
def test_random_models_never_cost_more_than_everyone(count: int) -> None:
    for seed in range(6):
        parts = [table(seed + 10 * index, SIZE, spread=1.0) for index in range(count)]
        _run, ledger = both(fake_experts([1 / count] * count, [SIZE] * count), parts, 60)
        assert sum(ledger.passes.values()) <= count * 60


def test_agreeing_experts_at_equal_weights_need_few_passes() -> None:
    parts = [table(1, SIZE, spread=4, shared=5), table(2, SIZE, spread=4, shared=5)]
    for index in range(2):
        parts[index] = pointing(next_id, SIZE, 0.9 - 0.1 * index)
    run, ledger = both(fake_experts([0.5, 0.5], [SIZE] * 2), parts, 128)
    assert ledger.passes_per_step < 1.35 and not cores_of(run)[1].rollbacks


def test_more_guesses_are_let_stand_as_they_hold_and_fewer_as_they_fail() -> None:
    run = start(fake_experts([0.5, 0.5], [SIZE] * 2), [fixed([1 / SIZE] * SIZE)] * 2, [[[1]]] * 2, Settings(5))
    greedy = Greedy(run.state, 0.0)
    greedy._extend()
    run.state.readers[0].passes = -100  # no debt
    found = []
    for greedy.held in (0.05, 0.5, 0.8, 0.95, 1.0):
        found.append(greedy._patience())
    assert found == sorted(found) and found[0] == 1 and found[-1] == 8
    run.state.readers[0].passes = 2
    assert greedy._patience() == 1, "in debt every guess is checked at once"


def test_the_last_guess_is_read_by_the_check_so_that_the_next_token_is_known() -> None:
    run, _ledger = both(fake_experts([0.5, 0.5], [SIZE] * 2), [pointing(next_id, SIZE, 0.9)] * 2, 40)
    first, second = cores_of(run)
    assert second.reads[0] >= 1 and sum(second.reads) >= 39 and len(second.reads) < 20
    assert first.rollbacks == second.rollbacks == []


def test_an_end_that_was_only_a_guess_does_not_end_the_response() -> None:
    """The heavier expert would stop at once; the mixture does not."""
    parts = [fixed([0.55, 0.45, 0.0]), fixed([0.0, 0.9, 0.1])]
    (row,), _, _ = decode(fake_experts([0.6, 0.4], [3, 3], stops={0}), parts, [[2]], Settings(10))
    assert row.token_ids == (1,) * 10 and row.finish_reason == "length"


def test_silent_experts_are_never_asked() -> None:
    _run, ledger = both(fake_experts([0.5, 0.0, 0.5], [SIZE] * 3), [table(seed, SIZE) for seed in (1, 2, 3)], 30)
    assert ledger.passes["expert1"] == 0


def test_tokens_are_yielded_once_settled_and_never_changed() -> None:
    for seed in range(10):
        run = start(
            fake_experts([0.5, 0.5], [SIZE] * 2), [table(seed, SIZE), table(seed + 50, SIZE)], [[[1]]] * 2, Settings(40)
        )
        seen: list[int] = []
        for count in run.steps():
            assert count == len(seen) + 1 and run.state.chosen[0][: len(seen)] == seen
            seen = list(run.state.chosen[0][:count])
        assert seen == run.state.chosen[0] and len(seen) == 40
