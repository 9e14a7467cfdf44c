"""Quantised checkpoints of every common kind: refused before anything is written, with the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.checkpoint.quantised import quantisation, way_out
from modist.errors import UserError
from tests.tiny_models import Tensor, llama_config, llama_shapes, plain_trio, random_tensors, write_folder, write_recipe

UP = "model.layers.0.mlp.up_proj"
BYTES = Tensor("U8", np.ones((8, 8), np.uint8))
INTS = Tensor("I64", np.ones((8, 8), "<i8"))
FLOATS = Tensor("F32", np.ones(8, "<f4"))


def folder(place: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    plain = random_tensors(llama_shapes(layers=2), 0)
    return write_folder(place, {**plain, **tensors}, llama_config(plain, **config))


KINDS: dict[str, tuple[dict[str, Any], dict[str, Tensor], str, str]] = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {f"{UP}.qweight": INTS}, "gptq", "original"),
    "awq": ({"quantization_config": {"quant_method": "awq"}}, {f"{UP}.qweight": INTS}, "awq", "original"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes"}}, {f"{UP}.weight.absmax": FLOATS}, "bitsandbytes",
        "dequantize()",
    ),
    "compressed-tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors"}}, {f"{UP}.weight_packed": INTS}, "compressed-tensors",
        "CompressedTensorsConfig(dequantize=True)",
    ),
    "an older compressed-tensors": (
        {"compression_config": {"format": "pack-quantized"}}, {f"{UP}.weight_packed": INTS}, "compressed-tensors",
        "CompressedTensorsConfig(dequantize=True)",
    ),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, {}, "fp8", "FineGrainedFP8Config(dequantize=True)"),
    "mxfp4": (
        {"quantization_config": {"quant_method": "mxfp4"}}, {"model.layers.0.mlp.experts.gate_up_proj_blocks": BYTES}, "mxfp4",
        "Mxfp4Config(dequantize=True)",
    ),
    "mlx": ({"quantization": {"bits": 4, "group_size": 64}}, {}, "mlx", "original"),
    "one named nowhere": ({"quantization_config": {"bits": 3}}, {}, "an unknown kind", "original"),
    "one for the text alone": (
        {"text_config": {"quantization_config": {"quant_method": "fp8"}, "num_hidden_layers": 2}}, {}, "fp8", "FineGrained"
    ),
}  # fmt: skip
UNSAID = {"gptq or awq": {f"{UP}.qweight": INTS}, "bitsandbytes": {f"{UP}.weight.absmax": FLOATS}, "mxfp4": KINDS["mxfp4"][1]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_told_and_refused(kind: str, tmp_path: Path) -> None:
    config, tensors, named, way = KINDS[kind]
    place = folder(tmp_path / "model", config, tensors)
    assert quantisation(Checkpoint.open(place)) == named
    assert way in way_out(named)
    refused(place, tmp_path, f"model: its weights are quantised ({named}) and cannot be averaged", way)


@pytest.mark.parametrize("kind", UNSAID)
def test_tensors_tell_what_a_config_does_not(kind: str, tmp_path: Path) -> None:
    refused(folder(tmp_path / "model", {}, UNSAID[kind]), tmp_path, f"quantised ({kind})")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_eight_bits_are_told_by_their_dtype(dtype: str, tmp_path: Path) -> None:
    tensors = {f"{UP}.weight": Tensor(dtype, np.ones((48, 32), np.uint8))}
    refused(folder(tmp_path / "model", {}, tensors), tmp_path, "quantised (fp8)", "FineGrainedFP8Config(dequantize=True)")


@pytest.mark.parametrize("config", [{"quantization_config": None}, {"quantization_config": {}}, {"quantization_config": []}])
def test_plain_numbers_are_none(config: dict[str, Any], tmp_path: Path) -> None:
    assert quantisation(Checkpoint.open(folder(tmp_path / "model", config, {}))) is None


@pytest.mark.parametrize("with_config", [False, True])
def test_gguf_files_alone(with_config: bool, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / "q4_k_m.gguf").write_bytes(b"GGUF" + bytes(20))
    if with_config:
        (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(place, tmp_path, "model: holds GGUF files alone (q4_k_m.gguf)", "gguf_file='q4_k_m.gguf'")


def test_gguf_files_beside_weights_are_no_obstacle(tmp_path: Path) -> None:
    place = folder(tmp_path / "model", {}, {})
    (place / "q4.gguf").write_bytes(b"GGUF")
    assert len(Checkpoint.open(place).tensors) == 21


def refused(place: Path, tmp_path: Path, *words: str) -> None:
    from modist.merge import merge

    other = plain_trio(tmp_path / "other", layers=2).base
    models: list[Callable[[], Path]] = [lambda: place, lambda: other]
    recipe = {"merge_method": "linear", "parameters": {"weight": 0.5}, "models": [{"model": make()} for make in models]}
    with pytest.raises(UserError) as caught:
        merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "other", "r.yml"]
