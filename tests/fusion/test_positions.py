"""Picked logits are the full ones, whatever an architecture does to its logits; the gradient too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modist.fusion.positions import picked_positions

torch.set_num_threads(1)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}


def models() -> dict[str, Any]:
    import transformers as t

    return {
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SIZES, tie_word_embeddings=True)),
        # A soft cap on the logits, and a scale.
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0)),
        "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**SIZES, logit_scale=0.25)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=64)),
    }


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "cohere", "gpt2"])
def test_picked_is_full_at_those_positions(family: str) -> None:
    torch.manual_seed(0)
    model = models()[family]().eval()
    ids = torch.randint(64, (3, 11), generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([4, 5, 13, 32])
    whole = model(input_ids=ids).logits.reshape(-1, 64)[wanted]
    whole.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    with picked_positions(model) as picked:
        found = picked.logits(model, wanted, input_ids=ids)
        assert found.shape == (4, 64)
        torch.testing.assert_close(found, whole)
        found.square().sum().backward()
        # Between two such calls the model is itself.
        assert model(input_ids=ids).logits.shape == (3, 11, 64)
    for one, two in zip(gradients, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_head_of_its_own() -> None:
    model = models()["qwen2"]().eval()
    ids = torch.arange(10)[None]
    wanted = torch.tensor([2, 7])
    whole = model(input_ids=ids).logits[0, wanted]
    model.get_output_embeddings = lambda: None
    with picked_positions(model) as picked:
        torch.testing.assert_close(picked.logits(model, wanted, input_ids=ids), whole)
