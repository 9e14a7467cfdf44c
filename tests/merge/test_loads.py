"""A merged folder is an ordinary checkpoint: transformers loads it, tied heads stay tied, and it generates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from modist.merge import merge
from tests.tiny_models import FAMILIES, Trio, add_tokenizer, read_folder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 40_000])
def test_loads_and_generates(family: str, shard_bytes: int, family_trio: Callable[..., Trio], tmp_path: Path) -> None:
    trio = family_trio(family)
    recipe = tmp_path / "r.yml"
    models = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in (trio.one, trio.two)]
    recipe.write_text(yaml.safe_dump({"merge_method": "ties", "base_model": str(trio.base), "models": models}))
    out = tmp_path / "out"
    merge(recipe, out, shard_bytes=shard_bytes)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_bytes < 1_000_000)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state = model.state_dict()
    for name, tensor in read_folder(out).items():
        assert torch.equal(state[name].double().reshape(-1), torch.from_numpy(tensor.float64.reshape(-1))), name
    tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert tied == bool(model.config.get_text_config().tie_word_embeddings)
    produced = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    assert produced.shape[1] <= 7


def test_tokenizer_template_and_generation_config_are_carried(family_trio: Callable[..., Trio], tmp_path: Path) -> None:
    import shutil

    trio = family_trio("qwen2-tied")
    base = Path(shutil.copytree(trio.base, tmp_path / "base"))
    add_tokenizer(base)
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    (base / "notes.txt").write_text("not part of a model")
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "merge_method": "task_arithmetic",
                "base_model": str(base),
                "models": [{"model": str(trio.one), "parameters": {"weight": 1}}],
            }
        )
    )
    out = tmp_path / "out"
    merge(recipe, out)
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not (out / "notes.txt").exists()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == [3, 5]
    assert "_name_or_path" not in json.loads((out / "config.json").read_text())
