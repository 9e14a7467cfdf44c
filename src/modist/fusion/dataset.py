"""Chats and their fused targets as training reads them: mapped from disk, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modist.fusion.store import Store

IGNORED = -100


class FusionDataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """A store of targets, by chat.

    Args:
        folder: that `make_targets` filled.
    """

    def __init__(self, folder: Path) -> None:
        import json

        self._store = Store(folder, json.loads((folder / "plan.json").read_bytes()), write=False)
        self._store.verify()
        self._shards = [self._store.read(number) for number in range(self._store.shards)]
        places = []
        for number, shard in enumerate(self._shards):
            lengths, firsts = shard["lengths"].astype(np.int64), shard["firsts"].astype(np.int64)
            tokens, positions = np.cumsum(lengths), np.cumsum(lengths - firsts)
            columns = (np.full(len(lengths), number), tokens - lengths, lengths, firsts, positions - (lengths - firsts))
            places.append(np.stack(columns, axis=1))
        # [chats, 5]: shard, first token, tokens, where the response begins, first position
        self._places = np.concatenate(places)
        self.lengths: Sequence[int] = self._places[:, 2].tolist()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, token, length, first, position = self._places[index].tolist()
        shard, count = self._shards[number], length - first
        return {
            "input_ids": shard["input_ids"][token : token + length],
            "first": first,
            "ids": shard["ids"][position : position + count],
            "probs": shard["probs"][position : position + count],
            "tail": shard["tail"][position : position + count],
        }


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch, padded on the right.

    Returns:
        `input_ids`, `attention_mask` and `labels` [batch, length], as any causal LM takes them; and the targets of response
        positions in order, `target_ids` and `target_probs` [batch, positions, k], `target_tail` [batch, positions], of which
        the first so many as a row has labels count.
    """
    length = max(len(row["input_ids"]) for row in rows)
    count = max(len(row["tail"]) for row in rows)
    width = max(row["ids"].shape[1] for row in rows)
    batch = len(rows)
    input_ids = np.zeros((batch, length), dtype=np.int64)
    mask = np.zeros((batch, length), dtype=np.int64)
    labels = np.full((batch, length), IGNORED, dtype=np.int64)
    ids = np.full((batch, count, width), -1, dtype=np.int32)
    probs = np.zeros((batch, count, width), dtype=np.float32)
    tail = np.zeros((batch, count), dtype=np.float32)
    for place, row in enumerate(rows):
        n, first = len(row["input_ids"]), row["first"]
        input_ids[place, :n], mask[place, :n] = row["input_ids"], 1
        labels[place, first:n] = row["input_ids"][first:]
        ids[place, : n - first, : row["ids"].shape[1]] = row["ids"]
        probs[place, : n - first, : row["ids"].shape[1]] = row["probs"]
        tail[place, : n - first] = row["tail"]
    arrays = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    targets = {"target_ids": ids, "target_probs": probs, "target_tail": tail}
    return {name: torch.from_numpy(array) for name, array in {**arrays, **targets}.items()}
