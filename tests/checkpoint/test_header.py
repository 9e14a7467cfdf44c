"""safetensors headers: what the safetensors library writes is read, what it refuses is refused, and the other way round."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from modist.checkpoint.dtype import HOLDERS
from modist.checkpoint.header import build_header, identity, read_header
from modist.errors import CheckpointError

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


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file with a header of any kind: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@_RELAXED
@given(_TENSORS)
def test_reads_what_the_library_writes(tmp_path: Path, wanted: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.integers(0, 2, shape).astype(_NUMPY[dtype]) for name, (dtype, shape) in wanted.items()
    }
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
    entries = sorted(
        ((name, dtype, shape) for name, (dtype, shape) in wanted.items()), key=lambda e: -HOLDERS[e[1]].itemsize
    )
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


LIES: dict[str, tuple[Any, bytes]] = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "same place": ({"a": entry(), "b": entry()}, bytes(8)),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "gap at the start": ({"a": entry(offsets=(4, 12))}, bytes(12)),
    "data left over": ({"a": entry()}, bytes(9)),
    "data cut short": ({"a": entry()}, bytes(7)),
    "no data": ({"a": entry()}, b""),
    "offsets of another size": ({"a": entry(offsets=(0, 4))}, bytes(4)),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, bytes(8)),
    "offsets negative": ({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "one offset": ({"a": entry(offsets=(0,))}, bytes(8)),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, bytes(8)),
    "offsets as text": ({"a": entry(offsets="0, 8")}, bytes(8)),
    "offsets as floats": ({"a": entry(offsets=(0.0, 8.0))}, bytes(8)),
    "offsets beyond 64 bits": ({"a": entry(offsets=(0, 1 << 64))}, bytes(8)),
    "negative shape": ({"a": entry(shape=(-2,))}, bytes(8)),
    "two negative extents": ({"a": entry(shape=(-2, -1))}, bytes(8)),
    "shape as text": ({"a": entry(shape="2")}, bytes(8)),
    "shape as a number": ({"a": entry(shape=2)}, bytes(8)),
    "shape of floats": ({"a": entry(shape=(2.0,))}, bytes(8)),
    "shape of booleans": ({"a": entry(shape=(True, 2))}, bytes(8)),
    "shape missing": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "shape null": ({"a": entry(shape=None)}, bytes(8)),
    "shape that overflows": ({"a": entry(shape=(1 << 61, 1 << 61))}, bytes(8)),
    "shape of a million extents": ({"a": entry(shape=(1 << 61,) * 100_000)}, bytes(8)),
    "dtype unknown": ({"a": entry("F31")}, bytes(8)),
    "dtype in lower case": ({"a": entry("f32")}, bytes(8)),
    "dtype of torch": ({"a": entry("torch.float32")}, bytes(8)),
    "dtype a list": ({"a": entry(["F32"])}, bytes(8)),
    "dtype null": ({"a": entry(None)}, bytes(8)),
    "dtype complex": ({"a": entry("C64", (1,))}, bytes(8)),
    "entry a list": ({"a": []}, b""),
    "entry null": ({"a": None}, b""),
    "entry a number": ({"a": 1}, b""),
    "header a list": ([], b""),
    "header null": (b"null", b""),
    "header a number": (b"1", b""),
    "header empty": (b"", b""),
    "header blank": (b"        ", b""),
    "header not JSON": (b"{'a': 1}", b""),
    "header cut short": (b'{"a": {"dtype"', b""),
    "header not UTF-8": (b'{"\xff\xfe": 1}', b""),
    "header in UTF-16": (json.dumps({"a": entry()}).encode("utf-16"), bytes(8)),
    "header with a byte order mark": (b"\xef\xbb\xbf" + json.dumps({"a": entry()}).encode(), bytes(8)),
    "header nested deeply": (b'{"a":' * 100_000, b""),
    "header of brackets": (b"[" * 1_000_000, b""),
    "number of 5000 digits": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "half a surrogate in a name": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a name of 5000 letters": ({"a" * 5000: entry()}, bytes(8)),
    "the same name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "the same key twice": (b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
}


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
