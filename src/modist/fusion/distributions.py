"""An expert's stored distributions, read back by chat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modist.fusion.store import Store

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """What an expert says of one response, n positions.

    Attributes:
        ids: the expert's, int32 [n, k].
        probs: float64 [n, k]; with `tail` they sum to 1.
        tail: of all other ids, float64 [n].
        gold: log p of the token that followed, float64 [n].
        nats: -sum log p of the response, before rounding.
    """

    ids: NDArray[np.int32]
    probs: Floats
    tail: Floats
    gold: Floats
    nats: float


class Distributions:
    """One expert's store, by chat.

    Args:
        folder: of the store.
        plan: what it must hold.

    Raises:
        UserError: it holds something else (another tokenizer, model, data ...).
        StoreError: it is not whole.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.store = Store(folder, plan, write=False)
        self.store.verify()
        self._places: dict[int, tuple[int, int, int, int]] = {}
        self._held: tuple[int, dict[str, Array]] | None = None
        for number in range(self.store.shards):
            found = self.store.read(number)
            ends = np.cumsum(found["counts"])
            for place, (row, count, end) in enumerate(zip(found["rows"], found["counts"], ends, strict=True)):
                self._places[int(row)] = (number, place, int(end - count), int(end))

    def __contains__(self, row: int) -> bool:
        return row in self._places

    def __getitem__(self, row: int) -> Distribution:
        number, place, first, stop = self._places[row]
        if self._held is None or self._held[0] != number:
            self._held = (number, self.store.read(number))
        found = self._held[1]
        probs = np.exp(found["log_probs"][first:stop].astype(np.float64))
        tail = np.exp(found["log_tail"][first:stop].astype(np.float64))
        whole = probs.sum(1) + tail
        return Distribution(
            ids=found["ids"][first:stop],
            probs=probs / whole[:, None],
            tail=tail / whole,
            gold=found["gold"][first:stop].astype(np.float64),
            nats=float(found["nats"][place]),
        )
