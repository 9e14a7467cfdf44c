"""Tiny random models on disk, and a reader of what lies in such a folder that owes nothing to modist.

`write_folder` needs numpy alone and takes milliseconds; `make_trio` builds a real architecture with
transformers, a base and two fine-tunes of it.  Weights are drawn wide (0.5), so that many exponents occur.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

FAMILIES = ("llama", "qwen2-tied", "qwen2-untied", "mistral", "gemma", "qwen3")
LAYERS = 4

_STORED = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
SAFETENSORS_NAMES = {name: code for code, name in TORCH_NAMES.items()}


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: `bits` has its shape; BF16 is kept as uint16."""

    dtype: str
    bits: np.ndarray

    @property
    def float64(self) -> np.ndarray:
        return decode(self.bits, self.dtype)


def decode(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Stored bits -> float64, exactly."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.astype(np.float64)


def encode(values: np.ndarray, dtype: str) -> Tensor:
    """float64 -> the nearest stored value, ties to even; never through a wider type first."""
    values = np.asarray(values, dtype=np.float64)
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return Tensor(dtype, values.astype(_STORED[dtype]))
    step = spacing(values, "BF16")
    with np.errstate(over="ignore"):
        nearest = (np.rint(values / step) * step).astype(np.float32)
    return Tensor(dtype, (nearest.view(np.uint32) >> 16).astype(np.uint16))


def spacing(values: np.ndarray, dtype: str) -> np.ndarray:
    """One unit in the last place of `dtype` at each value's size (float64, subnormals included)."""
    digits, lowest = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126)}[dtype]
    _, exponent = np.frexp(np.abs(values))
    return np.ldexp(1.0, np.maximum(exponent - 1, lowest) - (digits - 1))


# -------------------------------------------------------------- hand


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Write one file; returns the bytes of tensors in it."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.bits.nbytes
        shape = list(tensor.bits.shape)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.bits).tobytes())
    return offset


def read_safetensors(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + length + end for end in entry["data_offsets"])
        bits = np.frombuffer(data[start:stop], dtype=_STORED[entry["dtype"]])
        tensors[name] = Tensor(entry["dtype"], bits.reshape(entry["shape"]))
    return tensors


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, by the index where there is one, which must then agree with the files."""
    files = sorted(folder.glob("*.safetensors"))
    found = {file.name: read_safetensors(file) for file in files}
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        assert len(found) == 1, f"{len(found)} safetensors files and no index in {folder}"
        return next(iter(found.values()))
    placed = json.loads(index.read_text())["weight_map"]
    for name, file in placed.items():
        assert name in found[file], f"the index places {name} in {file}, which does not hold it"
    assert sum(len(tensors) for tensors in found.values()) == len(placed), "files hold tensors the index lacks"
    return {name: found[file][name] for name, file in placed.items()}


def write_folder(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *, shards: int = 1
) -> Path:
    """A model folder of given tensors; `shards` > 1 spreads them over files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config or llama_config(tensors)), indent=2))
    names = list(tensors)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    placed, total = {}, 0
    for number, part in enumerate(np.array_split(np.arange(len(names)), shards), start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        chosen = {names[i]: tensors[names[i]] for i in part}
        total += write_safetensors(folder / file, chosen)
        placed |= dict.fromkeys(chosen, file)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


# -------------------------------------------------------------- transformers


def llama_shapes(hidden: int = 32, inner: int = 48, layers: int = LAYERS, vocabulary: int = 96) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small untied Llama (two heads, one of keys and values)."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        here = f"model.layers.{layer}."
        shapes |= {
            here + "input_layernorm.weight": (hidden,),
            here + "mlp.down_proj.weight": (hidden, inner),
            here + "mlp.gate_proj.weight": (inner, hidden),
            here + "mlp.up_proj.weight": (inner, hidden),
            here + "post_attention_layernorm.weight": (hidden,),
            here + "self_attn.k_proj.weight": (hidden // 2, hidden),
            here + "self_attn.o_proj.weight": (hidden, hidden),
            here + "self_attn.q_proj.weight": (hidden, hidden),
            here + "self_attn.v_proj.weight": (hidden // 2, hidden),
        }
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def llama_config(tensors: Mapping[str, Tensor], **changes: Any) -> dict[str, Any]:
    """A config that fits `tensors`."""
    found = [int(m[1]) for name in tensors if (m := re.search(r"\.layers\.(\d+)\.", name))]
    embedding = tensors.get("model.embed_tokens.weight")
    inner = tensors.get("model.layers.0.mlp.gate_proj.weight")
    vocabulary, hidden = embedding.bits.shape if embedding else (96, 32)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner.bits.shape[0] if inner else 48,
        "num_hidden_layers": max(found, default=0) + 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": TORCH_NAMES.get(next(iter(tensors.values())).dtype, "float32"),
    }
    return {**config, **changes}


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: str = "BF16", scale: float = 0.5
) -> dict[str, Tensor]:
    generator = np.random.default_rng(seed)
    return {name: encode(scale * generator.standard_normal(shape), dtype) for name, shape in shapes.items()}


def tuned(tensors: Mapping[str, Tensor], seed: int, noise: float, dtype: str | None = None) -> dict[str, Tensor]:
    """A fine-tune: every element moved by noise of the given standard deviation."""
    generator = np.random.default_rng(seed)
    return {
        name: encode(tensor.float64 + noise * generator.standard_normal(tensor.bits.shape), dtype or tensor.dtype)
        for name, tensor in tensors.items()
    }


# -------------------------------------------------------------- base and fine-tunes


@dataclass(frozen=True)
class Trio:
    """A base and two fine-tunes: `one` stays near it (slerp's line), `two` goes farther (its arc)."""

    base: Path
    one: Path
    two: Path
    layers: int = LAYERS

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.base, self.one, self.two


def plain_trio(folder: Path, dtype: str = "BF16", *, seed: int = 0, shards: int = 1, **shape: int) -> Trio:
    """A small Llama and two fine-tunes of it, by numpy alone."""
    tensors = random_tensors(llama_shapes(**shape), seed, dtype)
    base = write_folder(folder / "base", tensors, shards=shards)
    one = write_folder(folder / "one", tuned(tensors, seed + 1, 0.01), shards=shards)
    two = write_folder(folder / "two", tuned(tensors, seed + 2, 0.2), shards=shards)
    return Trio(base, one, two, shape.get("layers", LAYERS))


def make_trio(folder: Path, family: str, dtype: str = "BF16", *, seed: int = 0, shard_size: str = "5GB") -> Trio:
    """The same for one of FAMILIES, with transformers' own names, config and shards."""
    import torch
    from transformers import AutoModelForCausalLM

    seed += 10 * FAMILIES.index(family)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configuration(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start constant, which no trained model has
                parameter.add_(0.2 * torch.randn_like(parameter))
    model = model.to(getattr(torch, TORCH_NAMES[dtype]))
    model.save_pretrained(folder / "base", max_shard_size=shard_size)
    tensors = read_folder(folder / "base")
    config = json.loads((folder / "base" / "config.json").read_text())
    shards = len(list((folder / "base").glob("*.safetensors")))
    one = write_folder(folder / "one", tuned(tensors, seed + 1, 0.01), config, shards=shards)
    two = write_folder(folder / "two", tuned(tensors, seed + 2, 0.2), config, shards=shards)
    return Trio(folder / "base", one, two)


def configuration(family: str) -> Any:
    """A transformers config of the family with four layers of 64."""
    import transformers

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
        "max_position_embeddings": 128,
        "initializer_range": 0.5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    made = {
        "llama": lambda: transformers.LlamaConfig(**sizes, tie_word_embeddings=False),
        "qwen2-tied": lambda: transformers.Qwen2Config(**sizes, tie_word_embeddings=True),
        "qwen2-untied": lambda: transformers.Qwen2Config(**sizes, tie_word_embeddings=False),
        "mistral": lambda: transformers.MistralConfig(**sizes, sliding_window=None),
        "gemma": lambda: transformers.GemmaConfig(**sizes, head_dim=16),
        "qwen3": lambda: transformers.Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=False),
    }
    return made[family]()


def add_tokenizer(folder: Path, words: Iterable[str] = (), size: int = 160) -> Path:
    """Give a folder a word tokenizer of exactly `size` ids, special ones too, for models that generate."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    listed = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(words)]
    listed += [f"word{number}" for number in range(size - len(listed))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed[:size])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> Path:
    """A recipe as YAML; paths in it become strings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(_plain(recipe), sort_keys=False))
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
