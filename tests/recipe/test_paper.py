"""The paper's six configurations, read word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.recipe import load_recipe

PAPER = Path(__file__).parents[2] / "examples" / "paper"
NAME = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize("size", ["1.5B", "7B"])
class TestPaper:
    def ids(self, size: str) -> list[str]:
        return [f"Qwen/Qwen2.5-{size}-Instruct", f"Qwen/Qwen2.5-Math-{size}-Instruct"]

    def test_configuration_1_mod(self, size: str) -> None:
        recipe = load_recipe(PAPER / size / "mod.yml")
        assert recipe.method == "mod"
        assert [str(model) for model in recipe.models] == self.ids(size)
        assert str(recipe.donor) == self.ids(size)[0]
        sources = recipe.slices[0].sources
        assert [source.parameters["weight"].at(NAME, 0.5) for source in sources] == [0.9, 0.1]
        assert recipe.model_kwargs == {"device_map": "cuda", "low_cpu_mem_usage": True, "trust_remote_code": True}
        assert recipe.parameters == {} and recipe.dtype is None

    @pytest.mark.parametrize("name", ["linear", "dare", "ties", "task_arithmetic"])
    def test_configurations_2_to_5(self, size: str, name: str) -> None:
        recipe = load_recipe(PAPER / size / f"{name}.yml")
        assert recipe.method == {"dare": "dare_ties"}.get(name, name)
        assert [str(model) for model in recipe.models] == self.ids(size)
        assert (recipe.base is None) == (name == "linear")
        assert recipe.dtype == ("float16" if name == "linear" else "bfloat16")
        first, second = recipe.slices[0].sources
        assert second.parameters["weight"].at(NAME, 0.0) == 0.1
        assert ("weight" in first.parameters) == (name in ("linear", "task_arithmetic"))
        assert ("density" in second.parameters) == (name in ("dare", "ties"))
        expected = {"dare": ["int8_mask"], "ties": ["normalize"], "task_arithmetic": ["int8_mask", "normalize"]}
        assert sorted(recipe.parameters) == expected.get(name, [])

    def test_configuration_6_slerp(self, size: str) -> None:
        recipe = load_recipe(PAPER / size / "slerp.yml")
        (part,) = recipe.slices
        assert {source.layers for source in part.sources} == {(0, 28)}
        assert [case.filter for case in recipe.parameters["t"].cases] == ["self_attn", "mlp", None]
        assert recipe.parameters["t"].at(NAME, 0.3) == 0.1


def test_the_competition_entry() -> None:
    recipe = load_recipe(PAPER / "competition.yml")
    assert [str(model) for model in recipe.models] == [
        "berkeley-nest/Starling-LM-7B-alpha",
        "NousResearch/Hermes-2-Pro-Mistral-7B",
    ]
