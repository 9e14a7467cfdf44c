"""What one model folder is, from its config, its headers and its small files; no tensor is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import Checkpoint, read_json
from modist.checkpoint.quantised import quantisation
from modist.errors import CheckpointError
from modist.inspection.kind import KINDS, kind_of
from modist.inspection.memory import (
    Memory,
    context_of,
    count,
    head_dim_of,
    heads_of,
    hidden_of,
    kv_heads_of,
    layers_of,
    memory_of,
)
from modist.merge.compare import architecture, rope_text
from modist.merge.layer import layer_of, text_config
from modist.merge.manifest import read_manifest
from modist.merge.plan import HEAD
from modist.report.card import licence_of
from modist.vocabulary.chat_template import folder_template
from modist.vocabulary.tokens import token_map


@dataclass(frozen=True)
class Origin:
    """How modist made a folder: its version, the method, the seed, the parents' names."""

    modist: str
    method: str
    seed: int | None
    parents: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What one model is.

    Attributes:
        name: what to call it.
        folder: where it lies; for a hub id its local copy.
        here: whether its weights are; a hub's model is described without them.
        commit: of the hub model, or None.
        architecture: the class its config names.
        model_type: the config's, or None.
        parameters: elements of all tensors.
        parameters_by_kind: the same by embeddings, attention, mlp, norms, head, other.
        parameters_by_layer: layer -> {kind: elements}.
        layers, hidden, heads, kv_heads, head_dim, vocabulary, context: numbers of the config, None where it does not say;
            the vocabulary is the config's, padding included.
        rope: how positions are told.
        tied: whether the head is the embeddings.
        dtypes: stored dtype -> elements.
        weight_bytes: of the tensors.
        folder_bytes: of all files in the folder, weights still at a hub included.
        files: weight file -> bytes; of one still at a hub, those of its tensors.
        tokenizer: its kind, or None.
        tokens: how many it knows, None where that cannot be read.
        template: first eight hexadecimal digits of the chat template's SHA-256, or None where there is no template.
        quantisation: how the weights are quantised, or None.
        licence: as the folder's card states it, or None.
        made_by: how modist made it, or None.
        memory: what it needs to run.
        notes: what is odd.
    """

    name: str
    folder: str
    here: bool
    commit: str | None
    architecture: str
    model_type: str | None
    parameters: int
    parameters_by_kind: Mapping[str, int]
    parameters_by_layer: Mapping[int, Mapping[str, int]]
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None
    rope: str
    tied: bool
    dtypes: Mapping[str, int]
    weight_bytes: int
    folder_bytes: int
    files: Mapping[str, int]
    tokenizer: str | None
    tokens: int | None
    template: str | None
    quantisation: str | None
    licence: str | None
    made_by: Origin | None
    memory: Memory
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def model_facts(checkpoint: Checkpoint, commit: str | None = None) -> ModelFacts:
    """Describe an open checkpoint."""
    config = text_config(checkpoint.config)
    tensors = checkpoint.tensors.values()
    by_kind = dict.fromkeys(KINDS, 0)
    by_layer: dict[int, dict[str, int]] = {}
    dtypes: dict[str, int] = {}
    for tensor in tensors:
        kind, layer = kind_of(tensor.name), layer_of(tensor.name)
        by_kind[kind] += tensor.elements
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.elements
        if layer is not None:
            row = by_layer.setdefault(layer, {"attention": 0, "mlp": 0, "norms": 0, "other": 0})
            row[kind if kind in row else "other"] += tensor.elements
    quantisation = _quantisation(checkpoint)
    notes = list(checkpoint.notes)
    if quantisation:
        notes.append(f"{checkpoint.label}: packed weights count by their stored elements, not by the numbers they stand for")
    stated, found = layers_of(checkpoint), 1 + max(by_layer, default=-1)
    if by_layer and stated != found:
        notes.append(f"{checkpoint.label}: its config says {stated} layers, its tensors show {found}")
    files = _weight_files(checkpoint)
    template = folder_template(checkpoint.folder)
    tokenizer, tokens = _tokenizer(checkpoint.folder)
    model_type = config.get("model_type")
    return ModelFacts(
        name=checkpoint.label,
        folder=str(checkpoint.folder),
        here=checkpoint.here,
        commit=commit,
        architecture=architecture(checkpoint),
        model_type=model_type if isinstance(model_type, str) else None,
        parameters=sum(by_kind.values()),
        parameters_by_kind={kind: elements for kind, elements in by_kind.items() if elements},
        parameters_by_layer=dict(sorted(by_layer.items())),
        layers=stated,
        hidden=hidden_of(config),
        heads=heads_of(config),
        kv_heads=kv_heads_of(config),
        head_dim=head_dim_of(config),
        vocabulary=count(config, "vocab_size"),
        context=context_of(config),
        rope=_positions(checkpoint, config),
        tied=_is_tied(checkpoint, config),
        dtypes=dtypes,
        weight_bytes=checkpoint.nbytes,
        folder_bytes=sum(files.values()) + _other_bytes(checkpoint.folder, files),
        files=files,
        tokenizer=tokenizer,
        tokens=tokens,
        template=hashlib.sha256(template.encode()).hexdigest()[:8] if template is not None else None,
        quantisation=quantisation,
        licence=licence_of(checkpoint.folder),
        made_by=_origin(checkpoint.folder),
        memory=memory_of(checkpoint),
        notes=tuple(notes),
    )


def _weight_files(checkpoint: Checkpoint) -> dict[str, int]:
    if checkpoint.here:
        return {path.name: path.stat().st_size for path in checkpoint.files}
    files: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        files[tensor.file.name] = files.get(tensor.file.name, 0) + tensor.nbytes
    return files


def _other_bytes(folder: Path, files: Mapping[str, int]) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name not in files)


def _is_tied(checkpoint: Checkpoint, config: Mapping[str, Any]) -> bool:
    stated = config.get("tie_word_embeddings")
    return stated if isinstance(stated, bool) else HEAD not in checkpoint.tensors


def _positions(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str:
    if any(key in config for key in ("rope_theta", "rope_parameters", "rope_scaling")):
        return rope_text(config)
    if config.get("alibi") or config.get("model_type") in ("bloom", "mpt"):
        return "none (ALiBi)"
    if any(".wpe." in f".{name}" or "embed_positions" in name for name in checkpoint.tensors):
        return "none (learned positions)"
    return rope_text(config)


def _quantisation(checkpoint: Checkpoint) -> str | None:
    stated = checkpoint.config.get("quantization_config")
    if isinstance(stated, Mapping) and stated:
        method = str(stated.get("quant_method", "unnamed method"))
        bits = stated.get("bits", stated.get("w_bit"))
        return f"{method}, {bits} bits" if isinstance(bits, int) else method
    return quantisation(checkpoint)


def _tokenizer(folder: Path) -> tuple[str | None, int | None]:
    """What kind of tokenizer a folder holds, and how many tokens it knows, the added ones too."""
    if not (folder / "tokenizer.json").exists():
        for name, kind in (("tokenizer.model", "SentencePiece"), ("tekken.json", "Tekken"), ("vocab.json", "BPE (vocab.json)")):
            if (folder / name).exists():
                return kind, None
        return None, None
    try:
        data = read_json(folder / "tokenizer.json")
    except CheckpointError:
        return "damaged tokenizer.json", None
    model = data.get("model")
    kind = str(model.get("type") or "unnamed kind") if isinstance(model, Mapping) else "unnamed kind"
    if isinstance(model, Mapping) and model.get("byte_fallback"):
        kind += " with byte fallback"
    elif "ByteLevel" in str(data.get("pre_tokenizer")) or "ByteLevel" in str(data.get("decoder")):
        kind = f"byte-level {kind}"
    tokens = token_map(folder)
    return kind, len(tokens) if tokens else None


def _origin(folder: Path) -> Origin | None:
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    versions, parents, seed = manifest.get("versions"), manifest.get("parents"), manifest.get("seed")
    names = [str(p.get("name")) for p in parents if isinstance(p, Mapping)] if isinstance(parents, list) else []
    version = str(versions.get("modist", "unknown")) if isinstance(versions, Mapping) else "unknown"
    return Origin(version, str(manifest.get("method", "unknown")), seed if isinstance(seed, int) else None, tuple(names))
