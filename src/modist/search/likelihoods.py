"""A data file scored once with every expert: log p_i of each token, kept on disk.

    CACHE/<expert>-<digest>/<digest>.npz    one expert's scores of some consecutive rows

An expert's folder is named by a digest of its tensors and config, a file by one of the very token ids it read, so whatever
changes what would be scored (another checkpoint, tokenizer, chat template, another row) changes the name, and an expert that
is added is the only one to be scored.  A file appears whole, by a rename; a damaged one is made again.  A killed run loses one
file's worth of work.

Of a text the first token is context; of a chat only the last message's tokens, the assistant's, are scored.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modist.errors import ModistError, UserError
from modist.recipe import Passage, read_passages

if TYPE_CHECKING:
    from modist.mixture import Experts

__all__ = ["Likelihoods", "Passage", "model_digest", "read_passages", "score_passages"]

# Scored tokens after which a file is closed: a minute's work for a model of 0.5B parameters on two cores.
BLOCK_TOKENS = 2048
# Part of every name: raise it when the same ids would get other numbers.
_FORMAT = "1"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# Of each file of weights so many pieces of so many bytes are read for the digest, evenly spread.
_PIECES, _PIECE = 64, 1 << 16


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """What every expert says of every scored token, row after row.

    Attributes:
        names: of the experts.
        log_probs: log p_i(x_t), natural, float32 [tokens, experts]; -inf for a token an expert does not have.
        log_masses: log of what each expert leaves for ids that may be chosen, likewise; None where no id is masked.
        lengths: scored tokens of each row, int64 [rows].
        domains: of each row, or None.
        scored: rows that had to be scored now, by expert; the others came from disk.
    """

    names: tuple[str, ...]
    log_probs: npt.NDArray[np.float32]
    log_masses: npt.NDArray[np.float32] | None
    lengths: npt.NDArray[np.int64]
    domains: tuple[str | None, ...]
    scored: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.log_probs)


@dataclass(frozen=True)
class _Reading:
    """One row as one expert reads it: `ids[first:]` are scored."""

    place: str
    ids: tuple[int, ...]
    first: int

    @property
    def count(self) -> int:
        return len(self.ids) - self.first


def score_passages(
    experts: Experts, passages: Sequence[Passage], cache: Path, advance: Callable[[float], object] | None = None
) -> Likelihoods:
    """Score rows with every expert, or take from disk what was scored before.

    Args:
        experts: from `modist.mixture.load_experts`.
        passages: from `read_passages`.
        cache: folder; made where there is none.
        advance: told which share of the scoring that is left is done, from 0 to 1.

    Raises:
        UserError: no rows, a row without a token to score, an expert that cannot read one, an unwritable cache.
    """
    if not passages:
        raise UserError("there are no rows, so there are no tokens to score")
    if experts.tokenizer is None:
        raise UserError("no expert has a tokenizer, so there is nothing to read a text with")
    readings = _readings(experts, passages)
    lengths = np.array([row.count for row in readings[0]], dtype=np.int64)
    shelves = [_Shelf(experts, index, cache) for index in range(len(experts))]
    blocks = list(_blocks(lengths))
    columns: list[list[npt.NDArray[np.float32] | None]] = [
        [shelf.load(rows[block]) for block in blocks] for shelf, rows in zip(shelves, readings, strict=True)
    ]
    missing = [
        (expert, number) for expert, column in enumerate(columns) for number, found in enumerate(column) if found is None
    ]
    total, done = sum(int(lengths[blocks[number]].sum()) for _, number in missing), 0
    scored = [0] * len(experts)
    for expert, number in missing:
        rows = readings[expert][blocks[number]]
        found = []
        for row in rows:
            found.append(_score(experts, expert, row))
            done += row.count
            if advance is not None:
                advance(done / total)
        columns[expert][number] = shelves[expert].keep(rows, np.concatenate(found, axis=1))
        scored[expert] += len(rows)
    # [experts, 2, tokens]: log p, log masses
    table = np.stack([np.concatenate([part for part in column if part is not None], axis=1) for column in columns])
    return Likelihoods(
        names=experts.names,
        log_probs=np.ascontiguousarray(table[:, 0].T),
        log_masses=None if experts.vocabulary.whole else np.ascontiguousarray(table[:, 1].T),
        lengths=lengths,
        domains=tuple(passage.domain for passage in passages),
        scored=tuple(scored),
    )


def _readings(experts: Experts, passages: Sequence[Passage]) -> list[list[_Reading]]:
    """Each row as each expert reads it, [experts][rows]."""
    from modist.mixture.decode import encode_prompts

    found: list[list[_Reading]] = [[] for _ in range(len(experts))]
    for passage in passages:
        place, content = passage.place, passage.content
        if isinstance(content, str):
            ids = tuple(experts.tokenizer(content)["input_ids"])
            if len(ids) < 2:
                raise UserError(f"{place}: nothing to score: a text needs two tokens, of which the first is context")
            for rows in found:
                rows.append(_Reading(place, ids, 1))
            continue
        answer = tuple(experts.tokenizer(content[-1]["content"], add_special_tokens=False)["input_ids"])
        if not answer:
            raise UserError(f"{place}: nothing to score: the assistant's message is empty")
        try:
            prompts = [rows[0] for rows in encode_prompts(experts, [content[:-1]])]
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        for rows, prompt in zip(found, prompts, strict=True):
            rows.append(_Reading(place, (*prompt, *answer), len(prompt)))
    return found


def _blocks(lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive rows of about BLOCK_TOKENS tokens.

    A block ends by what is in it, so rows that are added at the end leave all blocks but the last as they were.
    """
    first, count = 0, 0
    for row, length in enumerate(lengths):
        count += int(length)
        if count >= BLOCK_TOKENS:
            yield slice(first, row + 1)
            first, count = row + 1, 0
    if first < len(lengths):
        yield slice(first, len(lengths))


def _score(experts: Experts, expert: int, row: _Reading) -> npt.NDArray[np.float32]:
    """log p_i and log masses of a row's tokens, float32 [2, n]."""
    from modist.mixture.score import expert_scores

    try:
        parts = expert_scores(experts, expert, row.ids, row.first)
    except UserError as error:
        raise UserError(f"{row.place}: {error}") from None
    # The logits are float32 at most (but in tests), so nothing is lost.
    found = np.stack([part.numpy() for part in parts]).astype(np.float32)
    if np.isnan(found).any():
        raise ModistError(f"{row.place}: {experts.names[expert]} gives NaN for a token; the model is damaged or overflows")
    return found


class _Shelf:
    """One expert's scores on disk."""

    def __init__(self, experts: Experts, index: int, cache: Path) -> None:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", experts.names[index]).strip(".-")[:60] or "expert"
        self._folder = cache / f"{slug}-{model_digest(experts.models[index], experts.folders[index])[:24]}"
        self._vocabulary = _vocabulary_digest(experts, index)

    def load(self, rows: Sequence[_Reading]) -> npt.NDArray[np.float32] | None:
        """float32 [2, tokens], or None where it is not there or not whole."""
        path = self._path(rows)
        try:
            with np.load(path, allow_pickle=False) as file:
                found = file["scores"]
        # A torn file may fail as a zip, as an array or as text; a missing one is simply not there yet.
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
            return None
        fits = found.dtype == np.float32 and found.shape == (2, sum(row.count for row in rows))
        return found if fits and not np.isnan(found).any() else None

    def keep(self, rows: Sequence[_Reading], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        path = self._path(rows)
        growing = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with growing.open("wb") as file:
                np.savez(file, scores=scores)
                file.flush()
                os.fsync(file.fileno())
            growing.replace(path)
        except OSError as error:
            growing.unlink(missing_ok=True)
            raise UserError(f"{path.parent}: the cache cannot be written ({error.strerror})") from None
        return scores

    def _path(self, rows: Sequence[_Reading]) -> Path:
        digest = hashlib.sha256(f"{_FORMAT} {self._vocabulary}".encode())
        for row in rows:
            digest.update(np.array([row.first, len(row.ids), *row.ids], dtype="<i8").tobytes())
        return self._folder / f"{digest.hexdigest()[:40]}.npz"


def _vocabulary_digest(experts: Experts, index: int) -> str:
    """Of what decides, beside the model, which ids count: it depends on the other experts only where ids are masked."""
    vocabulary = experts.vocabulary
    if vocabulary.whole:
        return "whole"
    masks = (vocabulary.readable[index], vocabulary.masked(experts.stop_ids))
    return hashlib.sha256(b"".join(np.packbits(mask.numpy()).tobytes() for mask in masks)).hexdigest()


def model_digest(model: Any, folder: Path | None) -> str:
    """SHA-256 that changes when a model's numbers do, hexadecimal.

    Of its config and dtype; and of its files' names, sizes, times and many pieces of each (all of a small one), for reading
    everything would take longer than scoring a little.  Without a folder, of the parameters themselves.
    """
    config = {
        key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "transformers_version")
    }
    digest = hashlib.sha256(json.dumps([config, str(model.dtype)], sort_keys=True, default=str).encode())
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS) if folder is not None else []
    for path in files:
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}".encode())
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(piece * max(_PIECE, (state.st_size - _PIECE) // (_PIECES - 1)))
                digest.update(file.read(_PIECE))
    if not files:
        import torch

        for name, tensor in sorted(model.state_dict().items()):
            bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(bits.numpy().tobytes())
    return digest.hexdigest()
