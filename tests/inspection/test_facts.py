"""What one folder is, and the memory it needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.errors import CheckpointError, UserError
from modist.inspection import inspect_models, memory_of
from modist.inspection.kind import kind_of
from tests.checkpoint.hub_server import HubServer
from tests.tiny_models import Tensor, Trio, llama_config, llama_shapes, random_tensors


def test_stories(stories: Callable[[str], Path]) -> None:
    (model,) = inspect_models([stories("")]).models
    assert model.architecture == "LlamaForCausalLM" and model.parameters == 260_032
    assert model.parameters_by_kind == {"embeddings": 32_768, "attention": 61_440, "mlp": 165_120, "norms": 704}
    assert (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim) == (5, 64, 8, 4, 8)
    assert (model.vocabulary, model.tokens, model.context, model.tied) == (512, 512, 512, True)
    assert model.tokenizer == "BPE with byte fallback" and model.template is None and model.licence is None
    assert model.dtypes == {"F32": 260_032} and list(model.files) == ["model.safetensors"]
    assert model.memory.weights_bytes == 4 * 260_032
    assert model.memory.cache_bytes_per_token == 2 * 5 * 4 * 8 * 4
    assert model.memory.cache_bytes_full == 512 * 2 * 5 * 4 * 8 * 4


def test_one_model_is_described_without_reading_it(trio: Trio) -> None:
    found = inspect_models([trio.base])
    assert found.read_bytes == 0 and found.rms == () and found.comparison == ()
    assert len(found.models[0].files) == 2 and found.models[0].memory.total_bytes is not None
    read = inspect_models([trio.base], norms=True)
    assert [row.layer for row in read.rms] == [0, 1, 2, 3]
    assert read.rms[0].mlp == pytest.approx(0.5, rel=0.05)


def test_card_template_and_manifest(make: Callable[..., Path]) -> None:
    folder = make("model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    manifest: dict[str, Any] = {"versions": {"modist": "0.1.0"}, "method": "ties", "seed": 7, "parents": [{"name": "a"}]}
    (folder / "modist_manifest.json").write_text(json.dumps(manifest))
    (model,) = inspect_models([folder]).models
    assert model.licence == "apache-2.0" and model.template is not None and len(model.template) == 8
    assert model.made_by is not None
    assert (model.made_by.method, model.made_by.seed, model.made_by.parents) == ("ties", 7, ("a",))
    (folder / "modist_manifest.json").write_text('{"parents": 3, "versions": [], "seed": "x"}')
    (model,) = inspect_models([folder]).models
    assert model.made_by is not None and model.made_by.parents == () and model.made_by.seed is None


@pytest.mark.parametrize(
    ("changes", "per_token", "full"),
    [
        ({}, 4, 4 * 128),
        ({"sliding_window": 32}, 4, 4 * 32),
        ({"sliding_window": 32, "use_sliding_window": False}, 4, 4 * 128),
        ({"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 3}, 4, 3 * 128 + 32),
        ({"sliding_window": 32, "sliding_window_pattern": 2}, 4, 2 * 128 + 2 * 32),
        ({"sliding_window": 32, "model_type": "gemma2"}, 4, 2 * 128 + 2 * 32),
        ({"sliding_window": 32, "layer_types": ["full_attention", *["sliding_attention"] * 3]}, 4, 128 + 3 * 32),
        ({"layer_types": ["full_attention", *["linear_attention"] * 3]}, 1, 128),
        ({"sliding_window": 4096}, 4, 4 * 128),
        ({"sliding_window": None}, 4, 4 * 128),
    ],
)
def test_sliding_windows(changes: dict[str, Any], per_token: int, full: int, tmp_path: Path, make: Callable[..., Path]) -> None:
    """Counted in layers: one layer keeps 2 * 1 head * 16 * 2 bytes a token."""
    folder = make("model")
    config = {**llama_config(random_tensors(llama_shapes(), 0)), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    memory = memory_of(Checkpoint.open(folder))
    assert memory.cache_bytes_per_token == 64 * per_token
    assert memory.cache_bytes_full == 64 * full


def test_a_stored_head_that_the_config_ties_takes_no_memory(make: Callable[..., Path]) -> None:
    folder = make("model")
    config = json.loads((folder / "config.json").read_text())
    whole = memory_of(Checkpoint.open(folder)).weights_bytes
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    memory = memory_of(Checkpoint.open(folder))
    assert whole - memory.weights_bytes == 96 * 32 * 2
    assert any("ties it" in text for text in memory.assumptions)


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "many", "hidden_size": -1, "num_attention_heads": True}])
def test_a_config_that_says_nothing(config: dict[str, Any], make: Callable[..., Path]) -> None:
    folder = make("model")
    (folder / "config.json").write_text(json.dumps(config))
    (model,) = inspect_models([folder]).models
    assert model.layers == 4 and model.hidden is None and model.memory.cache_bytes_per_token is None
    json.dumps(inspect_models([folder]).as_dict(), allow_nan=False)


def test_quantised(make: Callable[..., Path]) -> None:
    folder = make("model", {"model.layers.0.mlp.up_proj.qweight": Tensor("U8", np.zeros((4, 4), np.uint8))})
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    (model,) = inspect_models([folder]).models
    assert model.quantisation == "gptq, 4 bits" and "quantised" in " ".join(model.memory.assumptions)


@pytest.mark.parametrize("text", ["", "[]", '{"model": 3}', '{"model": {"type": 5, "vocab": 7}}', "{"])
def test_a_damaged_tokenizer_is_no_obstacle(text: str, make: Callable[..., Path]) -> None:
    folder = make("model")
    (folder / "tokenizer.json").write_text(text)
    assert inspect_models([folder]).models[0].tokens is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "norms"),
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("h.0.ln_1.bias", "norms"),
        ("model.layers.0.self_attn.q_proj.bias", "attention"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "mlp"),
        ("model.layers.0.block_sparse_moe.gate.weight", "mlp"),
        ("model.layers.0.mixer.A_log", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_what_cannot_be_inspected(trio: Trio, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such/folder: there is no such folder"):
        inspect_models([trio.base, "./no/such/folder"])
    with pytest.raises(UserError, match="named twice"):
        inspect_models([trio.base, trio.base.parent / "." / "base"])
    with pytest.raises(UserError, match="at least one"):
        inspect_models([])
    with pytest.raises(UserError):
        inspect_models([""])
    (tmp_path / "empty").mkdir()
    with pytest.raises((UserError, CheckpointError)):
        inspect_models([tmp_path / "empty"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trio: Trio) -> Iterator[HubServer]:
    import huggingface_hub.constants as constants

    for variable in ("HF_TOKEN", "HF_AUTH_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for folder in (trio.base, trio.one):
            server.add(f"tiny/{folder.name}", {path.name: path.read_bytes() for path in folder.iterdir()})
        yield server


def test_a_model_of_a_hub_is_described_by_its_headers(hub: HubServer, trio: Trio, tmp_path: Path) -> None:
    (model,) = inspect_models(["tiny/base"]).models
    (local,) = inspect_models([trio.base]).models
    assert not model.here and model.commit is not None and model.name == "tiny/base"
    assert (model.parameters_by_kind, model.memory, model.dtypes) == (local.parameters_by_kind, local.memory, local.dtypes)
    assert list(model.files) == list(local.files)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_models_of_a_hub_are_downloaded_to_be_compared(hub: HubServer, trio: Trio) -> None:
    found = inspect_models(["tiny/base", trio.one])
    assert [model.name for model in found.models] == ["tiny/base", "one"]
    assert found.models[0].here and found.models[0].commit is not None
    assert found.deltas[0].relative == inspect_models([trio.base, trio.one]).deltas[0].relative
