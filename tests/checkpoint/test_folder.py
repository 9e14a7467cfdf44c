"""Model folders: which files are the weights, and reading them in pieces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from modist.checkpoint import Checkpoint, read_json
from modist.checkpoint.folder import INDEX
from modist.errors import CheckpointError, UserError
from tests.tiny_models import Tensor, random_tensors, write_folder, write_safetensors

ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
TWO = {"b": np.arange(4, dtype=np.float16)}


def folder(path: Path, files: dict[str, Any], config: Any = None) -> Path:
    """A folder of given files: arrays become safetensors, bytes stay, all else is JSON."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in ({"config.json": config or {"model_type": "llama"}} | files).items():
        if name.endswith(".safetensors") and isinstance(content, dict):
            save_file(content, path / name)
        else:
            (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def index(placed: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"total_size": 0}, "weight_map": placed}


def test_a_single_file(tmp_path: Path) -> None:
    found = Checkpoint.open(folder(tmp_path, {"model.safetensors": ONE}), "mine")
    assert (found.label, found.config, list(found.tensors)) == ("mine", {"model_type": "llama"}, ["a"])
    assert found.files == (tmp_path / "model.safetensors",)
    assert found.nbytes == 24
    found.close()
    found.close()


def test_an_index_names_its_shards(tmp_path: Path) -> None:
    files = {"x-1.safetensors": ONE, "x-2.safetensors": TWO, INDEX: index({"a": "x-1.safetensors", "b": "x-2.safetensors"})}
    found = Checkpoint.open(folder(tmp_path, files))
    assert list(found.tensors) == ["a", "b"]
    assert found.tensors["b"].file.name == "x-2.safetensors"
    np.testing.assert_array_equal(found.read("b"), TWO["b"])


def test_the_single_file_goes_before_the_index_as_in_transformers(tmp_path: Path) -> None:
    files = {"model.safetensors": ONE, "x.safetensors": TWO, INDEX: index({"b": "x.safetensors"})}
    found = Checkpoint.open(folder(tmp_path, files))
    assert list(found.tensors) == ["a"]
    assert len(found.notes) == 1 and "index" in found.notes[0]


def test_the_only_other_file_will_do_and_adapters_do_not_count(tmp_path: Path) -> None:
    files = {"weights.safetensors": ONE, "adapter_model.safetensors": TWO}
    assert list(Checkpoint.open(folder(tmp_path, files)).tensors) == ["a"]


def test_files_beside_the_index_are_not_read(tmp_path: Path) -> None:
    files = {"x.safetensors": ONE, "broken.safetensors": b"no", INDEX: index({"a": "x.safetensors"})}
    assert list(Checkpoint.open(folder(tmp_path, files)).tensors) == ["a"]


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({}, UserError, "holds no weights"),
        ({"adapter_config.json": {}}, UserError, "adapter"),
        ({"x.safetensors": ONE, "y.safetensors": TWO}, CheckpointError, "2 safetensors files"),
        ({INDEX: index({})}, CheckpointError, "no weight_map"),
        ({INDEX: {"metadata": {}}}, CheckpointError, "no weight_map"),
        ({INDEX: []}, CheckpointError, "not a JSON object"),
        ({INDEX: b"{"}, CheckpointError, "not JSON"),
        ({INDEX: {"weight_map": ["a"]}}, CheckpointError, "no weight_map"),
        ({INDEX: index({"a": "x.safetensors"})}, CheckpointError, "missing"),
        ({INDEX: index({"a": 5})}, CheckpointError, "a int, not a file"),
        ({INDEX: index({"a": None})}, CheckpointError, "NoneType"),
        ({INDEX: index({"a": "../x.safetensors"})}, CheckpointError, "outside the folder"),
        ({INDEX: index({"a": "/etc/passwd"})}, CheckpointError, "outside the folder"),
        ({INDEX: index({"a": "sub/x.safetensors"})}, CheckpointError, "outside the folder"),
        ({INDEX: index({"a": ".."})}, CheckpointError, "outside the folder"),
        ({INDEX: index({"a": ""})}, CheckpointError, "outside the folder"),
        ({INDEX: index({"a": "config.json"})}, CheckpointError, "no weight file"),
        ({INDEX: index({"a": "x\0.safetensors"})}, CheckpointError, "no weight file"),
        ({INDEX: index({"a": "x" * 300 + ".safetensors"})}, CheckpointError, "cannot be read"),
        ({"x.safetensors": ONE, INDEX: index({"a": "x.safetensors", "b": "x.safetensors"})}, CheckpointError, "'b'"),
        ({"x.safetensors": {**ONE, **TWO}, INDEX: index({"a": "x.safetensors"})}, CheckpointError, "does not list"),
        ({"model.safetensors": ONE, "config.json": b""}, CheckpointError, "not JSON"),
        ({"model.safetensors": ONE, "config.json": b"[]"}, CheckpointError, "not a JSON object"),
        ({"model.safetensors": ONE, "config.json": b"\xff\xfe\xfd"}, CheckpointError, "not JSON"),
        ({"model.safetensors": ONE, "config.json": b'{"a":' * 100_000}, CheckpointError, "not JSON"),
        ({"model.safetensors": ONE, "config.json": b'{"a":' + b"9" * 5000 + b"}"}, CheckpointError, "not JSON"),
    ],
)
def test_what_is_no_model(tmp_path: Path, files: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Checkpoint.open(folder(tmp_path / "m", files))


def test_no_folder_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Checkpoint.open(tmp_path / "none")
    save_file(ONE, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        Checkpoint.open(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="regular file"):
        Checkpoint.open(tmp_path)


def test_json_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modist.checkpoint.folder.MAX_JSON", 10)
    (tmp_path / "config.json").write_text('{"a": 1234567}')
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_reads_any_piece_of_a_tensor_across_shards(tmp_path: Path, dtype: str) -> None:
    tensors = random_tensors({"a": (3, 5), "b": (7,), "c": (), "d": (0, 4), "e": (2, 2, 2)}, 3, dtype)
    write_folder(tmp_path, tensors, {"model_type": "x"}, shards=3)
    found = Checkpoint.open(tmp_path)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        flat = tensor.bits.reshape(-1)
        assert found.tensors[name].shape == tensor.bits.shape
        for start in range(len(flat) + 1):
            for stop in range(start, len(flat) + 1):
                piece = found.read(name, start, stop)
                assert piece.tobytes() == flat[start:stop].tobytes()
        np.testing.assert_array_equal(found.floats(name), tensor.float64.reshape(-1).astype(np.float32))
    piece = found.read("a")
    piece[:] = 0  # a new array each time
    assert found.read("a").tobytes() == tensors["a"].bits.tobytes()


def test_a_file_cut_while_it_is_open(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": Tensor("F32", np.ones(1000, np.float32))}, {"model_type": "x"})
    found = Checkpoint.open(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 2000)
    with pytest.raises(CheckpointError, match="ends before"):
        found.read("a")


def test_reads_do_not_disturb_each_other_in_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    values = np.arange(20_000, dtype=np.uint16)
    write_safetensors(tmp_path / "model.safetensors", {"a": Tensor("BF16", values)})
    (tmp_path / "config.json").write_text("{}")
    found = Checkpoint.open(tmp_path)

    def check(start: int) -> bool:
        return np.array_equal(found.read("a", start, start + 100), values[start : start + 100])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(0, 19_900, 13)))
