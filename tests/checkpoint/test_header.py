"""safetensors headers: what the safetensors library writes is read, what it refuses is refused, and the other way round."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from modist.checkpoint.dtype import HOLDERS
from modist.checkpoint.header import build_header, identity, read_header
from modist.errors import CheckpointError
from tests.checkpoint.lies import LIES, entry, raw_file

_NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
_SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
_TENSORS = st.dictionaries(_NAMES, st.tuples(st.sampled_from(sorted(_NUMPY)), _SHAPES), max_size=6)
_RELAXED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@_RELAXED
@given(_TENSORS)
def test_reads_what_the_library_writes(tmp_path: Path, wanted: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    generator = np.random.default_rng(0)
    arrays = {name: generator.integers(0, 2, shape).astype(_NUMPY[dtype]) for name, (dtype, shape) in wanted.items()}
    path = tmp_path / "x.safetensors"
    save_file(arrays, path)
    found = read_header(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == wanted
    raw = path.read_bytes()
    for name, tensor in found.items():
        assert raw[tensor.offset : tensor.offset + tensor.nbytes] == arrays[name].tobytes()
        assert tensor.elements == arrays[name].size


@_RELAXED
@given(_TENSORS)
def test_the_library_reads_what_is_written_here(tmp_path: Path, wanted: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    entries = sorted(((name, dtype, shape) for name, (dtype, shape) in wanted.items()), key=lambda e: -HOLDERS[e[1]].itemsize)
    prefix, starts = build_header(entries, {"format": "pt"})
    assert len(prefix) % 8 == 0
    generator = np.random.default_rng(1)
    arrays = {name: generator.integers(0, 2, shape).astype(_NUMPY[dtype]) for name, dtype, shape in entries}
    path = tmp_path / "x.safetensors"
    path.write_bytes(prefix + b"".join(array.tobytes() for array in arrays.values()))
    assert all(starts[name] % HOLDERS[dtype].itemsize == 0 for name, dtype, _ in entries)
    loaded = load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert {name: (t.dtype, t.shape) for name, t in read_header(path).items()} == wanted


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_in_one_line(tmp_path: Path, lie: str) -> None:
    header, data = LIES[lie]
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 500 + len(str(path))


# The library accepts more than can be merged (complex numbers) or than is sane (long names).
_STRICTER_THAN_THE_LIBRARY = {"dtype complex", "a name of 5000 letters"}


@pytest.mark.parametrize("lie", sorted(LIES.keys() - _STRICTER_THAN_THE_LIBRARY))
def test_the_library_refuses_them_too_or_loads_the_same(tmp_path: Path, lie: str) -> None:
    """A list of lies that the library believes would be a list of files people have; only repeated names are such."""
    path = raw_file(tmp_path / "x.safetensors", *LIES[lie])
    try:
        load_file(path)
    except (SafetensorError, OverflowError, ValueError, MemoryError):
        return
    assert lie in ("the same name twice", "the same key twice")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
def test_truncated_anywhere(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.float16)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:length] if length < len(whole) else whole[:-1])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
        read_header(path)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 40, 100_000_001, 3])
def test_a_lying_length(tmp_path: Path, length: int) -> None:
    path = raw_file(tmp_path / "x.safetensors", {"a": entry()}, bytes(8), length)
    with pytest.raises(CheckpointError):
        read_header(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 1 << 64 - 1) | st.none())
def test_any_bytes_at_all(tmp_path: Path, header: bytes, length: int | None) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, length=None if length is None else length % (1 << 64))
    try:
        read_header(path)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="regular file"):
        read_header(tmp_path)
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match="regular file"):
        read_header(pipe)


def test_identity_changes_with_the_header_and_the_time(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(4, np.float32)}, path)
    first = identity(path)
    assert identity(path) == first
    os.utime(path, ns=(1, 1))
    assert identity(path)["modified_ns"] == 1
    save_file({"b": np.zeros(4, np.float32)}, path)
    assert identity(path)["header_sha256"] != first["header_sha256"]
