"""CMA-ES over a genome: Hansen's covariance matrix adaptation through the `cma` package, journalled so that it can be killed.

The search runs in the unit cube, where every gene's range is 1, so that one step size fits all of them.  Its own random
numbers and the scores decide the candidates, nothing else: the scores of an earlier process, told again in order, bring the
optimiser to the state it had, and it goes on with the very candidates it would have asked for.

Source: Hansen 2016, The CMA evolution strategy: a tutorial (arXiv 1604.00772); as a search for merges, Akiba et al. 2024 (arXiv
2403.13187).  Scores are ranks to CMA-ES, so accuracies and likelihoods serve alike.  Where it has converged or the scores are
flat before the budget is spent, it begins anew at a random place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modist.errors import UserError
from modist.search.genome import Genome, Vector
from modist.search.journal import Entry, Journal
from modist.search.pool import Pool, SearchError
from modist.search.settings import SearchSettings

START, CMA = "start", "cma"
# When CMA-ES begins anew (ours).  After so many flat generations: accuracy has few values, and one of them is no end; nor are
# small differences, as only ranks count.  And where steps are this fraction of the range, which no model's answers show.
_FLAT, _STEP = 4, 1e-4
# What eigenvectors may differ by between machines; a different candidate differs by far more.
_SAME = 1e-9

# Told of every score, also of those replayed: what was scored, how many of the budget are done, and the best so far.
Watch = Callable[[Entry, int, Entry], object]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        name: of the search.
        candidates: the start, then all others in the order they were asked for.
    """

    name: str
    candidates: tuple[Entry, ...]

    @property
    def best(self) -> Entry:
        """The candidate with the highest score; of equals the first."""
        return max(self.candidates, key=lambda entry: entry.score)

    def finalists(self, count: int) -> list[Entry]:
        """The best candidates, best first, no vector twice."""
        found: dict[tuple[float, ...], Entry] = {}
        for entry in sorted(self.candidates, key=lambda entry: -entry.score):
            found.setdefault(entry.vector, entry)
        return list(found.values())[:count]

    def so_far(self) -> list[float]:
        """The best score after each candidate."""
        return [float(score) for score in np.maximum.accumulate([entry.score for entry in self.candidates])]


class Scores:
    """Scores of a search's candidates: those of the journal, and those a pool gives now, journalled as they come.

    Attributes:
        candidates: so far, the start first; a candidate's number is its place here.
    """

    def __init__(self, name: str, genome: Genome, pool: Pool, budget: int, journal: Journal, watch: Watch | None) -> None:
        self._name, self._pool, self._journal, self._watch = name, pool, journal, watch
        self._budget = budget
        self._began = time.monotonic()
        self._done = 0
        self._best: Entry | None = None
        self.candidates: list[Entry] = []
        self._add(START, [0], [genome.start], 0)

    @property
    def left(self) -> int:
        """How many candidates the budget still allows."""
        return self._budget - len(self.candidates)

    def of(self, vectors: Sequence[Vector], generation: int = 0) -> list[Entry]:
        """The scores of the next candidates, in order.

        Raises:
            UserError: the journal's candidates are others.
            ModistError: a candidate cannot be scored.
        """
        first = len(self.candidates)
        return self._add(self._name, range(first, first + len(vectors)), vectors, generation)

    def _add(self, stage: str, numbers: Sequence[int], vectors: Sequence[Vector], generation: int) -> list[Entry]:
        missing = []
        for number, vector in zip(numbers, vectors, strict=True):
            known = self._journal.find(stage, number)
            if known is None:
                missing.append((number, vector))
                continue
            if not (len(known.vector) == len(vector) and np.allclose(known.vector, vector, rtol=0, atol=_SAME)):
                raise UserError(
                    f"{self._journal.folder}: candidate {number} of its {stage} search is not the one asked for now; it was"
                    " made with other versions of cma or numpy: go on with those, or begin in another folder"
                )
            self._say(known)

        def told(place: int, score: float) -> None:
            number, vector = missing[place]
            if self._journal.find(stage, number) is not None:
                return
            if not math.isfinite(score):
                raise SearchError(f"candidate {number} of the {stage} search scores {score}, which is no number to search by")
            seconds = round(time.monotonic() - self._began, 3)
            entry = Entry(stage, number, tuple(map(float, vector)), float(score), generation, seconds)
            self._journal.add(entry)
            self._say(entry)

        if missing:
            for place, score in enumerate(self._pool.scores([vector for _, vector in missing], told)):
                told(place, score)
        found = [self._journal.scores[stage, number] for number in numbers]
        self.candidates += found
        return found

    def _say(self, entry: Entry) -> None:
        self._done += 1
        if self._best is None or entry.score > self._best.score:
            self._best = entry
        if self._watch is not None:
            self._watch(entry, self._done, self._best)


def evolve(genome: Genome, pool: Pool, settings: SearchSettings, journal: Journal, watch: Watch | None = None) -> Outcome:
    """Search for the vector with the highest score.

    Args:
        genome: what is searched.
        pool: where candidates are scored.
        settings: step, population, budget, seed.
        journal: of this search; what it has is not scored again.
        watch: told of every score.

    Returns:
        All candidates, `settings.budget` of them, the start first.

    Raises:
        UserError: the package is not installed; the journal's candidates are others.
        ModistError: a candidate cannot be scored, or its score is no finite number; names the metric.
    """
    cma = _package()
    scores = Scores(CMA, genome, pool, settings.budget, journal, watch)
    if not scores.left:
        return Outcome(CMA, tuple(scores.candidates))
    size = settings.population_of(len(genome))
    for generation, strategy in enumerate(_strategies(cma, genome, settings, size), start=1):
        asked = strategy.ask()
        vectors = [genome.vector(unit) for unit in asked]
        found = scores.of(vectors[: scores.left], generation)
        if not scores.left:
            break
        # It minimises.
        strategy.tell(asked, [-entry.score for entry in found])
    return Outcome(CMA, tuple(scores.candidates))


def _strategies(cma: Any, genome: Genome, settings: SearchSettings, size: int) -> Iterator[Any]:
    """The optimiser before each generation; a new one where the last has converged."""
    drawn = np.random.default_rng(settings.seed)
    options = {
        "bounds": [0, 1],
        "popsize": size,
        "CMA_diagonal": settings.is_diagonal(len(genome)),
        # Not numpy's global generator, which a metric may use too.
        "randn": lambda *shape: drawn.standard_normal(shape),
        "seed": np.nan,
        "tolflatfitness": _FLAT,
        "tolfun": 0,
        "tolfunhist": 0,
        "tolx": _STEP,
        # cma keeps steps within the bounds, which it cannot do for a single gene (4.5: "dimension needed").
        "maxstd": np.inf if len(genome) == 1 else None,
        "verbose": -9,
    }
    place = genome.unit(genome.start)
    while True:
        # Where it stands still before the budget is spent, elsewhere may be better.
        strategy = cma.CMAEvolutionStrategy(place, settings.sigma, options)
        while not strategy.stop():
            yield strategy
        place = drawn.random(len(genome))


def _package() -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("cma") is None:
        raise UserError("searching for merge coefficients needs cma, which is not here: pip install 'modist[search]'")
    return import_module("cma")
