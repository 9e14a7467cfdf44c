"""Adapters beside PEFT: what it makes of one is what is merged, and what is merged it loads and generates with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import read_folder, read_safetensors, write_recipe

peft = pytest.importorskip("peft", reason="peft is not installed (it comes with the extra dev)")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Merge = Callable[..., Path]
PROMPT = [[3, 14, 15, 9, 26, 5, 35, 8]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "base"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
        max_position_embeddings=128, initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def trained(base: Path, folder: Path, seed: int, **config: Any) -> Path:
    """An adapter as PEFT writes it, its factors drawn instead of trained."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(load(base), peft.LoraConfig(**{**settings, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path, out: Path) -> Path:
    peft.PeftModel.from_pretrained(load(base), adapter).merge_and_unload().save_pretrained(out)
    return out


def written(model: Any) -> list[int]:
    with torch.no_grad():
        ids = model.generate(
            input_ids=torch.tensor(PROMPT), attention_mask=torch.ones(1, len(PROMPT[0]), dtype=torch.long), max_new_tokens=12,
            do_sample=False,
        )  # fmt: skip
    return [int(token) for token in ids[0]]


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 9},
    "every linear module": {"target_modules": "all-linear"},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.2.mlp.down_proj": 7}, "alpha_pattern": {r"layers\.[01]\.self_attn\.q_proj": 3}
    },
    "some layers": {"layers_to_transform": [0, 2]},
    "saved whole": {"modules_to_save": ["norm", "lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_reading_base_and_adapter_is_pefts_merge(base: Path, tmp_path: Path, merge: Merge, kind: str) -> None:
    adapter = trained(base, tmp_path / "lora", 1, **KINDS[kind])
    theirs = read_folder(merged_by_peft(base, adapter, tmp_path / "theirs"))
    out = merge({"merge_method": "passthrough", "models": [{"model": f"{base}+{adapter}"}]})
    ours = read_folder(out)
    assert ours.keys() == theirs.keys()
    changed = 0
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.float64, theirs[name].float64, rtol=0, atol=4e-6)
        changed += not np.array_equal(tensor.bits, read_folder(base)[name].bits)
    assert changed
    wanted = peft.PeftModel.from_pretrained(load(base), adapter)
    assert written(load(out)) == written(wanted)


@pytest.mark.parametrize("rank", [None, 3])
def test_a_merged_adapter_loads_and_generates(base: Path, tmp_path: Path, merge: Merge, rank: int | None) -> None:
    one = trained(base, tmp_path / "one", 1, rank_pattern={"layers.1.mlp.down_proj": 6})
    two = trained(base, tmp_path / "two", 2, r=3, target_modules=["q_proj", "o_proj", "embed_tokens"], use_rslora=True)
    models = [{"model": one, "parameters": {"weight": 0.7}}, {"model": two, "parameters": {"weight": 0.4}}]
    recipe = {"merge_method": "task_arithmetic", "models": models} | ({"rank": rank} if rank else {})
    out = merge(recipe, "adapter")
    model = peft.PeftModel.from_pretrained(load(base), out)
    stored = read_safetensors(out / "adapter_model.safetensors")
    held = {name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name}
    assert held.keys() == {name for name in stored if "lora_" in name}
    for name, value in held.items():
        np.testing.assert_array_equal(value.numpy(), stored[name].bits)
    # On its base it is the weighted sum of the two, by PEFT's own arithmetic.
    ours = read_folder(merged_by_peft(base, out, tmp_path / "merged"))
    parts = [read_folder(merged_by_peft(base, adapter, tmp_path / f"m{adapter.name}")) for adapter in (one, two)]
    start = read_folder(base)
    for name, tensor in ours.items():
        deltas = [part[name].float64 - start[name].float64 for part in parts]
        exact = 0.7 * deltas[0] + 0.4 * deltas[1]
        lost = np.linalg.norm(np.linalg.svd(exact)[1][rank:]) if rank and exact.ndim == 2 else 0.0
        assert np.linalg.norm(tensor.float64 - start[name].float64 - exact) <= lost * (1 + 1e-4) + 1e-4, name
    both = [{"model": f"{base}+{entry['model']}", "parameters": entry["parameters"]} for entry in models]
    if rank is None:
        whole = merge({"merge_method": "task_arithmetic", "base_model": base, "models": both}, "whole")
        assert written(model) == written(load(whole))
    assert len(written(model)) > len(PROMPT[0])


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "biases in the factors"),
        ({"init_lora_weights": "pissa"}, "changed its base"),
        ({"init_lora_weights": "olora"}, "changed its base"),
        ({"trainable_token_indices": [3, 5]}, "single tokens"),
    ],
)
def test_what_peft_writes_of_other_kinds_is_refused(
    base: Path, tmp_path: Path, command: Callable[..., Any], config: dict[str, Any], word: str
) -> None:
    adapter = trained(base, tmp_path / "lora", 1, **config)
    done = command({"merge_method": "passthrough", "models": [{"model": f"{base}+{adapter}"}]})
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_library_of_types(base: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    model = peft.get_peft_model(load(base), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    model.save_pretrained(tmp_path / "ia3")
    assert json.loads((tmp_path / "ia3" / "adapter_config.json").read_text())["peft_type"] == "IA3"
    path = write_recipe(
        tmp_path / "r.yml", {"merge_method": "passthrough", "models": [{"model": f"{base}+{tmp_path / 'ia3'}"}]}
    )
    done = command(path)
    assert done.returncode == 2 and "of the type 'IA3'" in done.stderr
