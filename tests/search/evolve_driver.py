"""Searches with a metric that costs nothing, or a pause; as a script, a search to be killed, run by test_search_kills.py.

The script's last argument is JSON: folder, and perhaps pause (seconds a candidate), budget, genes, told (`in order`, or
`shuffled`, as workers elsewhere tell) and hang (after so many scores it never goes on).
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from modist.search.evolve import Outcome, evolve
from modist.search.genome import Gene, Genome, Vector
from modist.search.journal import Journal
from modist.search.pool import Told
from modist.search.random_search import random_search
from modist.search.settings import SearchSettings


def genome(count: int, low: float = -1.0, high: float = 3.0, start: float | None = None) -> Genome:
    """Genes without tensors."""
    begin = (low + high) / 2 if start is None else start
    genes = tuple(Gene((), "weight", 0, low, high, begin, f"gene {number}") for number in range(count))
    return Genome(None, SearchSettings(), genes)  # type: ignore[arg-type]


def bowl(vector: Vector) -> float:
    """A smooth hill at (0.3, 0.5, 0.7, ...), steeper along some genes."""
    places = np.arange(len(vector))
    return -float(((vector - (0.3 + 0.2 * (places % 5))) ** 2 * (1.0 + places % 3)).sum())


class FakePool:
    """Scores by a function; `asked` holds every vector it was given."""

    def __init__(
        self,
        metric: Callable[[Vector], float] = bowl,
        pause: float = 0.0,
        shuffled: bool = False,
        after: int | None = None,
        hang: int | None = None,
    ) -> None:
        self.metric, self.pause, self.after, self.hang = metric, pause, after, hang
        self.asked: list[Vector] = []
        self._shuffle = random.Random(1) if shuffled else None

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        order = list(range(len(vectors)))
        if self._shuffle is not None:
            self._shuffle.shuffle(order)
        found = {}
        for place in order:
            if self.after is not None and len(self.asked) >= self.after:
                raise Killed
            self.asked.append(vectors[place])
            time.sleep(self.pause if len(self.asked) - 1 != self.hang else 3600)
            found[place] = self.metric(vectors[place])
            if told is not None:
                told(place, found[place])
        return [found[place] for place in range(len(vectors))]

    def close(self) -> None:
        pass


class Killed(BaseException):
    """What no handler of the code under test may catch."""


def go(
    folder: Path, pool: FakePool, genes: int = 4, budget: int = 60, settings: SearchSettings | None = None, **watching: Any
) -> tuple[Outcome, Outcome]:
    """CMA-ES, then as many at random."""
    chosen = settings or SearchSettings(budget=budget, seed=3)
    with Journal(folder, {"genes": genes}) as journal:
        one = evolve(genome(genes), pool, chosen, journal, **watching)
        return one, random_search(genome(genes), pool, chosen, journal, **watching)


def main(wanted: dict[str, Any]) -> None:
    # Seconds, which are no part of the search.
    import_module("cma")
    print("begun", flush=True)
    pool = FakePool(pause=wanted.get("pause", 0.0), shuffled=wanted.get("told") == "shuffled", hang=wanted.get("hang"))
    one, two = go(Path(wanted["folder"]), pool, wanted.get("genes", 4), wanted.get("budget", 60))
    print(json.dumps([one.best.vector, two.best.vector, len(pool.asked)]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[-1]))
