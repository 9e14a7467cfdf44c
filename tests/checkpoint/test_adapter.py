"""Adapter folders that are damaged, of another kind, or of another base: one line each, and nothing is written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.checkpoint.adapter import Adapter, adapt
from modist.errors import CheckpointError, ModistError, UserError
from tests.adapters import PREFIX, Lora, every, make_lora
from tests.tiny_models import Trio, encode, plain_trio, read_folder, read_safetensors, write_recipe, write_safetensors

MODULES = every("self_attn.q_proj")
NAME = f"{PREFIX}{MODULES[0]}"


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return plain_trio(tmp_path_factory.mktemp("trio"))


@pytest.fixture
def lora(trio: Trio, tmp_path: Path) -> Lora:
    return make_lora(tmp_path / "lora", trio.base, MODULES)


def configure(lora: Lora, **changes: Any) -> None:
    path = lora.folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(lora: Lora, **changes: Any) -> None:
    """The weight file with tensors replaced, added or (None) taken away."""
    path = lora.folder / "adapter_model.safetensors"
    tensors = {**read_safetensors(path), **changes}
    write_safetensors(path, {name: tensor for name, tensor in tensors.items() if tensor is not None})


def fails(lora: Lora, kind: type[ModistError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        Adapter.open(lora.folder, "lora")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"lora_bias": True}, "biases in the factors"),
        ({"bias": "all"}, "trained biases too (bias: 'all')"),
        ({"bias": "lora_only"}, "trained biases too"),
        ({"peft_type": "IA3"}, "of the type 'IA3'"),
        ({"peft_type": None}, "of the type None"),
        ({"peft_type": ["LORA"]}, "of the type ['LORA']"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changed its base"),
        ({"init_lora_weights": "OLoRA"}, "changed its base"),
        ({"init_lora_weights": "loftq"}, "changed its base"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer replication"),
        ({"target_parameters": ["experts.w"]}, "bare parameters"),
        ({"trainable_token_indices": [1]}, "single tokens"),
        ({"alora_invocation_tokens": [5]}, "activated LoRA"),
    ],
)
def test_kinds_that_cannot_be_added_name_the_way_out(lora: Lora, changes: dict[str, Any], words: str) -> None:
    configure(lora, **changes)
    fails(lora, UserError, "lora: ", words, "merge_and_unload()")


@pytest.mark.parametrize(
    "changes", [{"init_lora_weights": "gaussian"}, {"init_lora_weights": True}, {"init_lora_weights": "eva"}, {"bias": "none"}]
)
def test_starts_that_leave_the_base_alone_are_none_of_these(lora: Lora, changes: dict[str, Any]) -> None:
    configure(lora, **changes)
    assert len(Adapter.open(lora.folder).updates) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": "four"}, "r is 'four', not a number"),
        ({"r": None}, "r is None, not a number"),
        ({"r": True}, "r is True, not a number"),
        ({"r": 0}, "r is 0, not a rank"),
        ({"r": -4}, "r is -4, not a rank"),
        ({"r": 2.5}, "r is 2.5, not a rank"),
        ({"r": 10**12}, "not a rank"),
        ({"r": 1 << 20}, "factors of rank 4, adapter_config.json says 1.04858e+06"),
        ({"r": 5}, "factors of rank 4, adapter_config.json says 5"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', not a number"),
        ({"lora_alpha": [8]}, "lora_alpha is [8], not a number"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf, not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, not a number"),
        ({"rank_pattern": [4]}, "rank_pattern is [4], not a mapping"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern['q_proj'] is '4', not a number"),
        ({"rank_pattern": {"(q_proj": 4}}, "'(q_proj', which is no pattern"),
        ({"rank_pattern": {"(m+)+z": 4}}, "'(m+)+z', which is no pattern that is matched here"),
        ({"alpha_pattern": {".*.*.*.*.*.*z": 4}}, "which is no pattern"),
        ({"alpha_pattern": {"x" * 501: 4}}, "which is no pattern"),
        ({"rank_pattern": {"q_proj": 3}}, "adapter_config.json says 3"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern['q_proj'] is None"),
        ({"alpha_pattern": "x"}, "alpha_pattern is 'x'"),
        ({"modules_to_save": "norm"}, "holds"),
    ],
)
def test_configs_of_bad_types(lora: Lora, changes: dict[str, Any], words: str) -> None:
    configure(lora, **changes)
    if "modules_to_save" in changes:
        rewrite(lora, **{f"{PREFIX}model.norm.weight": encode(np.ones(32), "F32")})
        words = "modules_to_save is 'norm', not a list of names"
    fails(lora, CheckpointError, words)


@pytest.mark.parametrize("text", ["", "[]", "null", "5", "{", '{"a":' * 50_000])
def test_configs_that_are_none(lora: Lora, text: str) -> None:
    (lora.folder / "adapter_config.json").write_text(text)
    fails(lora, ModistError)


def zeros(*shape: int, dtype: str = "F32") -> Any:
    return encode(np.zeros(shape), dtype)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{NAME}.lora_A.weight": zeros(5, 32)}, "[5, 32] and [32, 4], which make no product"),
        ({f"{NAME}.lora_B.weight": zeros(32, 3)}, "make no product"),
        ({f"{NAME}.lora_A.weight": zeros(0, 32), f"{NAME}.lora_B.weight": zeros(32, 0)}, "make no product"),
        ({f"{NAME}.lora_A.weight": zeros(4, 32, 1, 1)}, "factors of 4 dimensions"),
        ({f"{NAME}.lora_A.weight": None}, "has B of its two factors"),
        ({f"{NAME}.lora_B.weight": None}, "has A of its two factors"),
        ({f"{NAME}.lora_magnitude_vector": zeros(32)}, "DoRA cannot be added"),
        ({f"{PREFIX}model.norm.weight": zeros(32)}, "no LoRA factor and in none of modules_to_save"),
        ({f"{NAME}.lora_A.weight": encode(np.zeros((4, 32)), "I64")}, "dtype I64, not a float"),
    ],
)
def test_factors_that_lie(lora: Lora, changes: dict[str, Any], words: str) -> None:
    rewrite(lora, **changes)
    fails(lora, ModistError, words)


def test_a_file_without_factors(lora: Lora) -> None:
    write_safetensors(lora.folder / "adapter_model.safetensors", {})
    fails(lora, CheckpointError, "holds no LoRA factors")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_file_that_was_cut(lora: Lora, cut: int) -> None:
    path = lora.folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    fails(lora, CheckpointError, "adapter_model.safetensors")


def test_a_folder_without_weights_or_config(lora: Lora, tmp_path: Path) -> None:
    (lora.folder / "adapter_model.safetensors").unlink()
    fails(lora, UserError, "no adapter_model.safetensors")
    (lora.folder / "adapter_config.json").unlink()
    fails(lora, UserError, "is no adapter: it has no adapter_config.json")
    shutil.rmtree(lora.folder)
    fails(lora, UserError, "no such folder")


def test_a_pickle_is_tensors_or_nothing(lora: Lora) -> None:
    torch = pytest.importorskip("torch")
    path = lora.folder / "adapter_model.safetensors"
    state = {name: torch.from_numpy(tensor.bits.copy()) for name, tensor in read_safetensors(path).items()}
    path.unlink()
    torch.save(state, lora.folder / "adapter_model.bin")
    found = Adapter.open(lora.folder)
    np.testing.assert_array_equal(found.weights.floats(f"{NAME}.lora_A.weight"), state[f"{NAME}.lora_A.weight"].reshape(-1))
    (lora.folder / "adapter_model.bin").write_bytes(pickle.dumps(print))
    fails(lora, CheckpointError, "adapter_model.bin")


# -------------------------------------------------------------- another base


def on(base: Path, lora: Lora) -> Checkpoint:
    return adapt(Checkpoint.open(base, "model"), Adapter.open(lora.folder, "lora"), "model+lora")


def test_a_base_of_another_width(lora: Lora, tmp_path: Path) -> None:
    wide = plain_trio(tmp_path / "wide", hidden=64)
    with pytest.raises(UserError, match=r"lora: its change of '.*q_proj.weight' has the shape \[32, 32\], in model it is \[64"):
        on(wide.base, lora)


def test_a_base_of_fewer_layers(lora: Lora, tmp_path: Path) -> None:
    short = plain_trio(tmp_path / "short", layers=2)
    with pytest.raises(UserError, match=r"changes 'model.layers.2.self_attn.q_proj.weight', which model has not.*another base"):
        on(short.base, lora)


def test_a_module_the_base_has_not(trio: Trio, lora: Lora) -> None:
    path = lora.folder / "adapter_model.safetensors"
    write_safetensors(path, {name.replace("q_proj", "qkv_proj"): t for name, t in read_safetensors(path).items()})
    with pytest.raises(UserError, match=r"qkv_proj.weight', which model has not; did you mean '.*(q|k|v)_proj.weight'"):
        on(trio.base, lora)


def test_a_head_that_is_tied(trio: Trio, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "head", trio.base, ["lm_head"])
    tied = tmp_path / "tied"
    shutil.copytree(trio.base, tied)
    tensors = read_folder(trio.base)
    del tensors["lm_head.weight"]
    write_safetensors(tied / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"changes the head, which model has tied.*merge_and_unload"):
        on(tied, lora)


def test_names_with_other_words_in_front_are_found(trio: Trio, tmp_path: Path) -> None:
    """Adapters of one library's wrapping on a model of another's."""
    lora = make_lora(tmp_path / "lora", trio.base, MODULES)
    path = lora.folder / "adapter_model.safetensors"
    write_safetensors(
        path, {name.replace(".model.layers", ".language_model.layers"): t for name, t in read_safetensors(path).items()}
    )
    assert set(on(trio.base, lora).updates) == {f"{module}.weight" for module in MODULES}


def test_embeddings_with_more_rows_than_the_base(trio: Trio, tmp_path: Path) -> None:
    extra = {f"{PREFIX}model.embed_tokens.weight": zeros(100, 32)}
    lora = make_lora(tmp_path / "lora", trio.base, MODULES, extra=extra, modules_to_save=["embed_tokens"])
    with pytest.raises(UserError, match=r"embed_tokens.weight' has the shape \[100, 32\], in model it is \[96, 32\]"):
        on(trio.base, lora)


@pytest.mark.parametrize("damage", ["dora", "cut", "other base", "no config"])
def test_nothing_is_written_for_any_of_these(
    trio: Trio, lora: Lora, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modist.cli import main

    base = trio.base
    if damage == "dora":
        configure(lora, use_dora=True)
    elif damage == "cut":
        (lora.folder / "adapter_model.safetensors").write_bytes(b"x" * 20)
    elif damage == "other base":
        base = plain_trio(tmp_path / "wide", hidden=64).base
    else:
        (lora.folder / "adapter_config.json").unlink()
    recipe = {"merge_method": "passthrough", "models": [{"model": f"{base}+{lora.folder}"}]}
    path = write_recipe(tmp_path / "r.yml", recipe)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["modist", "merge", str(path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == (1 if damage == "cut" else 2)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_adapter_alone_says_how_to_name_it(lora: Lora, trio: Trio, tmp_path: Path) -> None:
    from modist.merge import prepare

    models: list[Callable[[], Any]] = [lambda: {"model": lora.folder}, lambda: {"model": trio.base}]
    recipe = {"merge_method": "linear", "parameters": {"weight": 1}, "models": [make() for make in models]}
    with pytest.raises(UserError, match=r"this is an adapter, not a model; name its base in front of it: BASE\+lora"):
        prepare(write_recipe(tmp_path / "r.yml", recipe))
