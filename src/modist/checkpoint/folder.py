"""A model folder: its config and its tensors, found from headers alone and read in pieces."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modist.checkpoint.dtype import HOLDERS, Array, Floats, bytes_of, widen
from modist.checkpoint.header import StoredTensor, read_header
from modist.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from modist.checkpoint.adapter import Adapter
    from modist.checkpoint.adapter_config import LowRank

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BIN_SINGLE = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
MAX_JSON = 64 << 20
_ADAPTER = "{label}: this is an adapter, not a model; name its base in front of it: BASE+{label}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError with the file's name for anything else."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_JSON + 1)
        data = json.loads(raw) if len(raw) <= MAX_JSON else None
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({str(error)[:100]})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return data


def refuse_link_out(path: Path, folder: Path) -> None:
    """Let no file of a model's folder be a link to what lies elsewhere; CheckpointError where one is."""
    real, home = path.resolve(), folder.resolve()
    # The hub's cache keeps snapshots as links into the repository's own blobs.
    allowed = (home, home.parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{path}: is a link to {real}, outside the model's folder")


@dataclass
class Checkpoint:
    """One model, open for reading.

    Attributes:
        folder: where it lies.
        label: what the user called it.
        config: its config.json.
        tensors: name -> where it is stored, in the order of files and offsets.
        files: the weight files.
        notes: what was odd but harmless.
        here: whether the tensors can be read; False where only a hub has them so far.
        adapter: a LoRA adapter on it, or None.
        updates: tensors that the adapter changes; `read` and `floats` give them as they are stored, without the change.
    """

    folder: Path
    label: str
    config: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    here: bool = True
    adapter: Adapter | None = None
    updates: Mapping[str, LowRank] = field(default_factory=dict, repr=False)
    _descriptors: dict[Path, int] = field(default_factory=dict, repr=False)
    _arrays: Mapping[str, Array] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, folder: str | Path, label: str = "") -> Checkpoint:
        """Open a folder by its headers; no tensor is read.

        Weights are looked for as transformers does: `model.safetensors`, then its index, then the only other
        safetensors file, then pytorch_model.bin (through torch's weights_only loading).

        Raises:
            UserError: there is no such folder, or no model in it.
            CheckpointError: what is there is damaged or unsafe.
        """
        folder = Path(folder)
        label = label or str(folder)
        if not folder.is_dir():
            raise UserError(f"{label}: there is no such folder")
        _refuse_gguf(folder, label)
        if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
            raise UserError(_ADAPTER.format(label=label))
        config = read_json(folder / "config.json")
        found = _find(folder, label)
        if found.arrays is not None:
            return cls(folder, label, config, found.tensors, found.files, found.notes, _arrays=found.arrays)
        return cls(folder, label, config, found.tensors, found.files, found.notes)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Elements [start, stop) of one tensor in flat order, as stored (BF16 as uint16), in a new array."""
        tensor = self.tensors[name]
        stop = tensor.elements if stop is None else stop
        if self._arrays is not None:
            return np.array(self._arrays[name][start:stop])
        holder = HOLDERS[tensor.dtype]
        out = np.empty(stop - start, holder)
        view, position = bytes_of(out), tensor.offset + start * holder.itemsize
        while view:
            try:
                count = os.preadv(self._descriptor(tensor.file), [view], position)
            except OSError as error:
                raise CheckpointError(f"{tensor.file}: cannot be read ({error.strerror})") from None
            if count <= 0:
                raise CheckpointError(f"{tensor.file}: ends before tensor {name!r} does; was it changed meanwhile?")
            view, position = view[count:], position + count
        return out

    def floats(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """The same as float32."""
        return widen(self.read(name, start, stop), self.tensors[name].dtype)

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._descriptors[path]

    def close(self) -> None:
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])
        if self.adapter is not None:
            self.adapter.close()


@dataclass(frozen=True)
class _Found:
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, Array] | None = None


def _refuse_gguf(folder: Path, label: str) -> None:
    found = sorted(folder.glob("*.gguf"))
    if found and not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise UserError(
            f"{label}: holds GGUF files alone ({found[0].name}), whose weights are quantised and cannot be averaged; use the"
            f" original checkpoint, or load it with transformers' from_pretrained(..., gguf_file={found[0].name!r}) and"
            " save_pretrained()"
        )


def _find(folder: Path, label: str) -> _Found:
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        notes = (f"{label}: has both {SINGLE} and an index; {SINGLE} is read, as transformers does",) if index.exists() else ()
        return _Found(read_header(single), (single,), notes)
    if index.exists():
        return _from_index(folder, index)
    others = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if len(others) == 1:
        return _Found(read_header(others[0]), (others[0],))
    if others:
        raise CheckpointError(f"{label}: {len(others)} safetensors files and no {INDEX} to say which tensors are meant")
    if (folder / BIN_SINGLE).exists() or (folder / BIN_INDEX).exists():
        from modist.checkpoint.pickled import load_pickled

        listed = {} if (folder / BIN_SINGLE).exists() else _weight_map(folder / BIN_INDEX)
        files = [folder / name for name in sorted(set(listed.values()) or {BIN_SINGLE})]
        arrays, tensors = load_pickled(files)
        if missing := sorted(listed.keys() - tensors.keys()):
            raise CheckpointError(f"{folder / BIN_INDEX}: lists tensor {missing[0][:200]!r}, which no file holds")
        return _Found(tensors, tuple(files), (f"{label}: pytorch_model.bin is held in memory while it is read",), arrays)
    if (folder / "adapter_config.json").exists():
        raise UserError(_ADAPTER.format(label=label))
    raise UserError(f"{label}: holds no weights ({SINGLE}, {INDEX} or {BIN_SINGLE})")


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    for tensor, name in weight_map.items():
        where = f"{index}: tensor {tensor[:200]!r} is said to lie in"
        if not isinstance(name, str):
            raise CheckpointError(f"{where} a {type(name).__name__}, not a file")
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise CheckpointError(f"{where} {name[:80]!r}, outside the folder")
        if not name.endswith((".safetensors", ".bin")) or "\0" in name:
            raise CheckpointError(f"{where} {name[:80]!r}, which is no weight file")
    return weight_map


def _from_index(folder: Path, index: Path) -> _Found:
    weight_map = _weight_map(index)
    tensors: dict[str, StoredTensor] = {}
    files = tuple(folder / name for name in sorted(set(weight_map.values())))
    for path in files:
        header = read_header(path)
        for name, tensor in header.items():
            if weight_map.get(name) == path.name:
                tensors[name] = tensor
            elif name not in weight_map:
                raise CheckpointError(f"{path}: holds tensor {name!r}, which {index.name} does not list")
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        name, file = missing[0], weight_map[missing[0]]
        raise CheckpointError(f"{index}: lists tensor {name[:200]!r} in {file[:200]!r}, which does not hold it")
    return _Found(tensors, files)
