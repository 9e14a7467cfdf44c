"""From a recipe to living experts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modist.errors import CheckpointError, RecipeError, UserError
from modist.mixture.load import assemble, load_experts
from modist.mixture.placement import choose_device
from modist.mixture.sharing import held_bytes, share_equal_tensors
from modist.mixture.weights import check_weights
from modist.recipe import Recipe, load_recipe
from tests.mixture.tiny_experts import saved, tiny
from tests.tiny_models import add_tokenizer, write_recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("experts")
    return saved(home / "one", tiny(1)), saved(home / "two", tiny(2))


def recipe_of(tmp_path: Path, *experts: Path, weights: list[float] | None = None, **more: Any) -> Recipe:
    listed = [{"source_model": expert} for expert in experts]
    given = weights or [0.75, 0.25]
    return load_recipe(write_recipe(tmp_path / "mix.yml", {"experts": listed, "weights": given, **more}))


def test_configuration_1_is_loaded(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    recipe = recipe_of(tmp_path, *folders, base_model=folders[1], model_kwargs=[{"low_cpu_mem_usage": True}])
    experts = load_experts(recipe)
    assert experts.names == ("one", "two") and experts.weights == (0.75, 0.25)
    assert experts.references == tuple(str(folder.resolve()) for folder in folders)
    assert experts.base == folders[1].resolve() and experts.tokenizer.get_vocab()["word0"] == 4
    assert experts.stop_ids == {2} and experts.context == 128 and len(experts) == 2
    assert experts.vocabulary.whole and experts.vocabulary.compared == (True, True)
    assert not any(model.training for model in experts.models)
    torch.testing.assert_close(experts.log_weights.exp(), torch.tensor([0.75, 0.25], dtype=torch.float64))
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(experts.models[0](ids).logits, tiny(1)(ids).logits)


def test_a_device_that_is_not_here_is_said_once(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has an accelerator")
    said: list[str] = []
    experts = load_experts(recipe_of(tmp_path, *folders, model_kwargs={"device_map": "cuda"}), say=said.append)
    assert said == ["there is no cuda here; using cpu"] == list(experts.notes)
    assert all(model.device.type == "cpu" for model in experts.models)
    assert choose_device("cuda:3", said.append) == choose_device("mps", said.append) == choose_device("cpu", print) == "cpu"


def test_dtype_for_all_and_for_each(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    kinds = [
        model.dtype for model in load_experts(recipe_of(tmp_path, *folders, model_kwargs={"torch_dtype": "bfloat16"})).models
    ]
    assert kinds == [torch.bfloat16] * 2
    each = recipe_of(tmp_path, *folders, model_kwargs={"dtype": ["float64", "torch.float16"], "device_map": ["cpu", "auto"]})
    assert [model.dtype for model in load_experts(each).models] == [torch.float64, torch.float16]
    assert [model.dtype for model in load_experts(each, dtype="float32").models] == [torch.float32] * 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"devicemap": "cpu"}, "unknown key 'devicemap'; did you mean 'device_map'"),
        ({"dtype": ["float32"] * 3}, "3 entries of dtype for 2 experts"),
        ({"dtype": "float8"}, "no dtype 'float8'"),
        ({"attn_implementation": "someone/kernel"}, "code on a hub"),
    ],
)
def test_wrong_model_kwargs_are_refused(
    tmp_path: Path, folders: tuple[Path, Path], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        load_experts(recipe_of(tmp_path, *folders, model_kwargs=kwargs))
    assert "\n" not in str(raised.value)


def test_an_adapter_is_not_dropped_in_silence(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    (tmp_path / "lora").mkdir()
    experts = [{"source_model": str(folders[0])}, {"source_model": f"{folders[1]}+{tmp_path / 'lora'}"}]
    recipe = load_recipe(write_recipe(tmp_path / "mix.yml", {"experts": experts, "weights": [0.5, 0.5]}))
    with pytest.raises(UserError, match="adapters cannot be run; merge it into its model first"):
        load_experts(recipe)


def test_a_recipe_cannot_ask_for_code(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    home = saved(tmp_path / "coded", tiny(3))
    (home / "config.json").write_text((home / "config.json").read_text().replace('"llama"', '"coded"'))
    (home / "config.json").write_text(
        (home / "config.json").read_text().replace("{", '{"auto_map": {"AutoConfig": "code.Config"},', 1)
    )
    (home / "code.py").write_text("raise SystemExit('this ran')")
    said: list[str] = []
    with pytest.raises(CheckpointError, match="expert coded could not be loaded"):
        load_experts(recipe_of(tmp_path, folders[0], home, model_kwargs={"trust_remote_code": True}), say=said.append)
    assert "not obeyed" in said[0]
    # Where transformers has code of its own for the kind of model, that is what runs.
    config = (home / "config.json").read_text().replace('"coded"', '"llama"').replace("AutoConfig", "AutoModelForCausalLM")
    (home / "config.json").write_text(config)
    loaded = load_experts(recipe_of(tmp_path, folders[0], home, model_kwargs={"trust_remote_code": True}), say=said.append)
    assert type(loaded.models[1]).__module__.startswith("transformers.")


def test_a_merge_is_no_mixture(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    models = [{"model": folder, "parameters": {"weight": 0.5}} for folder in folders]
    recipe = load_recipe(write_recipe(tmp_path / "m.yml", {"merge_method": "linear", "models": models}))
    with pytest.raises(RecipeError, match="needs 'experts' and 'weights'"):
        load_experts(recipe)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "sum to 1.1; they must sum to 1"),
        ([1.5, -0.5], "not between 0 and 1"),
        ([math.nan, 0.5], "nan among the weights"),
        ([1.0], "1 weights for 2 experts"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, folders: tuple[Path, Path], weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_weights(weights, 2)
    with pytest.raises(RecipeError):
        recipe_of(tmp_path, *folders, weights=weights)
    assert check_weights([0.333333, 0.333333, 0.333334], 3)
    with pytest.raises(UserError, match="at least one"):
        check_weights([], 0)


def test_a_missing_or_damaged_expert_is_named(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError, match="there is no folder"):
        recipe_of(tmp_path, folders[0], tmp_path / "gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty.*no config\.json"):
        load_experts(recipe_of(tmp_path, folders[0], empty))
    lacking = saved(tmp_path / "lacking", tiny(3))
    tensors = load_file(lacking / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    # transformers would draw it at random and go on.
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, such as 'model\.layers\.1\.mlp\.up_proj"):
        load_experts(recipe_of(tmp_path, folders[0], lacking))
    (lacking / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(CheckpointError, match="expert lacking could not be loaded") as raised:
        load_experts(recipe_of(tmp_path, folders[0], lacking))
    assert "\n" not in str(raised.value)


def test_different_tokenizers_are_refused_before_anything_is_loaded(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = saved(tmp_path / "other", tiny(3), words=[f"v{number}" for number in range(156)])
    monkeypatch.setattr("modist.mixture.load.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r"one \(160 tokens\) and other \(160 tokens\) have different tokenizers.*modist fuse"):
        load_experts(recipe_of(tmp_path, folders[0], other))


def test_a_quantised_expert_without_its_library(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    pytest.importorskip("accelerate")
    try:
        import bitsandbytes  # noqa: F401

        pytest.skip("bitsandbytes is here")
    except ImportError:
        pass
    with pytest.raises(UserError, match=r"expert one needs a package that is not here: .*bitsandbytes"):
        load_experts(recipe_of(tmp_path, *folders, model_kwargs={"load_in_4bit": True}))


def test_equal_tensors_are_held_once(tmp_path: Path) -> None:
    one = tiny(1, "qwen2-tied")
    two = tiny(2, "qwen2-tied")
    with torch.no_grad():
        two.model.embed_tokens.weight.copy_(one.model.embed_tokens.weight)
        two.model.layers[0].mlp.up_proj.weight.copy_(one.model.layers[0].mlp.up_proj.weight)
    ids = torch.tensor([[1, 5, 9]])
    before, size = two(ids).logits, held_bytes([one, two])
    saved_bytes = share_equal_tensors([one, two])
    # The norms are all ones in both; biases all zeros.
    assert saved_bytes >= 4 * (160 * 64 + 64 * 96)
    assert held_bytes([one, two]) == size - saved_bytes
    assert two.lm_head.weight is two.model.embed_tokens.weight is one.model.embed_tokens.weight
    assert torch.equal(two(ids).logits, before)
    assert share_equal_tensors([one, two]) == 0
    assert share_equal_tensors([tiny(1), tiny(1, dtype=torch.float64)]) == 0  # not the same bytes


def test_live_models_are_assembled(tmp_path: Path) -> None:
    experts = assemble([tiny(1), tiny(2)], [0.5, 0.5])
    assert experts.names == ("expert 0", "expert 1") and experts.tokenizer is None
    assert experts.vocabulary.compared == (False, False)
    with pytest.raises(UserError, match="sum to"):
        assemble([tiny(1), tiny(2)], [0.5, 0.4])


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    parts = [saved(tmp_path / place / "model", tiny(seed)) for place, seed in (("a", 1), ("b", 2))]
    experts = load_experts(recipe_of(tmp_path, *parts))
    assert len(set(experts.names)) == 2
    assert add_tokenizer(parts[0])
