"""The header of a safetensors file, read with suspicion.

The format: eight bytes that give the header's length n, n bytes of JSON mapping each tensor's name to its dtype, shape and
offsets, then the data.  A file that is truncated or that lies is refused before any of its data is used.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.dtype import HOLDERS, QUANTISED
from modist.errors import CheckpointError

MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 64
MAX_NAME = 1000
_PREFIX = struct.Struct("<Q")


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        name: its name in the checkpoint.
        dtype: safetensors' spelling: F32, BF16, ...
        shape: its dimensions.
        file: the file that holds it.
        offset: of its first byte, from the start of the file.
        nbytes: its length in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check one file's header.

    Returns:
        Its tensors, by name, in the order of their data.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is not a regular file")
        size = status.st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path}: truncated: {size} bytes cannot hold a safetensors header")
            (length,) = _PREFIX.unpack(prefix)
            if length > MAX_HEADER or 8 + length > size:
                raise CheckpointError(
                    f"{path}: says its header is {length} bytes long, but the file has {size}: not safetensors, or truncated"
                )
            raw = file.read(length)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return _parse(path, raw, data_start=8 + length, data_size=size - 8 - length)


def _parse(path: Path, raw: bytes, data_start: int, data_size: int) -> dict[str, StoredTensor]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not JSON ({str(error)[:100]})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is a {type(header).__name__}, not a mapping")
    tensors = [_read_entry(path, name, entry, data_start) for name, entry in header.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    reached = data_start
    for tensor in tensors:
        if tensor.offset != reached:
            kind = "overlaps" if tensor.offset < reached else "leaves a gap behind"
            raise CheckpointError(f"{path}: tensor {tensor.name!r} {kind} the one before it")
        reached = tensor.offset + tensor.nbytes
    if reached != data_start + data_size:
        raise CheckpointError(
            f"{path}: its header describes {reached - data_start} bytes of data, but the file has {data_size}"
        )
    return {tensor.name: tensor for tensor in tensors}


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:60]!r} occurs twice")
        found[key] = value
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_text(name: str) -> bool:
    """Whether a name can be written again: JSON lets half a surrogate pair through, UTF-8 does not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _brief(value: object) -> str:
    try:
        return repr(value)[:60]
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def _read_entry(path: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    if len(name) > MAX_NAME or not _is_text(name):
        raise CheckpointError(f"{path}: {name[:60]!r} is no name of a tensor")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(f"{path}: tensor {name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
        raise CheckpointError(f"{path}: tensor {name!r} has the shape {_brief(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)) or offsets[0] > offsets[1]:
        raise CheckpointError(f"{path}: tensor {name!r} has the data_offsets {_brief(offsets)}")
    begin, end = offsets
    if isinstance(dtype, str) and dtype in HOLDERS:
        needed = math.prod(shape) * HOLDERS[dtype].itemsize
        if needed != end - begin:
            raise CheckpointError(
                f"{path}: tensor {name!r} of shape {_brief(shape)} and dtype {dtype} needs {needed} bytes,"
                f" its offsets give {end - begin}"
            )
    elif not (isinstance(dtype, str) and dtype in QUANTISED):
        raise CheckpointError(f"{path}: tensor {name!r} has the unknown dtype {_brief(dtype)}")
    return StoredTensor(name, str(dtype), tuple(shape), path, data_start + begin, end - begin)


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The bytes before the data of a new file, and where in it each tensor's data begins.

    Args:
        tensors: (name, dtype, shape), in the order in which their data will lie.
        metadata: for `__metadata__`.

    Returns:
        The eight-byte length and the JSON, padded so that data begins on a multiple of 8; and name -> absolute offset.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    starts: dict[str, int] = {}
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * HOLDERS[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        starts[name] = position
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    prefix = _PREFIX.pack(len(raw)) + raw
    return prefix, {name: len(prefix) + start for name, start in starts.items()}


def identity(path: Path) -> dict[str, Any]:
    """What tells a changed input from an unchanged one without reading it: size, modification time, header digest."""
    import hashlib

    status = os.stat(path)
    with path.open("rb") as file:
        prefix = file.read(8)
        length = min(_PREFIX.unpack(prefix)[0], MAX_HEADER) if len(prefix) == 8 else 0
        digest = hashlib.sha256(prefix + file.read(length)).hexdigest()
    return {"size": status.st_size, "modified_ns": status.st_mtime_ns, "header_sha256": digest}
