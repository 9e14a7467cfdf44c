"""pytorch_model.bin: the same tensors as torch gives, and no code is ever run."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.errors import CheckpointError

torch = pytest.importorskip("torch")


def save(folder: Path, state: Any, name: str = "pytorch_model.bin", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    torch.save(state, folder / name, **options)
    return folder


def states() -> dict[str, Any]:
    torch.manual_seed(0)
    wide = torch.randn(4, 6)
    return {
        "f32": wide,
        "bf16": wide.to(torch.bfloat16),
        "f16": wide.to(torch.float16),
        "f64": wide.to(torch.float64),
        "i64": torch.arange(5),
        "i8": torch.arange(5, dtype=torch.int8),
        "u8": torch.arange(5, dtype=torch.uint8),
        "u16": torch.arange(5, dtype=torch.int32).to(torch.uint16),
        "bool": torch.tensor([True, False]),
        "turned": wide.t(),
        "part": wide[1:3],
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(wide.clone()),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_gives_the_tensors_as_torch_does(tmp_path: Path, zipped: bool) -> None:
    expected = states()
    if not zipped:
        expected.pop("u16")  # the old form has no such storage
    found = Checkpoint.open(save(tmp_path, expected, _use_new_zipfile_serialization=zipped))
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        stored = found.tensors[name]
        assert stored.shape == tuple(tensor.shape)
        plain = tensor.detach().contiguous()
        bits = plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain
        assert found.read(name).tobytes() == bits.numpy().tobytes()
        assert stored.nbytes == plain.numel() * plain.element_size()
    wanted = {"f32": "F32", "bf16": "BF16", "f16": "F16", "f64": "F64", "i64": "I64", "i8": "I8", "u8": "U8", "bool": "BOOL"}
    assert {name: found.tensors[name].dtype for name in wanted} == wanted
    if zipped:
        assert found.tensors["u16"].dtype == "U16"


def test_shards_of_bin_files(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(2)}, "pytorch_model-00001-of-00002.bin")
    save(tmp_path, {"b": torch.zeros(3)}, "pytorch_model-00002-of-00002.bin")
    placed = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    assert sorted(Checkpoint.open(tmp_path).tensors) == ["a", "b"]
    index.write_text(json.dumps({"weight_map": placed | {"c": "pytorch_model-00002-of-00002.bin"}}))
    with pytest.raises(CheckpointError, match="'c'"):
        Checkpoint.open(tmp_path)
    index.write_text(json.dumps({"weight_map": placed | {"c": "../pytorch_model.bin"}}))
    with pytest.raises(CheckpointError, match="outside"):
        Checkpoint.open(tmp_path)


class Malicious:
    """Unpickled, it would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("kind", ["plain pickle", "zip", "legacy", "among tensors"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "was-here"
    folder = tmp_path / "m"
    if kind == "plain pickle":
        save(folder, {}).joinpath("pytorch_model.bin").write_bytes(pickle.dumps({"a": Malicious(mark)}))
    elif kind == "among tensors":
        save(folder, {"a": torch.ones(2), "b": Malicious(mark)})
    else:
        save(folder, {"a": Malicious(mark)}, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="plain tensors"):
        Checkpoint.open(folder)
    assert not mark.exists()


def _repeated() -> Any:
    return torch.ones(1).expand(10**12)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([torch.ones(2)], "not a mapping"),
        ({"a": 5}, "not a mapping"),
        ({"state_dict": {"a": torch.ones(2)}}, "not a mapping"),
        ({1: torch.ones(2)}, "not a mapping"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "float8"),
        ({"a": torch.ones(2, 2).to_sparse()}, "sparse|plain tensors"),
        ({"a": torch.ones(2, device="meta")}, "no data|plain tensors"),
        ({"a": _repeated()}, "more elements"),
    ],
    ids=["list", "number", "nested", "numbered", "complex", "float8", "sparse", "meta", "repeated"],
)
def test_what_is_no_plain_tensor(tmp_path: Path, state: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(save(tmp_path, state))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "zip of nothing", "garbage"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path, {"a": torch.ones(100)}) / "pytorch_model.bin"
    whole = path.read_bytes()
    if damage == "zip of nothing":
        with zipfile.ZipFile(path, "w"):
            pass
    else:
        garbage = np.random.default_rng(0).bytes(400)
        path.write_bytes({"empty": b"", "text": b"hello\n", "cut": whole[:-200], "garbage": garbage}[damage])
    with pytest.raises(CheckpointError, match="plain tensors"):
        Checkpoint.open(tmp_path)
