"""Stacked models of six families in transformers: they load whole, and are the layers they say, with a cache and without."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.tiny_models import LAYERS, write_recipe

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "max_position_embeddings": 128, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
# The window is shorter than what is generated, so that a layer of the wrong nature gives other tokens.
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "qwen3": lambda: transformers.Qwen3Config(
        **SIZES, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=2, tie_word_embeddings=True
    ),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=4, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
    ),
}  # fmt: skip
RANGES = [(0, 0, 3), (1, 1, 4), (0, 3, 4)]
ORDER = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (0, 3)]
PROMPT = [[3, 14, 15, 9, 26, 5, 35, 8]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    made: dict[str, tuple[Path, Path]] = {}

    def give(family: str) -> tuple[Path, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            for seed, name in enumerate(("one", "two")):
                torch.manual_seed(seed)
                transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).save_pretrained(folder / name)
            made[family] = folder / "one", folder / "two"
        return made[family]

    return give


def stacked(folders: tuple[Path, Path], out: Path) -> Path:
    from modist.merge import merge

    slices = [{"sources": [{"model": folders[which], "layer_range": [first, stop]}]} for which, first, stop in RANGES]
    merge(write_recipe(out.with_suffix(".yml"), {"merge_method": "passthrough", "slices": slices}), out)
    return out


def load(folder: Path) -> Any:
    model, loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(loaded.values()), loaded
    return model.eval()


def by_hand(folders: tuple[Path, Path]) -> Any:
    """The stack by moving modules about in transformers, which never sees modist's config."""
    parents = [load(folder) for folder in folders]
    model = parents[0]
    text = model.model
    layers, types = [], []
    for number, (which, old) in enumerate(ORDER):
        layer = copy.deepcopy(parents[which].model.layers[old])
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
        layers.append(layer)
        types.append((getattr(model.config, "layer_types", None) or ["full_attention"] * LAYERS)[old])
    text.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = types
    text.norm = parents[0].model.norm
    return model


def written(model: Any, *, cache: bool) -> list[int]:
    with torch.no_grad():
        ids = model.generate(torch.tensor(PROMPT), max_new_tokens=16, do_sample=False, use_cache=cache, eos_token_id=None)
    return [int(token) for token in ids[0]]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_stack_loads_and_generates(family: str, pair: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    folders = pair(family)
    model, reference = load(stacked(folders, tmp_path / "out")), by_hand(folders)
    assert len(model.model.layers) == len(ORDER)
    indices = [module.layer_idx for module in model.modules() if hasattr(module, "layer_idx")]
    assert sorted(set(indices)) == list(range(len(ORDER)))
    with torch.no_grad():
        wanted, found = (one(torch.tensor(PROMPT), use_cache=False).logits for one in (reference, model))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    with_cache = written(model, cache=True)
    assert with_cache == written(model, cache=False) == written(reference, cache=False)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3"])
def test_natures_left_to_a_rule_are_written_out(family: str, pair: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """Configs from before `layer_types` go by the layer's number, which a stack changes."""
    folders = pair(family)
    old = []
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        types = config.pop("layer_types")
        if family == "gemma3":
            config["sliding_window_pattern"] = 3
            types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        old.append(types)
        place = tmp_path / folder.name
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        (place / "model.safetensors").symlink_to(folder / "model.safetensors")
    out = stacked((tmp_path / "one", tmp_path / "two"), tmp_path / "out")
    wanted = [old[which][layer] for which, layer in ORDER]
    assert json.loads((out / "config.json").read_text())["layer_types"] == wanted
    assert load(out).config.layer_types == wanted


@pytest.mark.full
def test_the_language_model_of_one_that_sees_is_stacked(tmp_path: Path) -> None:
    """Gemma 3 as it is published: a vision tower beside the layers, configs within the config."""
    from modist.merge import merge

    text = CONFIGS["gemma3"]().to_dict()
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60)
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "one")
    parts = [{"sources": [{"model": tmp_path / "one", "layer_range": list(layers)}]} for layers in ((0, 3), (1, 4))]
    merge(write_recipe(tmp_path / "r.yml", {"merge_method": "passthrough", "slices": parts}), tmp_path / "out")
    made, loaded = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loaded.values()), loaded
    inner = made.config.text_config
    assert (inner.num_hidden_layers, made.config.vision_config.num_hidden_layers) == (6, 2)
    assert inner.layer_types == [text["layer_types"][layer] for layer in (0, 1, 2, 1, 2, 3)]
    assert written(made.eval(), cache=True) == written(made, cache=False)
