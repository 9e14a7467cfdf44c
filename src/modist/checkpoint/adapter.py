"""A LoRA adapter as PEFT stores it: factors whose products are added to a model's tensors, block by block as they are read.

    theta = base + scale B A        scale = alpha / r, or alpha / sqrt(r) with `use_rslora`

Source: Hu et al. 2021, LoRA (arXiv 2106.09685), eq. 3; Kalajdzievski 2023 (arXiv 2312.03732) for the root.  A of [r, in] and B
of [out, r] make [out, in]; of an embedding, and with `fan_in_fan_out`, the product is taken transposed.  Products are made in
float32, in runs of rows that depend on nothing but the shapes, so an element is the same in whatever block it is read.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modist.checkpoint.adapter_config import CONFIG, WAY_OUT, AdapterConfig, LowRank
from modist.checkpoint.dtype import FLOATS, Floats
from modist.checkpoint.folder import Checkpoint, read_json
from modist.checkpoint.header import read_header
from modist.errors import CheckpointError, UserError, nearest

WEIGHTS = "adapter_model.safetensors"
BIN_WEIGHTS = "adapter_model.bin"

# Multiplications in one product: small enough for every BLAS to do it on one thread, in one order.
_PRODUCT = 1 << 18
_KEPT_BYTES = 32 << 20

PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?$")
_OTHER_FACTOR = re.compile(r"\.(lora_[a-zA-Z_]+)")


@dataclass
class Adapter:
    """One adapter folder, open for reading.

    Attributes:
        folder, label: where it lies, and what the user called it.
        config: adapter_config.json.
        updates: module -> its update, as yet of no base.
        saved: tensors that replace the base's (`modules_to_save`): the base's name -> the adapter's.
        copies: the same for tensors that its factors are added to, which PEFT keeps beside them where they are embeddings.
        weights: its file's tensors.
        commit: of a hub.
    """

    folder: Path
    label: str
    config: dict[str, Any]
    updates: Mapping[str, LowRank]
    saved: dict[str, str]
    copies: dict[str, str]
    weights: Checkpoint
    commit: str | None = None
    _kept: OrderedDict[str, Floats] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, folder: str | Path, label: str = "", commit: str | None = None) -> Adapter:
        """Open a folder by its config and header; no factor is read.

        Raises:
            UserError: there is none, or one of a kind that cannot be added on the fly, with the way out.
            CheckpointError: it is damaged, or its shapes contradict its config.
        """
        folder = Path(folder)
        label = label or str(folder)
        if not folder.is_dir():
            raise UserError(f"{label}: there is no such folder")
        if not (folder / CONFIG).exists():
            raise UserError(f"{label}: is no adapter: it has no {CONFIG}")
        config = read_json(folder / CONFIG)
        settings = AdapterConfig(folder / CONFIG, label, config)
        weights = _open_weights(folder, label)
        factors, saved, copies = _sorted_out(label, weights, settings)
        updates = {module: settings.update(module, weights.tensors, sides) for module, sides in sorted(factors.items())}
        if not updates and not saved:
            raise CheckpointError(f"{label}: holds no LoRA factors")
        return cls(folder, label, config, updates, saved, copies, weights, commit)

    @property
    def base(self) -> str | None:
        """The model it says it was trained on."""
        named = self.config.get("base_model_name_or_path")
        return named if isinstance(named, str) and named else None

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies it beside its weight file, for the manifest."""
        digest = hashlib.sha256((self.folder / CONFIG).read_bytes()).hexdigest()
        return {"adapter": self.label, "commit": self.commit, "config_sha256": digest}

    def held_bytes(self, update: LowRank, columns: int) -> int:
        """Memory that reading a block of an updated tensor takes beside the block."""
        return 4 * (update.rank * columns + 2 * _rows_a_product(update.rank, columns) * columns)

    def add(self, update: LowRank, shape: tuple[int, ...], start: int, values: Floats) -> None:
        """Add an update, in place, to elements [start, start + n) of a tensor of a shape, float32 [n]."""
        rows, columns = shape
        if not len(values):
            return
        step = _rows_a_product(update.rank, columns)
        first = start // columns // step * step
        last = min(rows, -(-(start + len(values)) // columns))
        last = min(rows, -(-last // step) * step)
        left = self._left(update, rows, first, last)
        np.multiply(left, np.float32(update.scale), out=left)
        right = self._right(update, columns)
        for row in range(first, last, step):
            product = np.matmul(left[row - first : row - first + step], right).reshape(-1)
            begin = row * columns - start
            inside = slice(max(0, begin), min(len(values), begin + len(product)))
            np.add(values[inside], product[inside.start - begin : inside.stop - begin], out=values[inside])

    def _left(self, update: LowRank, rows: int, first: int, last: int) -> Floats:
        if not update.transposed:
            return self.weights.floats(update.left, first * update.rank, last * update.rank).reshape(-1, update.rank)
        columns = [self.weights.floats(update.left, r * rows + first, r * rows + last) for r in range(update.rank)]
        return np.ascontiguousarray(np.stack(columns, axis=1))

    def _right(self, update: LowRank, columns: int) -> Floats:
        with self._lock:
            if update.right in self._kept:
                self._kept.move_to_end(update.right)
                return self._kept[update.right]
        found = self.weights.floats(update.right)
        right = found.reshape(columns, update.rank).T if update.transposed else found.reshape(update.rank, columns)
        right = np.ascontiguousarray(right)
        with self._lock:
            self._kept[update.right] = right
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return right

    def close(self) -> None:
        self.weights.close()


def _rows_a_product(rank: int, columns: int) -> int:
    return max(1, _PRODUCT // (rank * columns))


def _open_weights(folder: Path, label: str) -> Checkpoint:
    if (folder / WEIGHTS).exists():
        return Checkpoint(folder, label, {}, read_header(folder / WEIGHTS), (folder / WEIGHTS,))
    if (folder / BIN_WEIGHTS).exists():
        from modist.checkpoint.pickled import load_pickled

        arrays, tensors = load_pickled([folder / BIN_WEIGHTS])
        return Checkpoint(folder, label, {}, tensors, (folder / BIN_WEIGHTS,), _arrays=arrays)
    raise UserError(f"{label}: has an {CONFIG} and no {WEIGHTS}")


def _sorted_out(
    label: str, weights: Checkpoint, settings: AdapterConfig
) -> tuple[dict[str, dict[str, str]], dict[str, str], dict[str, str]]:
    """Factors by module, `A` and `B` (or `embedding_A`, ...) -> tensor; whole tensors and copies, by the base's name."""
    factors: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    copies: dict[str, str] = {}
    for name, stored in weights.tensors.items():
        plain = name.removeprefix(PREFIX)
        if stored.dtype not in FLOATS:
            raise CheckpointError(f"{label}: tensor {name!r} has the dtype {stored.dtype}, not a float")
        if found := _FACTOR.fullmatch(plain):
            side = (found["kind"] or "") + found["side"]
            factors.setdefault(found["module"], {})[side] = name
        elif plain.endswith(".base_layer.weight"):
            copies[plain.replace(".base_layer.", ".")] = name
        elif odd := _OTHER_FACTOR.search(plain):
            kind = "DoRA" if "magnitude" in odd[1] else odd[1]
            raise UserError(f"{label}: holds {name!r}: {kind} cannot be added on the fly; {WAY_OUT}")
        elif settings.saves(plain):
            saved[plain.replace(".modules_to_save.default", "").replace(".modules_to_save", "")] = name
        else:
            raise UserError(f"{label}: holds {name!r}, which is no LoRA factor and in none of modules_to_save; {WAY_OUT}")
    return factors, saved, copies


def adapt(checkpoint: Checkpoint, adapter: Adapter, label: str) -> Checkpoint:
    """A model with an adapter on it: the same tensors, of which some are updated as they are read, some replaced.

    Raises:
        UserError: it was trained on another base: a tensor it updates is not there, or of another shape.
    """
    from dataclasses import replace

    updates: dict[str, LowRank] = {}
    for module, update in adapter.updates.items():
        name = _tensor_of(f"{module}.weight", checkpoint, adapter)
        left, right = adapter.weights.tensors[update.left].shape, adapter.weights.tensors[update.right].shape
        shape = (left[1], right[0]) if update.transposed else (left[0], right[1])
        _check_shape(checkpoint, adapter, name, shape)
        updates[name] = update
    tensors, arrays = dict(checkpoint.tensors), checkpoint._arrays
    replaced = {}
    for base_name, own in (adapter.saved | adapter.copies).items():
        name = base_name if base_name == HEAD else _tensor_of(base_name, checkpoint, adapter)
        if name in checkpoint.tensors:
            _check_shape(checkpoint, adapter, name, adapter.weights.tensors[own].shape)
        replaced[name] = own
    if replaced and (arrays is not None or adapter.weights._arrays is not None):
        held = {name: checkpoint.read(name) for name in checkpoint.tensors} if arrays is None else dict(arrays)
        arrays = held | {name: adapter.weights.read(own) for name, own in replaced.items()}
    tensors |= {name: replace(adapter.weights.tensors[own], name=name) for name, own in replaced.items()}
    files = (*checkpoint.files, *adapter.weights.files)
    notes = (*checkpoint.notes, *_remarks(checkpoint, adapter, updates))
    return Checkpoint(
        checkpoint.folder, label, checkpoint.config, tensors, files, notes, checkpoint.here,
        adapter=adapter, updates=updates, _arrays=arrays,
    )  # fmt: skip


HEAD = "lm_head.weight"


def _tensor_of(wanted: str, checkpoint: Checkpoint, adapter: Adapter) -> str:
    """The base's tensor for one of the adapter's names, which may have other words in front."""
    tensors = checkpoint.tensors
    if wanted in tensors:
        return wanted
    if wanted == HEAD:
        raise UserError(f"{adapter.label}: changes the head, which {checkpoint.label} has tied to its embeddings; {WAY_OUT}")
    parts = wanted.split(".")
    tail = ".".join(parts[parts.index("layers") :] if "layers" in parts else parts[-2:])
    found = [name for name in tensors if name.endswith(f".{tail}") or name == tail]
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{adapter.label}: changes {wanted!r}, which {checkpoint.label} has not{nearest(wanted, tensors)}: it was trained on"
        f" another base{_of(adapter)}"
    )


def _check_shape(checkpoint: Checkpoint, adapter: Adapter, name: str, shape: tuple[int, ...]) -> None:
    own = checkpoint.tensors[name].shape
    if own != shape:
        raise UserError(
            f"{adapter.label}: its change of {name!r} has the shape {list(shape)}, in {checkpoint.label} it is {list(own)}: it"
            f" was trained on another base{_of(adapter)}"
        )


def _of(adapter: Adapter) -> str:
    return f" ({adapter.base})" if adapter.base else ""


def _remarks(checkpoint: Checkpoint, adapter: Adapter, updates: Mapping[str, LowRank]) -> list[str]:
    found = []
    named = (adapter.base or "").rstrip("/").rsplit("/", 1)[-1].lower()
    here = {checkpoint.label.split("@")[0].rsplit("/", 1)[-1].lower(), checkpoint.folder.resolve().name.lower()}
    if named and named not in here:
        found.append(f"{adapter.label}: was trained on {adapter.base}, and is added to {checkpoint.label}")
    text = checkpoint.config.get("text_config")
    config = text if isinstance(text, dict) else checkpoint.config
    if HEAD not in checkpoint.tensors or config.get("tie_word_embeddings"):
        embeddings = [name for name in updates if re.search(r"embed_tokens|\bwte\b", name)]
        if embeddings:
            found.append(f"{adapter.label}: changes embeddings that {checkpoint.label}'s head is tied to: both change")
    return found
