"""Likelihood as fitness: the mean log-probability that a model gives to the tokens of some text, in nats.

The tokens are those of `modist score`: of a text all but the first, of a chat those of the last message, which must be the
assistant's, after the others as the tokenizer's chat template puts them.  So for one model this is the negative of what
`modist score` calls nats per token; here many rows go through the model at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import ModistError, UserError
from modist.search.disjoint import Sample, passage_sample, refuse_file
from modist.search.likelihoods import Passage, read_passages
from modist.search.part import Part, drawn

# Tokens of one batch, padding included: enough to keep the products efficient, few enough to stay in a cache.
_BATCH = {"cpu": 1024, "cuda": 16384}
# Logits at a time, as numbers: 128 MiB of float32.
_LOGITS = 1 << 25


@dataclass(frozen=True)
class _Window:
    """What goes through the model as one row: `ids[first:]` are scored, the last of them without being read."""

    row: int
    ids: tuple[int, ...]
    first: int


class Likelihood:
    """The mean log-likelihood of a token of a JSONL file of `text` or `messages`; higher is better.

    The same model gives the same number every time: the batches and the order of sums depend on the data alone.

    Attributes:
        name: for messages and reports.
        files: what it reads.
    """

    def __init__(self, file: Path, *, limit: int | None = None, seed: int = 0, part: Part | None = None) -> None:
        """Read the rows.

        Args:
            file: objects with `text` or `messages`.
            limit: so many rows, drawn by `seed`; None is all.
            part: which of several parts that share no question.

        Raises:
            UserError: the file cannot be read, has no rows, a wrong one (its line), or a test set's name.
        """
        refuse_file(file)
        passages = read_passages(file)
        self.name = f"likelihood:{file}"
        self.files: tuple[Path, ...] = (file,)
        self._passages = drawn(self.name, passages, [passage_sample(one).question for one in passages], limit, seed, part)
        self._read: tuple[Any, int, list[_Window]] | None = None

    def samples(self) -> list[Sample]:
        """The rows, for comparing with test sets."""
        return [passage_sample(passage) for passage in self._passages]

    def digest(self) -> str:
        """SHA-256 over the rows in order, hexadecimal: two searches with another one are not the same search."""
        found = hashlib.sha256(b"likelihood\n")
        for passage in self._passages:
            found.update(json.dumps(passage.content).encode() + b"\n")
        return found.hexdigest()

    def close(self) -> None:
        """Nothing is held."""

    def __call__(self, model: Any, tokenizer: Any) -> float:
        """The mean of log p over all scored tokens, in nats (0 or less).

        Args:
            model: a living causal LM of transformers, in eval mode.
            tokenizer: its own.

        Raises:
            UserError: there is nothing to score in a row, or the tokenizer or model cannot read it.
            ModistError: the model gives something that is no number.
        """
        from modist.mixture.linear import quicken

        # As generating does: else a model's numbers would depend on which metric saw it first.
        quicken([model])
        windows = self._windows(model, tokenizer)
        sums = [0.0] * len(self._passages)
        batches = list(_batches(windows, model))
        for batch, row_sums in zip(batches, _each(model, batches), strict=True):
            for window, found in zip(batch, row_sums, strict=True):
                if not math.isfinite(found):
                    place = self._passages[window.row].place
                    raise ModistError(
                        f"{self.name}: {place}: the model gives {found} as a log-likelihood; it is damaged or overflows"
                    )
                sums[window.row] += found
        return math.fsum(sums) / sum(len(window.ids) - window.first for window in windows)

    def _windows(self, model: Any, tokenizer: Any) -> list[_Window]:
        """All rows as this tokenizer reads them, the longest first; kept, since every candidate has the same tokenizer."""
        from modist.mixture.load import context_of

        if tokenizer is None:
            raise UserError(f"{self.name}: the model has no tokenizer to read a text with")
        context = context_of(model) or 0
        if self._read is None or self._read[0] is not tokenizer or self._read[1] != context:
            readable = int(model.get_input_embeddings().weight.shape[0])
            found = []
            for row, passage in enumerate(self._passages):
                ids, first = _encoded(passage, tokenizer)
                _check(passage.place, ids, first, tokenizer, readable)
                found += [_Window(row, *window) for window in _cut(ids, first, context or len(ids))]
            self._read = tokenizer, context, sorted(found, key=lambda window: (-len(window.ids), window.row, window.first))
        return self._read[2]


def _encoded(passage: Passage, tokenizer: Any) -> tuple[list[int], int]:
    """Ids of a row, and the first that is scored."""
    place, content = passage.place, passage.content
    if isinstance(content, str):
        ids = list(tokenizer(content, verbose=False)["input_ids"])
        if len(ids) < 2:
            raise UserError(f"{place}: nothing to score: a text needs two tokens, of which the first is context")
        return ids, 1
    if not tokenizer.chat_template:
        raise UserError(
            f"{place}: is a chat, and the tokenizer of {_name(tokenizer)} has no chat template; give rows of 'text'"
        )
    try:
        prompt = list(tokenizer.apply_chat_template(content[:-1], add_generation_prompt=True, return_dict=True)["input_ids"])
    except Exception as error:  # a template can raise what it likes
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: the chat template of {_name(tokenizer)} refuses it: {line}") from None
    answer = list(tokenizer(content[-1]["content"], add_special_tokens=False, verbose=False)["input_ids"])
    if not answer:
        raise UserError(f"{place}: nothing to score: the assistant's message is empty")
    if not prompt:
        raise UserError(
            f"{place}: nothing to score: the chat template of {_name(tokenizer)} makes nothing of the messages before"
        )
    return [*prompt, *answer], len(prompt)


def _check(place: str, ids: Sequence[int], first: int, tokenizer: Any, readable: int) -> None:
    """What a tokenizer makes of a row must be a reading of it."""
    if max(ids) >= readable:
        told = f"{_name(tokenizer)} reads token {max(ids)} in it, and the model has {readable}"
        raise UserError(f"{place}: {told}; tokenizer and model do not belong together")
    unknown = getattr(tokenizer, "unk_token_id", None)
    scored = ids[first:]
    if unknown is not None and 2 * scored.count(unknown) > len(scored):
        told = f"{scored.count(unknown)} of {len(scored)} tokens are unknown to its tokenizer"
        raise UserError(f"{place}: {_name(tokenizer)} cannot read it: {told}")


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "this model")


def _cut(ids: Sequence[int], first: int, context: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """A row in windows no longer than the context, each scored token with at least half a context before it, as `modist score`
    does: (ids, first scored)."""
    scored = first
    while scored < len(ids):
        start = 0 if len(ids) <= context or scored < context else scored - context // 2
        stop = min(len(ids), start + context)
        yield tuple(ids[start:stop]), scored - start
        scored = stop


def _batches(windows: Sequence[_Window], model: Any) -> Iterator[list[_Window]]:
    """Windows of like lengths together."""
    budget = _BATCH.get(model.device.type, _BATCH["cpu"])
    batch: list[_Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(batch[0].ids) > budget:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _each(model: Any, batches: Sequence[list[_Window]]) -> list[list[float]]:
    """`_sums` of every batch, in order.

    On a CPU each batch has one thread of its own: two threads inside a product of a small model bring a quarter, two batches
    beside each other nearly twice, and how a batch is summed then does not depend on how many threads there are.
    """
    import torch

    threads = torch.get_num_threads()
    if model.device.type != "cpu" or threads == 1 or len(batches) < threads:
        return [_sums(model, batch) for batch in batches]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(lambda batch: _sums(model, batch), batches))
    finally:
        torch.set_num_threads(threads)


def _sums(model: Any, batch: Sequence[_Window]) -> list[float]:
    """The log-likelihood of each window's scored tokens, in nats.

    Rows are filled up on the right, where a causal model never looks from the left, so no attention mask is needed.
    """
    import torch

    from modist.mixture.load import output_rows

    width = max(len(window.ids) for window in batch) - 1  # the last token of a row is scored and not read
    # What is not scored has the target -1.
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    targets = torch.full((len(batch), width), -1, dtype=torch.long)
    for place, window in enumerate(batch):
        row = torch.tensor(window.ids)
        ids[place, : len(row) - 1] = row[:-1]
        targets[place, window.first - 1 : len(row) - 1] = row[window.first :]
    ids, targets = ids.to(model.device), targets.to(model.device)
    begin = min(window.first for window in batch) - 1
    size = max(1, _LOGITS // (output_rows(model) * len(batch)))
    cache: Any = None
    if width - begin > size:
        from transformers import DynamicCache

        cache = DynamicCache()
    totals = torch.zeros(len(batch), dtype=torch.float64)
    start, stop = 0, min(width, begin + size)
    with torch.inference_mode():
        while start < width:
            keep = stop - max(start, begin)
            more = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
            logits = model(input_ids=ids[:, start:stop], logits_to_keep=keep, **more).logits[:, -keep:]
            wanted = targets[:, stop - keep : stop]
            scored = wanted >= 0
            chosen = logits[scored]  # [tokens, vocabulary]
            chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
            log_p = chosen.gather(1, wanted[scored][:, None])[:, 0] - torch.logsumexp(chosen, 1)
            rows = scored.nonzero()[:, 0]
            totals.index_add_(0, rows.cpu(), log_p.double().cpu())
            start, stop = stop, min(width, stop + size)
    return [float(total) for total in totals]
