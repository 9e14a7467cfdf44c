"""New weight files: laid out, filled out of order, and read by the safetensors library."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import HOLDERS
from modist.checkpoint.folder import INDEX
from modist.checkpoint.shards import ShardFiles, disk_error, index_json, lay_out
from modist.errors import MergeError

_DTYPES = ["F64", "F32", "F16", "I64", "I32", "U8", "BOOL"]
_TENSORS = st.lists(st.tuples(st.sampled_from(_DTYPES), st.lists(st.integers(0, 6), max_size=3).map(tuple)), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_TENSORS, st.integers(1, 2000), st.randoms(use_true_random=False))
def test_files_hold_what_was_written_in_any_order(tmp_path_factory, tensors, shard_bytes, random) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("shards")
    entries = [(f"tensor {number}", dtype, shape) for number, (dtype, shape) in enumerate(tensors)]
    shards = lay_out(entries, folder, shard_bytes)
    generator = np.random.default_rng(2)
    data = {n: generator.integers(0, 2, shape).astype(HOLDERS[d]) for n, d, shape in entries}
    files = ShardFiles(folder, shards)
    stored = [tensor for shard in shards for tensor in shard.tensors]
    random.shuffle(stored)
    for tensor in stored:
        assert tensor.offset % HOLDERS[tensor.dtype].itemsize == 0
        flat = data[tensor.name].reshape(-1)
        cut = len(flat) // 2
        files.write(tensor, cut, flat[cut:])
        files.write(tensor, 0, flat[:cut])
    files.sync()
    files.close()
    loaded: dict[str, np.ndarray] = {}
    for shard in shards:
        path = folder / shard.name
        assert path.stat().st_size == shard.size
        weight = sum(tensor.nbytes for tensor in shard.tensors)
        assert weight <= shard_bytes or sum(tensor.nbytes > 0 for tensor in shard.tensors) == 1
        loaded |= load_file(path)
    assert loaded.keys() == data.keys()
    for name, array in data.items():
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
    index = index_json(shards)
    assert (index is None) == (len(shards) == 1)
    if index is not None:
        found = json.loads(index)
        assert found["weight_map"] == {t.name: s.name for s in shards for t in s.tensors}
        assert found["metadata"]["total_size"] == sum(array.nbytes for array in data.values())
        assert found["metadata"]["total_parameters"] == sum(array.size for array in data.values())
        (folder / INDEX).write_text(index)
    (folder / "config.json").write_text("{}")
    assert Checkpoint.open(folder).tensors.keys() == data.keys()


def test_names_are_the_hubs(tmp_path: Path) -> None:
    entries = [(f"t{n}", "F32", (10,)) for n in range(3)]
    assert [shard.name for shard in lay_out(entries, tmp_path)] == ["model.safetensors"]
    names = [shard.name for shard in lay_out(entries, tmp_path, 40)]
    assert names == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_wider_types_go_first_so_that_all_stay_aligned(tmp_path: Path) -> None:
    entries = [("a", "U8", (3,)), ("b", "F16", (3,)), ("c", "F64", (1,)), ("d", "F32", (1,))]
    (shard,) = lay_out(entries, tmp_path)
    assert [tensor.name for tensor in shard.tensors] == ["c", "d", "b", "a"]
    assert len(shard.prefix) % 8 == 0


def test_keeping_opens_what_is_there_and_changes_nothing(tmp_path: Path) -> None:
    shards = lay_out([("a", "F32", (4,))], tmp_path)
    files = ShardFiles(tmp_path, shards)
    files.write(shards[0].tensors[0], 0, np.arange(4, dtype=np.float32))
    files.close()
    ShardFiles(tmp_path, shards, keep=True).close()
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["a"], np.arange(4))
    ShardFiles(tmp_path, shards).close()
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["a"], np.zeros(4))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_keeping_what_is_not_there_is_an_error_and_not_a_file_of_zeros(tmp_path: Path, damage: str) -> None:
    shards = lay_out([("a", "F32", (4,))], tmp_path)
    ShardFiles(tmp_path, shards).close()
    path = tmp_path / "model.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 20)
    with pytest.raises(MergeError, match="without --resume"):
        ShardFiles(tmp_path, shards, keep=True)


def test_disk_errors_are_said_in_words(tmp_path: Path) -> None:
    for number, words in ((errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")):
        assert words in str(disk_error(tmp_path, OSError(number, "x")))
    assert "Input/output" in str(disk_error(tmp_path, OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(MergeError, match="cannot be written"):
        ShardFiles(tmp_path / "none", lay_out([("a", "F32", (4,))], tmp_path / "none"))
