"""Statistics of a model, for recipes that scale by them: computed once, with transformers; merging reads the file alone."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modist.errors import CheckpointError, UserError, nearest

if TYPE_CHECKING:
    from modist.checkpoint import Checkpoint

KINDS = ("aim", "fisher")
# FIM-Merging's: 8 sequences of 64 tokens.
RANDOM = (8, 64)


@dataclass(frozen=True)
class StatisticsReport:
    """What was computed.

    Attributes:
        out, kind, model: as asked.
        tensors: that have statistics now.
        parameters: share of the model's elements that lie in them.
        sequences, tokens: that were read.
        cut: sequences longer than the model's context, of which the beginning was read.
        data: what was read: a file's name, or how random tokens were drawn.
        sha256: of the file.
    """

    out: str
    kind: str
    model: str
    tensors: int
    parameters: float
    sequences: int
    tokens: int
    cut: int
    data: str
    sha256: str


@dataclass(frozen=True)
class _Reading:
    sequences: Sequence[Sequence[int]]
    cut: int
    name: str
    digest: str


def make_statistics(
    model: str | Path,
    out: str | Path,
    *,
    kind: str,
    data: Path | None = None,
    random_tokens: tuple[int, int] | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> StatisticsReport:
    """Compute the statistics of one model and write them.

    Args:
        model: a folder or a hub id: the base that recipes will name.
        out: the file to write, `.safetensors`; it appears whole or not at all.
        kind: `aim` (mean absolute activations) or `fisher` (mean of the Fisher diagonal).
        data: JSONL of `text` or `messages`.
        random_tokens: in its place (sequences, tokens of each); 8x64 for `fisher` where neither is given.
        seed: of random tokens and of Fisher's labels.
        device, dtype: to run the model with.
        trust_remote_code: run the Python files that come with the model.
        advance: told sequences done and of how many.

    Raises:
        UserError: what was asked cannot be done; nothing is written.
        CheckpointError, HubError, ModistError: the model is damaged, cannot be had, or gives no finite numbers.
    """
    out = Path(out)
    _check(kind, data, random_tokens, seed, out)
    from modist.checkpoint import Checkpoint
    from modist.mixture.load import load_tokenizer

    folder, label = _folder(str(model), trust_remote_code)
    checkpoint = Checkpoint.open(folder, label)
    passages = None
    if data is not None:
        from modist.search.likelihoods import read_passages

        passages = read_passages(data)
    live = _live(label, folder, device, dtype, trust_remote_code)
    if passages is not None and data is not None:
        reading = _texts(passages, data, load_tokenizer(folder, trust_remote_code=trust_remote_code), live, label)
    else:
        reading = _random(random_tokens or RANDOM, seed, live)
    total = len(reading.sequences)
    values: Mapping[str, npt.NDArray[np.float64]]
    if kind == "aim":
        from modist.search.activations import mean_activations

        values = mean_activations(live, reading.sequences, lambda done: advance(done, total))
    else:
        from modist.search.fisher import fisher_means

        found = fisher_means(live, reading.sequences, seed=seed, advance=lambda done: advance(done, total))
        values = {name: np.array(value) for name, value in found.items()}
    values = _stored(checkpoint, values, kind)
    metadata = _metadata(checkpoint, kind, reading, seed, dtype)
    sha256 = write_statistics(out, values, metadata)
    covered = sum(checkpoint.tensors[name].elements for name in values)
    report = StatisticsReport(
        out=str(out),
        kind=kind,
        model=label,
        tensors=len(values),
        parameters=covered / sum(tensor.elements for tensor in checkpoint.tensors.values()),
        sequences=total,
        tokens=sum(map(len, reading.sequences)),
        cut=reading.cut,
        data=reading.name,
        sha256=sha256,
    )
    checkpoint.close()
    return report


def read_random_tokens(text: str) -> tuple[int, int]:
    """`8x64` -> (8, 64); UserError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*", text)
    if not found or not int(found[1]) or int(found[2]) < 2:
        raise UserError(f"--random-tokens {text}: write sequences x tokens, at least 1x2, as in 8x64")
    return int(found[1]), int(found[2])


def write_statistics(out: Path, values: Mapping[str, npt.NDArray[np.float64]], metadata: Mapping[str, str]) -> str:
    """Write a statistics file, whole or not at all; returns its SHA-256.

    Args:
        values: tensor -> its statistics; float32 is stored for arrays, float64 for single numbers.
        metadata: for the header; `format` and `version` are added.

    Raises:
        UserError: the file cannot be written.
    """
    from modist.checkpoint.header import build_header
    from modist.merge.scaling import FORMAT, VERSION

    listed = [(name, "F64" if value.ndim == 0 else "F32", value.shape) for name, value in sorted(values.items())]
    # Wider numbers first, so that all lie at multiples of their size.
    listed.sort(key=lambda entry: entry[1] != "F64")
    prefix, _ = build_header(listed, {"format": FORMAT, "version": VERSION, **metadata})
    parts = [values[name].astype("<f8" if dtype == "F64" else "<f4").tobytes() for name, dtype, _ in listed]
    raw = b"".join([prefix, *parts])
    growing = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with growing.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        growing.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        growing.unlink(missing_ok=True)
    return hashlib.sha256(raw).hexdigest()


def _check(kind: str, data: Path | None, random_tokens: tuple[int, int] | None, seed: int, out: Path) -> None:
    if kind not in KINDS:
        raise UserError(f"--kind {kind}: unknown{nearest(kind, KINDS)} (known: {', '.join(KINDS)})")
    if data is not None and random_tokens is not None:
        raise UserError("--data and --random-tokens exclude each other; give one")
    if kind == "aim" and data is None and random_tokens is None:
        raise UserError("--kind aim needs --data FILE.jsonl, a few hundred texts (or --random-tokens 8x64)")
    if seed < 0:
        raise UserError(f"--seed {seed}: a seed is 0 or more")
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: statistics are written into a .safetensors file")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {str(out.parent)!r}")
    if out.exists():
        from modist.merge.scaling import read_statistics

        try:
            read_statistics(out)
        except (CheckpointError, UserError):
            raise UserError(f"{out}: is there and holds no statistics; it is not overwritten") from None


def _folder(model: str, trust_remote_code: bool) -> tuple[Path, str]:
    from modist.recipe import ModelReference

    try:
        reference = ModelReference.parse(model)
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.adapter:
        raise UserError(f"{model}: adapters cannot be run yet; name the model alone")
    if reference.is_local:
        if not reference.folder.is_dir():
            raise UserError(f"{model}: there is no such folder")
        return reference.folder, reference.name
    from modist.checkpoint.hub import fetch

    return fetch(reference, allow_code=trust_remote_code).folder, str(reference)


def _live(label: str, folder: Path, device: str | None, dtype: str, trust_remote_code: bool) -> Any:
    from modist.mixture.load import load_model
    from modist.mixture.placement import choose_device

    known = ("float32", "bfloat16", "float16", "float64")
    if dtype not in known:
        raise UserError(f"there is no dtype {dtype!r}{nearest(dtype, known)}; one of {', '.join(known)}")
    options: dict[str, Any] = {"dtype": dtype}
    if device is not None:
        options["device_map"] = choose_device(device, lambda line: None)
    return load_model(label, folder, trust_remote_code=trust_remote_code, **options)


def _texts(passages: Sequence[Any], data: Path, tokenizer: Any, live: Any, label: str) -> _Reading:
    from modist.mixture.load import context_of

    if tokenizer is None:
        raise UserError(f"{label}: has no tokenizer to read {data} with; --random-tokens needs none")
    context = context_of(live) or math.inf
    sequences, cut = [], 0
    for passage in passages:
        if isinstance(passage.content, str):
            ids = list(tokenizer(passage.content)["input_ids"])
        elif not tokenizer.chat_template:
            raise UserError(f"{passage.place}: a chat, and {label} has no chat template; give rows of 'text'")
        else:
            ids = list(tokenizer.apply_chat_template(passage.content, return_dict=True)["input_ids"])
        if not ids:
            raise UserError(f"{passage.place}: holds no token")
        cut += len(ids) > context
        sequences.append(ids[: int(min(context, len(ids)))])
    return _Reading(sequences, cut, data.name, hashlib.sha256(data.read_bytes()).hexdigest())


def _random(shape: tuple[int, int], seed: int, live: Any) -> _Reading:
    from modist.mixture.load import context_of

    context = context_of(live)
    if context is not None and shape[1] > context:
        raise UserError(f"--random-tokens {shape[0]}x{shape[1]}: the model's context is {context} tokens")
    rows = int(live.get_input_embeddings().weight.shape[0])
    ids = np.random.default_rng(seed).integers(0, rows, shape)
    digest = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
    return _Reading(ids.tolist(), 0, f"random tokens {shape[0]}x{shape[1]}, seed {seed}", digest)


def _stored(
    checkpoint: Checkpoint, values: Mapping[str, npt.NDArray[np.float64]], kind: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Those whose tensors lie in the checkpoint under the same name and in the same shape: a tied head does not."""
    found = {}
    for name, value in values.items():
        stored = checkpoint.tensors.get(name)
        if stored is not None and (kind != "aim" or stored.shape[1:] == value.shape):
            found[name] = value
    if not found:
        what = "linear layers" if kind == "aim" else "parameters"
        raise UserError(f"{checkpoint.label}: none of its {what} lies in the checkpoint under the name it has when it is run")
    return found


def _metadata(checkpoint: Checkpoint, kind: str, reading: _Reading, seed: int, dtype: str) -> dict[str, str]:
    from modist.merge.scaling import model_digest
    from modist.version import VERSION

    return {
        "kind": kind,
        "model": checkpoint.label,
        "model_digest": model_digest(checkpoint),
        "data": reading.name,
        "data_digest": reading.digest,
        "sequences": str(len(reading.sequences)),
        "tokens": str(sum(map(len, reading.sequences))),
        "seed": str(seed),
        "dtype": dtype,
        "modist": VERSION,
    }
