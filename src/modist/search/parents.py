"""What a merge's parents score, which is what a search has to beat."""

from __future__ import annotations

import gc
from typing import Any, Protocol

from modist.search.genome import Genome
from modist.search.metric import Metric, finite


class Judge(Protocol):
    """Scores the parents."""

    def __call__(self, index: int, split: str) -> float:
        """Input `index`'s score on a split, `FIRST` or `SECOND`."""

    def close(self) -> None:
        """Let go of what is held for it."""


class Parents:
    """Parents scored one at a time, each with its own config and tokenizer, and let go before the next is loaded."""

    def __init__(
        self,
        genome: Genome,
        metrics: dict[str, Metric],
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._genome, self._metrics = genome, metrics
        self._how = (device, dtype)
        self._trust = trust_remote_code
        self._held: tuple[int, Any, Any] | None = None

    def __call__(self, index: int, split: str) -> float:
        """Input `index`'s score on a split."""
        from modist.search.candidate import live_model

        if self._held is None or self._held[0] != index:
            self.close()
            device, dtype = self._how
            self._held = (index, *live_model(self._genome.plan.inputs[index], device, dtype, "auto", self._trust))
        _, model, tokenizer = self._held
        return finite(self._metrics[split], model, tokenizer)

    def close(self) -> None:
        """Let the parent go."""
        self._held = None
        # A model's parts refer to each other.
        gc.collect()
