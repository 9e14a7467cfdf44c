"""Where the candidates of a search are scored: in this process, or by Ray's actors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

from modist.search.candidate import Workshop, open_workshop
from modist.search.genome import Genome
from modist.search.pool import LocalPool, Pool
from modist.search.splits import Splits


@dataclass(frozen=True)
class Running:
    """How models run; see `modist.search.candidate.Workshop`."""

    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    trust_remote_code: bool = False


class Site(Protocol):
    """Opens pools."""

    def pool(self, splits: Splits, split: str) -> Pool:
        """A pool that scores candidates on one of the splits."""


class Here:
    """Candidates are scored in this process; both splits use one workshop."""

    def __init__(self, genome: Genome, running: Running) -> None:
        self._genome, self._running = genome, running

    @cached_property
    def _workshop(self) -> Workshop:
        how = self._running
        return Workshop(
            self._genome, device=how.device, dtype=how.dtype, threads=how.threads, trust_remote_code=how.trust_remote_code
        )

    def pool(self, splits: Splits, split: str) -> Pool:
        """See `Site.pool`."""
        return LocalPool(self._workshop, splits.metrics[split])


class OnRay:
    """Candidates are scored by Ray's actors."""

    def __init__(
        self, genome: Genome, running: Running, address: str, workers: int | None, say: Callable[[str], object]
    ) -> None:
        from modist.search.written import recipe_text

        self._threads = running.threads or 1
        # A worker has another working directory, so models are named by whole paths.
        recipe, allow = recipe_text(genome.plan), tuple(genome.allow)
        self._made = partial(
            open_workshop, recipe, genome.settings, running.dtype, self._threads, allow, running.trust_remote_code
        )
        self._address, self._workers, self._device = address, workers, running.device or "cpu"
        self._say = say

    def pool(self, splits: Splits, split: str) -> Pool:
        """See `Site.pool`."""
        from modist.search.metric import read_metrics
        from modist.search.ray_pool import RayPool

        texts, asking = splits.asked[split]
        return RayPool(
            self._made,
            # Compared with the test sets here already.
            partial(read_metrics, texts, **{**asking, "compare": False}),
            address=self._address,
            workers=self._workers,
            device=self._device,
            threads=self._threads,
            note=self._say,
        )
