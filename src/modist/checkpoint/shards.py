"""New weight files: laid out before anything is computed, then filled from any thread at final offsets."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modist.checkpoint.dtype import HOLDERS, Array, bytes_of
from modist.checkpoint.folder import SINGLE
from modist.checkpoint.header import StoredTensor, build_header
from modist.errors import MergeError

DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Shard:
    """One file to be: its name, the bytes before its data, its tensors in order, its size."""

    name: str
    prefix: bytes
    tensors: tuple[StoredTensor, ...]
    size: int


def lay_out(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], folder: Path, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> tuple[Shard, ...]:
    """Assign tensors to files and offsets.

    Args:
        tensors: (name, dtype, shape) in the order wanted; within a file wider dtypes go first, so that all stay aligned.
        folder: where the files will be written.
        shard_bytes: a file is closed when the next tensor would take it beyond this; a larger tensor gets its own.
    """
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, dtype, shape in tensors:
        nbytes = HOLDERS[dtype].itemsize
        for extent in shape:
            nbytes *= extent
        if groups[-1] and filled + nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append((name, dtype, shape))
        filled += nbytes
    shards = []
    for number, group in enumerate(groups, start=1):
        file_name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        group.sort(key=lambda entry: -HOLDERS[entry[1]].itemsize)
        prefix, starts = build_header(group, {"format": "pt"})
        stored = []
        size = len(prefix)
        for name, dtype, shape in group:
            nbytes = HOLDERS[dtype].itemsize
            for extent in shape:
                nbytes *= extent
            stored.append(StoredTensor(name, dtype, shape, folder / file_name, starts[name], nbytes))
            size += nbytes
        shards.append(Shard(file_name, prefix, tuple(stored), size))
    return tuple(shards)


def index_json(shards: Sequence[Shard]) -> str | None:
    """The index of several files, or None where one file needs none."""
    if len(shards) == 1:
        return None
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    parameters = sum(tensor.elements for shard in shards for tensor in shard.tensors)
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    metadata = {"total_size": total, "total_parameters": parameters}
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"


class ShardFiles:
    """The open files of a checkpoint that is being written; every method may be called from any thread."""

    def __init__(self, folder: Path, shards: Sequence[Shard], keep: bool = False) -> None:
        """Create the files at full size, or with `keep` open what an earlier run left.

        Raises:
            MergeError: the disk is full, read-only or otherwise unwilling.
        """
        self.shards = tuple(shards)
        self._descriptors: dict[Path, int] = {}
        try:
            for shard in shards:
                path = folder / shard.name
                descriptor = os.open(path, os.O_RDWR | (0 if keep else os.O_CREAT | os.O_TRUNC), 0o644)
                self._descriptors[path] = descriptor
                if keep and os.fstat(descriptor).st_size != shard.size:
                    raise FileNotFoundError
                _allocate(descriptor, shard.size)
                _write_all(descriptor, shard.prefix, 0)
        except OSError as error:
            self.close()
            if keep and isinstance(error, FileNotFoundError):
                raise MergeError(
                    f"{folder}: what an earlier run wrote is no longer there; run without --resume to start over"
                ) from None
            raise disk_error(folder, error) from None

    def write(self, tensor: StoredTensor, start: int, stored: Array) -> None:
        """Put elements, already in the tensor's stored form, at flat position `start`."""
        offset = tensor.offset + start * stored.itemsize
        try:
            _write_all(self._descriptors[tensor.file], bytes_of(stored), offset)
        except OSError as error:
            raise disk_error(tensor.file, error) from None

    def read(self, shard: Shard, folder: Path, buffer: memoryview, offset: int) -> int:
        return os.preadv(self._descriptors[folder / shard.name], [buffer], offset)

    def start_writeback(self, shard: Shard, folder: Path, offset: int, nbytes: int) -> None:
        """Ask the kernel to begin writing a range to disk, so that the final fsync finds little left; never waits."""
        if _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self._descriptors[folder / shard.name], offset, nbytes, 2)

    def sync(self) -> None:
        """Return when all data written so far is on disk."""
        for path, descriptor in self._descriptors.items():
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise disk_error(path, error) from None

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def disk_error(path: Path, error: OSError) -> MergeError:
    """An OSError of the output's disk as one line."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "no permission to write there",
        errno.EPERM: "no permission to write there",
        errno.EFBIG: "the file system cannot hold files this large",
    }
    return MergeError(f"{path}: cannot be written: {reasons.get(error.errno or 0, error.strerror)}")


def _allocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _find_sync_file_range() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_SYNC_FILE_RANGE = _find_sync_file_range()
