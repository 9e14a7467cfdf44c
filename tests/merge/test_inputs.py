"""The same tensors in other files: however a parent is stored, the result's tensors are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import Tensor, Trio, read_folder, write_folder, write_safetensors

Merge = Callable[..., Path]


def dealt(folder: Path, of: Path, *, shards: int = 3) -> Path:
    """Tensors dealt out to files like cards, in reverse, under names that sort otherwise."""
    folder.mkdir()
    (folder / "config.json").write_bytes((of / "config.json").read_bytes())
    tensors = read_folder(of)
    files = [f"weights-{chr(ord('z') - number)}.safetensors" for number in range(shards)]
    placed = {name: files[number % shards] for number, name in enumerate(reversed(tensors))}
    for file in files:
        write_safetensors(folder / file, {name: tensors[name] for name in placed if placed[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(sorted(placed.items()))}))
    return folder


def pickled(folder: Path, of: Path, *, shards: int = 2) -> Path:
    torch = pytest.importorskip("torch")
    folder.mkdir()
    (folder / "config.json").write_bytes((of / "config.json").read_bytes())
    tensors = {name: torch.from_numpy(t.bits.copy()).view(torch.bfloat16) for name, t in read_folder(of).items()}
    files = [f"pytorch_model-{number:05}-of-{shards:05}.bin" for number in range(1, shards + 1)]
    placed = {name: files[number % shards] for number, name in enumerate(tensors)}
    for file in files:
        torch.save({name: tensors[name] for name in placed if placed[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


STORED: dict[str, Callable[[Path, Path], Path]] = {"dealt out": dealt, "pickled": pickled}


def ties(base: Path, one: Path, two: Path) -> dict[str, Any]:
    parameters = {"weight": 0.5, "density": 0.5}
    return {"merge_method": "ties", "base_model": base, "models": [{"model": f, "parameters": parameters} for f in (one, two)]}


def stack(base: Path, one: Path, two: Path) -> dict[str, Any]:
    ranges = [(base, [0, 2]), (one, [1, 3]), (two, [3, 4])]
    return {"merge_method": "passthrough", "slices": [{"sources": [{"model": f, "layer_range": r}]} for f, r in ranges]}


@pytest.mark.parametrize("make", [ties, stack])
@pytest.mark.parametrize("kind", STORED)
def test_how_a_parent_is_stored_changes_nothing(
    llama: Trio, merge: Merge, tmp_path: Path, kind: str, make: Callable[..., dict[str, Any]]
) -> None:
    plain = read_folder(merge(make(*llama.folders), "plain"))
    folders = [STORED[kind](tmp_path / f"{of.name} again", of) for of in llama.folders]
    for mixed in ([*folders], [llama.base, folders[1], llama.two]):
        again = read_folder(merge(make(*mixed), f"again{len(list(tmp_path.glob('again*')))}"))
        assert again.keys() == plain.keys()
        assert all(np.array_equal(again[name].bits, plain[name].bits) for name in plain)


def test_shards_may_be_read_and_written_at_once(llama: Trio, merge: Merge, tmp_path: Path) -> None:
    folders = [dealt(tmp_path / f"{of.name} again", of, shards=7) for of in llama.folders]
    out = merge(stack(*folders), "out", shard_bytes=20_000)
    assert len(list(out.glob("*.safetensors"))) > 3
    plain = read_folder(merge(stack(*llama.folders), "plain"))
    again = read_folder(out)
    assert all(np.array_equal(again[name].bits, plain[name].bits) for name in plain)


def test_a_stack_of_a_model_with_one_layer_in_a_file(tmp_path: Path, merge: Merge, llama: Trio) -> None:
    """An empty shard and a tensor without elements are no obstacle."""
    tensors = read_folder(llama.base) | {"model.layers.1.empty": Tensor("BF16", np.zeros((0, 4), np.uint16))}
    tensors |= {f"model.layers.{n}.empty": Tensor("BF16", np.zeros((0, 4), np.uint16)) for n in (0, 2, 3)}
    folder = write_folder(tmp_path / "model", tensors, json.loads((llama.base / "config.json").read_text()), shards=4)
    made = read_folder(merge(stack(folder, folder, folder)))
    assert made["model.layers.4.empty"].bits.shape == (0, 4)
