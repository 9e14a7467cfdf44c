"""Arrays on disk in shards that one plan names beforehand, each hashed, each whole or absent.

    STORE/plan.json                what is computed of what, and which rows lie in which shard; written first
    STORE/shard-00007.safetensors  a shard's arrays, put there by one rename
    STORE/journal.jsonl            one line a finished shard, with its size and SHA-256
    STORE/lock                     held while a process writes

Several processes, on several machines that share the folder, may each make a part of the shards: part 2 of 4 keeps
`journal-2-of-4.jsonl` and `lock-2-of-4`.  A killed process loses the shard it was at; a shard whose bytes are not those of its
journal's line is made again, to the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modist.checkpoint.header import build_header, read_header
from modist.errors import CheckpointError, ModistError, UserError
from modist.merge.hashing import sha256_file

PLAN = "plan.json"
_NAMES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i4": "I32", "<i8": "I64", "|u1": "U8"}
_DTYPES = {name: np.dtype(code) for code, name in _NAMES.items()}
_JOURNAL = re.compile(r"journal(-\d+-of-\d+)?\.jsonl")

Array = NDArray[Any]


class StoreError(ModistError):
    """Stored distributions are not there, not whole or not to be written (exit status 1)."""


@dataclass(frozen=True)
class Part:
    """Which shards a process makes: those whose number is `index - 1` modulo `count`."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """`2/4`; UserError for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--shard {text}: write it as 2/4, the second of four parts")
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"

    def has(self, shard: int) -> bool:
        return shard % self.count == self.index - 1


class Store:
    """One plan's shards, to be read by anyone and written by one process a part.

    Attributes:
        folder: made where it is not there.
        plan: as given; `plan["shards"]` has one entry a shard.
        damaged: numbers of shards whose bytes were not those of the journal when the store was opened.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], part: Part | None = None, *, write: bool = True) -> None:
        """Take a folder.

        Args:
            plan: what the folder is to hold; plain JSON.
            part: of the shards that this process writes; all by default.
            write: whether to write at all.

        Raises:
            UserError: the folder holds something else, or another process writes the same part.
            StoreError: the disk is unwilling.
        """
        self.folder, self.plan, self._part = folder, json.loads(json.dumps(plan)), part or Part()
        self._known: dict[int, dict[str, Any]] = {}
        self.damaged: list[int] = []
        self._lock = self._journal = -1
        try:
            if write:
                self._take()
            self._compare(write)
            self._read_journals()
            if write:
                self._check()
                self._open_journal()
        except OSError as error:
            self.close()
            raise self._unwilling(folder, error) from None
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; distributions need a folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not any(self.folder.glob("lock*")):
            raise UserError(f"{self.folder}: is not empty and was not made by modist fuse; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / f"lock{self._part.suffix}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.folder}: another process is writing here") from None

    def _compare(self, write: bool) -> None:
        path = self.folder / PLAN
        try:
            there = json.loads(path.read_bytes())
        except FileNotFoundError:
            if not write:
                raise StoreError(f"{self.folder}: holds no distributions; modist fuse extract makes them") from None
            # Written anew by whoever comes first; the others write the same bytes.
            _write_whole(path, json.dumps(self.plan, separators=(",", ":")).encode() + b"\n")
            return
        except ValueError:
            raise StoreError(f"{path}: is damaged; remove {self.folder} to start over") from None
        wrong = _differences(there, self.plan)
        if wrong:
            raise UserError(
                f"{self.folder}: holds something else ({'; '.join(wrong)}); choose another folder, or remove this one"
            )

    def _read_journals(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if not _JOURNAL.fullmatch(path.name):
                continue
            # What follows the last newline was never finished.
            for line in path.read_bytes().split(b"\n")[:-1]:
                try:
                    entry = json.loads(line)
                    number = entry["shard"]
                    if 0 <= number < len(self.plan["shards"]):
                        self._known[number] = {"size": int(entry["size"]), "sha256": str(entry["sha256"])}
                except (ValueError, KeyError, TypeError):
                    continue

    def _check(self) -> None:
        """Forget shards of this part whose bytes are not those of the journal."""
        for number in [number for number in self._known if self._part.has(number)]:
            if not self._is_sound(number):
                self.damaged.append(number)
                del self._known[number]

    def _is_sound(self, number: int) -> bool:
        entry, path = self._known[number], self.path(number)
        try:
            return path.stat().st_size == entry["size"] and sha256_file(path) == str(entry["sha256"])
        except FileNotFoundError:
            return False

    def _open_journal(self) -> None:
        if self._part.count == 1:
            # What a killed process was writing; with several parts it may be another's, alive.
            for torn in self.folder.glob(".*.part"):
                torn.unlink()
        path = self.folder / f"journal{self._part.suffix}.jsonl"
        kept = {number: entry for number, entry in sorted(self._known.items()) if self._part.has(number)}
        lines = [json.dumps({"shard": number, **entry}) + "\n" for number, entry in kept.items()]
        whole = "".join(lines).encode()
        if not path.exists() or path.read_bytes() != whole:
            _write_whole(path, whole)
        self._journal = os.open(path, os.O_WRONLY | os.O_APPEND)

    @property
    def shards(self) -> int:
        return len(self.plan["shards"])

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    @property
    def missing(self) -> list[int]:
        """Shards of this process's part that are still to be made, in order."""
        return [number for number in range(self.shards) if self._part.has(number) and number not in self._known]

    @property
    def lacking(self) -> list[int]:
        """Shards of any part that are not there."""
        return [number for number in range(self.shards) if number not in self._known]

    def add(self, number: int, arrays: Mapping[str, Array]) -> None:
        """Put one shard on disk.

        Raises:
            StoreError: the disk is unwilling; nothing of the shard stays.
        """
        path = self.path(number)
        data = shard_bytes(arrays)
        try:
            _write_whole(path, data)
            entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            line = json.dumps({"shard": number, **entry}).encode() + b"\n"
            if os.write(self._journal, line) != len(line):
                raise StoreError(f"{self.folder}: cannot be written (the disk is full)")
            os.fsync(self._journal)
        except OSError as error:
            raise self._unwilling(path, error) from None
        self._known[number] = entry

    def read(self, number: int) -> dict[str, Array]:
        """A shard's arrays, mapped from disk.

        Raises:
            StoreError: it is not there, or damaged.
        """
        path = self.path(number)
        if number not in self._known:
            raise StoreError(f"{self.folder}: shard {number} is not there; modist fuse extract makes it")
        try:
            raw = np.memmap(path, dtype=np.uint8, mode="r")
            found = {}
            for name, stored in read_header(path).items():
                piece = raw[stored.offset : stored.offset + stored.nbytes]
                found[name] = np.asarray(piece).view(_DTYPES[stored.dtype]).reshape(stored.shape)
            return found
        except (CheckpointError, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path}: is damaged ({error}); modist fuse extract makes it again") from None

    def verify(self) -> None:
        """See that all shards are there and are the bytes that were written.

        Raises:
            StoreError: naming the first that is not.
        """
        lacking = self.lacking
        if lacking:
            raise StoreError(
                f"{self.folder}: {len(lacking):,} of {self.shards:,} shards are not there, such as {lacking[0]};"
                " modist fuse extract goes on"
            )
        for number in range(self.shards):
            if not self._is_sound(number):
                raise StoreError(f"{self.path(number)}: was changed: its SHA-256 is not the recorded one; extract again")

    def digest(self) -> str:
        """SHA-256 over the plan and all shards' hashes, hexadecimal."""
        hashes = [self._known[number]["sha256"] for number in sorted(self._known)]
        return hashlib.sha256(json.dumps([self.plan, hashes], sort_keys=True).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        return sum(entry["size"] for entry in self._known.values())

    def close(self) -> None:
        for name in ("_journal", "_lock"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @staticmethod
    def _unwilling(path: Path, error: OSError) -> StoreError:
        return StoreError(f"{path}: cannot be written ({error.strerror})")


def shard_bytes(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors file: wider elements first, so that all stay aligned; the same bytes for the same arrays."""
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    found = {name: np.ascontiguousarray(array) for name, array in ordered}
    entries = [(name, _NAMES[array.dtype.newbyteorder("<").str], array.shape) for name, array in found.items()]
    prefix, _ = build_header(entries, {"format": "pt"})
    return prefix + b"".join(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in found.values())


def _differences(there: Any, wanted: Mapping[str, Any]) -> list[str]:
    """How a stored plan differs from one wanted, a phrase for each key."""
    if not isinstance(there, dict):
        return ["its plan cannot be read"]
    found = []
    for key in sorted({*there, *wanted} - {"shards"}):
        one, two = there.get(key), wanted.get(key)
        if one != two:
            shown = all(isinstance(value, (str, int, float, bool, type(None))) for value in (one, two))
            short = [str(value)[:40] for value in (one, two)]
            found.append(f"{key} {short[0]} there, {short[1]} here" if shown else f"another {key}")
    same = there.get("shards") == wanted.get("shards")
    return found or ([] if same else ["its rows are cut or tokenized otherwise"])


def _write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or as it was before."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
