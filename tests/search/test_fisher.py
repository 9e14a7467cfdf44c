"""The Fisher diagonal against every label's gradient, weighed by its probability, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import ModistError
from modist.merge.scaling import read_statistics
from modist.search.fisher import fisher_means
from modist.search.statistics_file import make_statistics
from tests.mixture.tiny_experts import saved, tiny

SEQUENCES = [[5, 9, 30, 7, 7], [12, 13, 2]]


def exact(model: Any, sequences: list[list[int]]) -> dict[str, float]:
    """Sum over positions and labels of p(y) (d log p(y) / d theta)^2, a token's mean, an element's mean."""
    model = model.double()
    sums = {name: 0.0 for name, _ in model.named_parameters()}
    for ids in sequences:
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        for position in range(len(ids)):
            for label in range(logs.shape[1]):
                one = logs[position, label]
                gradients = torch.autograd.grad(one, list(model.parameters()), retain_graph=True)
                for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
                    sums[name] += float(one.detach().exp() * gradient.square().mean())
    return {name: value / sum(map(len, sequences)) for name, value in sums.items()}


def test_many_draws_come_to_the_definition() -> None:
    """400 draws of 8 labels each: the labels' spread leaves some per cent, a wrong scale or labels of the data far more."""
    right = exact(tiny(1, vocab=40, layers=1), SEQUENCES)
    found = fisher_means(tiny(1, vocab=40, layers=1), SEQUENCES, seed=2, draws=400)
    assert found.keys() == right.keys()
    for name, value in found.items():
        assert value == pytest.approx(right[name], rel=0.15), name
    logs = [math.log(found[name] / right[name]) for name in right]
    assert abs(np.mean(logs)) < 0.05


def test_the_seed_decides_and_nothing_of_the_model_changes() -> None:
    model = tiny(1, vocab=40, layers=1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.get_input_embeddings().weight.requires_grad_(False)
    one, two, three = (fisher_means(model, SEQUENCES, seed=seed) for seed in (4, 4, 5))
    assert one == two != three
    assert not model.get_input_embeddings().weight.requires_grad and model.lm_head.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_a_tensor_on_which_nothing_hangs_has_none() -> None:
    model = tiny(1, vocab=40, layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    found = fisher_means(model, SEQUENCES)
    assert found["model.layers.0.self_attn.v_proj.weight"] == 0.0 < found["model.layers.0.self_attn.o_proj.weight"]


def test_tied_tensors_are_counted_once(tmp_path: Path) -> None:
    model = tiny(1, "qwen2-tied", vocab=40, layers=1)
    found = fisher_means(model, SEQUENCES)
    assert "lm_head.weight" not in found and found["model.embed_tokens.weight"] > 0
    folder = saved(tmp_path / "base", model)
    make_statistics(folder, tmp_path / "s.safetensors", kind="fisher", random_tokens=(2, 9), seed=1)
    values = read_statistics(tmp_path / "s.safetensors").values
    assert set(values) == set(found) and all(value.shape == () for value in values.values())


def test_a_damaged_model_is_named() -> None:
    model = tiny(1, vocab=40, layers=1)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("inf")
    with pytest.raises(ModistError, match="predictions are not finite"):
        fisher_means(model, SEQUENCES)
