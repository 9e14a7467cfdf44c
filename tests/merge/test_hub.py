"""What a recipe may name on a hub beside a model: `org/model@revision+org/adapter@revision`, and a tokenizer of another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import HubError, UserError
from modist.merge import merge as merge_models
from modist.merge import prepare
from tests.adapters import Lora, every, make_lora
from tests.checkpoint.hub_server import HubServer, commit_of
from tests.merge.test_tokenizers import WORDS
from tests.merge.test_tokenizers import model as vocabulary_model
from tests.tiny_models import Trio, read_folder, write_recipe
from tests.vocabulary.tiny_tokenizers import words


@pytest.fixture
def loras(llama32: Trio, tmp_path: Path) -> tuple[Lora, Lora]:
    modules = every("mlp.up_proj")
    return make_lora(tmp_path / "old", llama32.base, modules, seed=1), make_lora(
        tmp_path / "new", llama32.base, modules, seed=2
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llama32: Trio, loras: tuple[Lora, Lora]) -> Iterator[HubServer]:
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
        server.add("tiny/base", files(llama32.base))
        old, new = (
            files(loras[0].folder),
            files(loras[1].folder) | {"evil.py": b"raise SystemExit", "sub/adapter_model.bin": b"x"},
        )
        repo = server.add("tiny/lora", new)
        repo.commits[commit_of(old)] = old
        repo.tags["v1"] = commit_of(old)
        yield server


def recipe(model: str) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": model}]}


@pytest.mark.parametrize(("revision", "which"), [("", 1), ("@main", 1), ("@v1", 0)])
def test_an_adapter_of_a_hub(
    hub: HubServer, llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path, revision: str, which: int
) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe(f"tiny/base+tiny/lora{revision}"))
    merge_models(path, tmp_path / "out")
    base, made = read_folder(llama32.base), read_folder(tmp_path / "out")
    for name, tensor in made.items():
        exact = base[name].float64 + loras[which].deltas.get(name, 0.0)
        np.testing.assert_allclose(tensor.float64, exact, atol=2e-6)
    (entry,) = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())["inputs"]
    wanted = hub.repos["tiny/lora"]
    assert entry["adapter"]["commit"] == (wanted.refs["main"] if which else wanted.tags["v1"])
    assert entry["commit"] == hub.repos["tiny/base"].refs["main"]
    fetched = {name for name in hub.gets() if name in ("evil.py", "sub/adapter_model.bin")}
    assert not fetched


def test_a_plan_fetches_the_small_adapter_and_not_the_model(hub: HubServer, tmp_path: Path) -> None:
    prepared = prepare(write_recipe(tmp_path / "r.yml", recipe("tiny/base+tiny/lora")))
    assert prepared.models.download_bytes > 0
    assert [path.name for path in (tmp_path / "cache").rglob("*.safetensors")] == ["adapter_model.safetensors"]


def test_a_folder_on_a_hubs_model_and_the_reverse(
    hub: HubServer, llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path
) -> None:
    outs = []
    for number, model in enumerate((f"tiny/base+{loras[1].folder}", f"{llama32.base}+tiny/lora")):
        out = tmp_path / f"out{number}"
        merge_models(write_recipe(tmp_path / f"{number}.yml", recipe(model)), out)
        outs.append(read_folder(out))
    assert all(np.array_equal(outs[0][name].bits, outs[1][name].bits) for name in outs[0])


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("tiny/base+tiny/nothing", UserError, "tiny/nothing"),
        ("tiny/base+tiny/lora@v7", UserError, "v7"),
        ("tiny/base+tiny/base", HubError, "tiny/base holds no adapter: adapter_config.json is missing"),
    ],
)
def test_what_a_hub_has_not(hub: HubServer, tmp_path: Path, model: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        merge_models(write_recipe(tmp_path / "r.yml", recipe(model)), tmp_path / "out")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pinned", [True, False])
def test_offline_from_the_cache(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool) -> None:
    import huggingface_hub.constants as constants

    revision = f"@{hub.repos['tiny/base'].refs['main']}" if pinned else ""
    path = write_recipe(tmp_path / "r.yml", recipe(f"tiny/base{revision}+tiny/lora"))
    merge_models(path, tmp_path / "one")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = sum(hub.asked.values())
    merge_models(path, tmp_path / "two")
    assert sum(hub.asked.values()) == asked
    one, two = read_folder(tmp_path / "one"), read_folder(tmp_path / "two")
    assert all(np.array_equal(one[name].bits, two[name].bits) for name in one)


def test_a_hubs_gguf_files_name_the_way_out(hub: HubServer, tmp_path: Path) -> None:
    hub.add("tiny/gguf", {"config.json": b"{}", "q4.gguf": b"GGUF"})
    with pytest.raises(HubError, match=r"holds GGUF files, which are quantised: name the model they were made from"):
        merge_models(write_recipe(tmp_path / "r.yml", recipe("tiny/gguf")), tmp_path / "out")


def test_a_tokenizer_of_a_hub_outside_the_merge(hub: HubServer, tmp_path: Path) -> None:
    """The same tensors and the same tokenizer as from a folder, and none of that model's weights fetched."""
    pair = [vocabulary_model(tmp_path / name, words(WORDS[::step]), step + 5) for name, step in (("one", 1), ("two", -1))]
    third = vocabulary_model(tmp_path / "third", words([*WORDS[3:9], "new"]), 7)
    hub.add("tiny/words", files(third))
    made = []
    for number, source in enumerate((str(third), "tiny/words")):
        recipe = {
            "merge_method": "linear",
            "models": [{"model": str(path), "parameters": {"weight": 0.5}} for path in pair],
            "tokenizer_source": source,
        }
        out = tmp_path / f"out{number}"
        merge_models(write_recipe(tmp_path / f"{number}.yml", recipe), out)
        made.append({name: (out / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "config.json")})
    assert made[0] == made[1]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
