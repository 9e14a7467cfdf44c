"""When each row of a batch has its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from modist.evaluation.generators.encoding import Encoder
from modist.evaluation.generators.stops import cut, reach


class Ends(StoppingCriteria):  # type: ignore[misc]
    """Row by row: an end id, a stop text, or the row's own limit.

    Only the newest tokens' text is looked at, so the time is linear in the answer.
    """

    def __init__(
        self,
        encoder: Encoder,
        width: int,
        limits: Sequence[int],
        stops: Sequence[Sequence[str]],
        end_ids: Sequence[frozenset[int]],
    ) -> None:
        """
        Args:
            encoder: Of the model.
            width: Columns the prompts take.
            limits: At most this many new tokens, [rows].
            stops: Texts that end a row, [rows].
            end_ids: Tokens that end a row, [rows].
        """
        self._encoder = encoder
        self._width = width
        self._limits, self._stops, self._end_ids = limits, stops, end_ids
        self._reach = [reach(stop) for stop in stops]
        self._open = set(range(len(limits)))
        self.counts = [0] * len(limits)
        """Tokens of each row, the one that ended it included."""
        self.stopped = [False] * len(limits)
        """Whether a row ended before its limit stopped it."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        count = input_ids.shape[1] - self._width
        newest = input_ids[:, -1].tolist()
        for row in sorted(self._open):
            self.counts[row] = count
            if newest[row] in self._end_ids[row]:
                self.stopped[row] = True
            elif self._stops[row]:
                self.stopped[row] = self._holds_stop(row, input_ids[row, self._width :], count)
            if self.stopped[row] or count >= self._limits[row]:
                self._open.discard(row)
        done = torch.tensor([row not in self._open for row in range(len(self.counts))])
        return done.to(input_ids.device)

    def _holds_stop(self, row: int, new: Any, count: int) -> bool:
        tail = self._encoder.text(new[max(0, count - self._reach[row]) :].tolist())
        if not cut(tail, self._stops[row])[1]:
            return False
        # The text of a tail can differ at its beginning from the same tokens' in the whole.
        return cut(self._encoder.text(new.tolist()), self._stops[row])[1]


class Soundness(LogitsProcessor):  # type: ignore[misc]
    """Notes which rows have had logits that are no numbers; a merge gone wrong has."""

    def __init__(self) -> None:
        self._broken: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        broken = ~torch.isfinite(scores.amax(-1))
        self._broken = broken if self._broken is None else self._broken | broken
        return scores

    def rows(self, count: int) -> list[bool]:
        """For each row whether it has; [count]."""
        return [False] * count if self._broken is None else [bool(one) for one in self._broken.tolist()]
