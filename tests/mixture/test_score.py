"""Scores of a text: the law written out, and the same as the transformers model's, also where vocabularies differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from modist.mixture import MixtureForCausalLM, load_experts
from modist.mixture.gate import Gate
from modist.mixture.score import expert_scores, mixture_scores, score, together
from modist.recipe import parse_recipe
from tests.mixture.tiny_experts import saved, tiny


@pytest.fixture(params=[(160, 160), (160, 152)], ids=["equal", "extended"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folders = [saved(tmp_path / f"e{i}", tiny(i, vocab=size), size=size) for i, size in enumerate(request.param)]
    return yaml.safe_dump({"experts": [{"source_model": str(folder)} for folder in folders], "weights": [0.7, 0.3]})


def test_score_is_what_the_transformers_model_says(recipe: str) -> None:
    experts = load_experts(parse_recipe(recipe), dtype="float32", device="cpu")
    model = MixtureForCausalLM.from_experts(experts.models, experts.weights, tokenizers=experts.tokenizers)
    tokens = [5, 9, 30, 77, 120, 140, 6, 30, 8]
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([tokens])).logits[0, :-1].double(), -1)
    expected = expected.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    said = [expert_scores(experts, index, tokens) for index in range(2)]
    parts, masses = (torch.stack(column) for column in zip(*said, strict=True))
    log_p, shares = mixture_scores(parts, experts.weights, masses=masses)
    assert torch.allclose(log_p, expected, atol=1e-5)
    assert torch.allclose(shares.sum(0), torch.ones(len(tokens) - 1, dtype=torch.float64))
    assert (masses.min() < -1e-4) == (not experts.vocabulary.whole)


def test_bayes_without_discount_is_the_mixture_of_whole_texts(recipe: str) -> None:
    experts = load_experts(parse_recipe(recipe), dtype="float64", device="cpu")
    parts = torch.stack([expert_scores(experts, index, [5, 9, 30, 77, 120])[0] for index in range(2)])
    log_p, _ = mixture_scores(parts, experts.weights, Gate("bayes"))
    whole = torch.logsumexp(parts.sum(1) + torch.tensor(experts.weights, dtype=torch.float64).log(), 0)
    assert float(log_p.sum()) == pytest.approx(float(whole), abs=1e-9)


def test_many_texts_count_by_their_tokens(recipe: str) -> None:
    experts = load_experts(parse_recipe(recipe), dtype="float32", device="cpu")
    words = experts.tokenizer.convert_ids_to_tokens(list(range(10, 30)))  # both experts read these
    rows = [score(experts, " ".join(words[:count])) for count in (3, 12)]
    both = together(rows)
    assert both.tokens == rows[0].tokens + rows[1].tokens
    assert both.log_likelihood == pytest.approx(sum(row.log_likelihood for row in rows))


def test_a_past_impossible_to_every_expert_leaves_the_weights_as_they_are() -> None:
    """Two tokens, each one expert's alone: with a stride of 2 both are read before weights are renewed."""
    never = -torch.inf
    parts = torch.tensor([[-1.0, never, -1.5, -2.0], [never, -0.5, -0.7, -3.0]], dtype=torch.float64)
    log_p, shares = mixture_scores(parts, (0.7, 0.3), Gate("bayes", stride=2))
    expected = torch.logsumexp(parts + torch.tensor([0.7, 0.3], dtype=torch.float64).log()[:, None], 0)
    assert torch.allclose(log_p, expected) and torch.allclose(shares.sum(0), torch.ones(4, dtype=torch.float64))
