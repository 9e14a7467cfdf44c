"""Experts that transformers quantises while it loads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modist.errors import UserError
from modist.mixture import MixtureForCausalLM
from modist.mixture.decode import Settings, generate
from modist.mixture.load import load_experts
from modist.recipe import Recipe, load_recipe
from tests.mixture.tiny_experts import saved, tiny
from tests.tiny_models import write_recipe

pytest.importorskip("bitsandbytes", reason="bitsandbytes, which quantises, is not installed")


@pytest.fixture(scope="module", params=[{"load_in_8bit": True}, {"load_in_4bit": True}], ids=["8bit", "4bit"])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    home = tmp_path_factory.mktemp("quantised")
    experts = [{"source_model": saved(home / name, tiny(seed))} for name, seed in (("one", 1), ("two", 2))]
    data = {"experts": experts, "weights": [0.75, 0.25], "model_kwargs": request.param}
    return load_recipe(write_recipe(home / "mix.yml", data))


def test_the_law_holds_for_quantised_experts(recipe: Recipe) -> None:
    experts = load_experts(recipe)
    assert all(getattr(model, "hf_quantizer", None) is not None for model in experts.models)
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        expected = torch.logsumexp(
            torch.stack([model(ids).logits.float().log_softmax(-1) for model in experts.models])
            + torch.tensor([0.75, 0.25]).log()[:, None, None, None],
            0,
        )
        mixed = MixtureForCausalLM.from_experts(experts)(ids).logits
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=0)


def test_quantised_experts_decode_and_are_not_copied(recipe: Recipe, tmp_path: Path) -> None:
    experts = load_experts(recipe)
    (answer,), ledger = generate(experts, ["word1 word2"], Settings(max_new_tokens=8, temperature=1.0))
    assert 1 <= len(answer.token_ids) <= 8 and ledger.tokens == len(answer.token_ids)
    with pytest.raises(UserError, match="quantised experts are not copied"):
        MixtureForCausalLM.from_experts(experts).save_pretrained(tmp_path / "out", materialise=True)
