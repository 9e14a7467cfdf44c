"""A reader of a real model: chunks, lags, rollbacks and left padding say what reading everything afresh says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from modist.errors import UserError
from modist.mixture.reader import ExpertError, ModelCore, Reader, pick
from tests.mixture.fakes import FakeCore, table
from tests.mixture.tiny_experts import tiny
from tests.tiny_models import FAMILIES, configuration

torch.set_num_threads(1)
PROMPTS = [[5, 6, 7, 8, 9], [11], [21, 22, 23]]
TEXT = torch.tensor([[31, 32, 33, 34, 35, 36], [41, 42, 43, 44, 45, 46], [51, 52, 53, 54, 55, 56]])
WRONG = torch.full((3, 3), 99)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny(3, request.param, dtype=torch.float64)


def alone(model: Any, row: int, length: int) -> torch.Tensor:
    """log p after the first `length` tokens of a row, read in one go without padding or cache."""
    ids = torch.tensor([PROMPTS[row] + TEXT[row, :length].tolist()])
    with torch.no_grad():
        return torch.log_softmax(model(ids).logits[0, -1].double(), -1)


def reader(model: Any, **more: Any) -> Reader:
    return Reader(ModelCore(model), "it", PROMPTS, **more)


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-9, rtol=0)


def holds(found: Reader, model: Any, length: int) -> None:
    for row in range(3):
        same(found.distribution()[row], alone(model, row, length))


@pytest.mark.parametrize("cuts", [(6,), (0, 6), (0, 1, 2, 3, 4, 5, 6), (2, 3, 6), (0, 4, 6)], ids=str)
def test_any_cut_into_chunks_says_the_same(model: Any, cuts: tuple[int, ...]) -> None:
    found = reader(model)
    for cut in cuts:
        found.follow(TEXT[:, :cut], TEXT[:, :cut])
        holds(found, model, cut)
        assert found.knows(cut) and not found.knows(cut + 1)
    assert found.passes == len(cuts) and len(found.scores) == 6
    for position in range(6):
        for row in range(3):
            same(found.scores[position][row], alone(model, row, position)[TEXT[row, position]])


def test_a_chunk_gives_every_position_it_read(model: Any) -> None:
    found = reader(model)
    assert found.follow(TEXT[:, :0], TEXT[:, :0]).shape[1] == 1
    chunk = found.follow(TEXT[:, :4], TEXT[:, :4])
    for index in range(4):
        for row in range(3):
            same(chunk[row, index], alone(model, row, index + 1))
    again = found.follow(TEXT[:, :4], TEXT[:, :4])
    assert found.passes == 2 and again.shape[1] == 1, "nothing lagged, nothing is read"


@pytest.mark.parametrize("keep, beyond", [(0, 1), (2, 3), (3, 2), (5, 1)])
def test_a_rollback_restores_the_reader_exactly(model: Any, keep: int, beyond: int) -> None:
    """Wrong tokens read and taken back leave what a fresh reader has, bit for bit."""
    found, fresh = reader(model), reader(model)
    for one in (found, fresh):
        one.follow(TEXT[:, :0], TEXT[:, :0])
        one.follow(TEXT[:, :keep], TEXT[:, :keep])
    before = found.distribution().clone()
    wrong = torch.cat([TEXT[:, :keep], WRONG[:, :beyond]], 1)
    found.follow(wrong, wrong)
    found.rollback(keep, before)
    assert found.seen == keep and len(found.scores) == keep and torch.equal(found.distribution(), before)
    for one in (found, fresh):
        one.follow(TEXT, TEXT)
    assert torch.equal(found.distribution(), fresh.distribution())
    assert all(torch.equal(a, b) for a, b in zip(found.scores, fresh.scores, strict=True))
    holds(found, model, 6)


def test_tokens_can_be_taken_back_under_a_sliding_window() -> None:
    """Cached layers that keep their window only could not give back what fell out of it."""
    config = configuration("mistral")
    config.sliding_window, config.vocab_size, config.initializer_range = 3, 160, 0.15
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()
    found = reader(model)
    found.follow(TEXT[:, :2], TEXT[:, :2])
    before = found.distribution()
    wrong = torch.cat([TEXT[:, :2], WRONG], 1)
    found.follow(wrong, wrong)
    found.rollback(2, before)
    found.follow(TEXT[:, :3], TEXT[:, :3])
    holds(found, model, 3)
    found.follow(TEXT, TEXT)
    holds(found, model, 6)


def test_taking_back_the_same_tokens_many_times(model: Any) -> None:
    found = reader(model)
    found.follow(TEXT[:, :1], TEXT[:, :1])
    for _ in range(5):
        before = found.distribution()
        found.follow(torch.cat([TEXT[:, :1], WRONG], 1), torch.cat([TEXT[:, :1], WRONG], 1))
        found.rollback(1, before)
    found.follow(TEXT, TEXT)
    holds(found, model, 6)


def test_a_rollback_of_what_was_not_read_only_drops_scores() -> None:
    found = Reader(FakeCore(table(1, 60), 60), "it", PROMPTS)
    found.follow(TEXT[:, :2], TEXT[:, :2])
    found.note(TEXT[:, 2])
    found.rollback(2, None)
    assert found.seen == 2 and len(found.scores) == 2 and found.knows(2)


def test_the_prompts_own_scores(model: Any) -> None:
    for first in (0, 4):  # read alone, or together with the response's first tokens
        found = reader(model, score_prompt=True)
        chunk = found.follow(TEXT[:, :first], TEXT[:, :first])
        assert chunk.shape[1] == first + 1 and found.prompt_scores is not None and found.prompt_scores.shape == (3, 4)
        for row, prompt in enumerate(PROMPTS):
            with torch.no_grad():
                log_p = torch.log_softmax(model(torch.tensor([prompt])).logits[0], -1)
            wanted = [float(log_p[place - 1, prompt[place]]) for place in range(1, len(prompt))]
            same(found.prompt_scores[row], torch.tensor([0.0] * (5 - len(prompt)) + wanted, dtype=torch.float64))
        holds(found, model, first)


def test_notes_score_the_newest_token_once() -> None:
    found = Reader(FakeCore(table(1, 60), 60), "it", PROMPTS)
    found.note(TEXT[:, 0])
    assert found.scores == [], "nothing is known before the prompt is read"
    found.follow(TEXT[:, :0], TEXT[:, :0])
    wanted = pick(found.distribution(), TEXT[:, 0])
    found.note(TEXT[:, 0])
    found.note(TEXT[:, 0])
    assert len(found.scores) == 1 and torch.equal(found.scores[0], wanted)
    found.follow(TEXT[:, :1], TEXT[:, :1])
    assert len(found.scores) == 1


def test_scores_of_ids_it_cannot_read_are_impossible() -> None:
    readable = torch.ones(70, dtype=torch.bool)
    readable[[3, *range(60, 70)]] = False
    found = Reader(FakeCore(table(1, 60), 60), "it", [[1], [2]], readable=readable, blocked=~readable)
    found.follow(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long))
    p = found.distribution().exp()
    found.note(torch.tensor([3, 65]))
    assert found.scores[0].tolist() == [-torch.inf, -torch.inf]
    same(found.masses[0].exp(), 1 - p[:, 3])
    found.forget(0)
    assert found.scores == found.masses == []


def test_pick() -> None:
    log_p = torch.randn(3, 4)
    assert pick(log_p, torch.tensor([0, 3, 4])).tolist() == [float(log_p[0, 0]), float(log_p[1, 3]), -torch.inf]


def test_prompts_that_cannot_be_read() -> None:
    with pytest.raises(UserError, match="it: an empty prompt"):
        Reader(FakeCore(table(1, 9), 9), "it", [[1], []])
    with pytest.raises(UserError, match="it: the prompt has 8 tokens, its context holds 8"):
        Reader(FakeCore(table(1, 9), 9, context=8), "it", [[1], [1] * 8])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    found = Reader(FakeCore(lambda tokens: torch.tensor([0.0, bad, 1.0]).numpy(), 3), "it", [[1]])
    with pytest.raises(ExpertError, match="it: its logits are not finite"):
        found.follow(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long))
