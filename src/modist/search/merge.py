"""`search merge`: the coefficients of a merge that score best, and whether looking for them was worth it.

The best candidate on the first split is the choice.  It was chosen for its score there, so that score flatters it; the second
split, which no candidate was chosen on, says what it is worth, beside what there was without searching: the parents, the
starting recipe, and the best of as many candidates drawn at random.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modist.search.evolve import Outcome, Watch, evolve
from modist.search.genome import Genome, Vector
from modist.search.journal import Entry, Journal
from modist.search.metric import Metric, finite
from modist.search.pool import Pool, SearchError, Told
from modist.search.random_search import random_search
from modist.search.settings import SearchSettings

FIRST, SECOND = "first", "second"


class Judge(Protocol):
    """Scores the parents."""

    def __call__(self, index: int, split: str) -> float:
        """Input `index`'s score on a split, `FIRST` or `SECOND`."""

    def close(self) -> None:
        """Let go of what is held for it."""


@dataclass(frozen=True)
class Mark:
    """Something that was scored.

    Attributes:
        name: for people.
        kind: `parent`, `start`, `best`, `finalist` or `random`.
        first, second: its scores on the two splits; None where there is no second.
        candidate: its number in its search, 0 for the start; None for a parent.
    """

    name: str
    kind: str
    first: float
    second: float | None
    candidate: int | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a search.

    Attributes:
        genome: what was searched.
        metric: its name.
        marks: the best candidate, then the other finalists, the starting recipe, the best at random, the parents.
        evolved: the search.
        drawn: the random search, or None.
        recipe: the best candidate's, as YAML.
    """

    genome: Genome
    metric: str
    marks: tuple[Mark, ...]
    evolved: Outcome
    drawn: Outcome | None
    recipe: str

    @property
    def best(self) -> Mark:
        return self.marks[0]

    @property
    def coefficients(self) -> dict[str, float]:
        """The best vector, by label."""
        labels = [gene.label for gene in self.genome.genes]
        return dict(zip(labels, self.evolved.best.vector, strict=True))

    def findings(self) -> list[str]:
        """What it means, a sentence each."""
        split = SECOND if self.best.second is not None else FIRST
        own = _on(self.best, split)
        lines = []
        for kind, what in (("start", "the starting recipe"), ("random", "random search of equal cost"), ("parent", "")):
            others = [mark for mark in self.marks if mark.kind == kind]
            if not others:
                continue
            other = max(others, key=lambda mark: _on(mark, split))
            gain = own - _on(other, split)
            name = what or f"the best parent, {other.name},"
            verb = "scores above" if gain > 0 else "scores below" if gain < 0 else "scores as"
            lines.append(f"the merge found {verb} {name} on the {split} split: {own:.4g} against {_on(other, split):.4g}")
        if split == SECOND:
            loss = self.best.first - own
            lines.append(
                f"it scored {self.best.first:.4g} on the split it was chosen on, {abs(loss):.2g}"
                f" {'more' if loss >= 0 else 'less'} than on the second: the second is what it is worth"
            )
        else:
            lines.append(
                "it was chosen on the split it is scored on, which flatters it; a second split would say what it is worth"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """All of it but the candidates, as JSON."""
        genes = [
            {"label": gene.label, "low": gene.low, "high": gene.high, "start": gene.start, "found": found}
            for gene, found in zip(self.genome.genes, self.evolved.best.vector, strict=True)
        ]
        return {
            "method": self.genome.plan.method.name,
            "metric": self.metric,
            "genes": genes,
            "best": vars(self.best) | {"generation": self.evolved.best.generation},
            "others": [vars(mark) for mark in self.marks[1:]],
            "candidates": len(self.evolved.candidates),
            "random_candidates": len(self.drawn.candidates) if self.drawn else 0,
            "findings": self.findings(),
            "warnings": list(self.genome.warnings),
            "recipe": self.recipe,
        }


def _on(mark: Mark, split: str) -> float:
    score = mark.second if split == SECOND else mark.first
    assert score is not None
    return score


def search_merge(
    genome: Genome,
    settings: SearchSettings,
    journal: Journal,
    first: Pool,
    second: Pool | None,
    metric: str,
    *,
    parents: Judge | None = None,
    compare: bool = True,
    watch: Watch | None = None,
) -> Found:
    """Search, then score what was found where nothing was chosen.

    Args:
        genome, settings: what is searched and how.
        journal: of this search.
        first: scores candidates.
        second: scores the finalists on the second split, or None.
        metric: its name.
        parents: scores the plan's inputs; None leaves them out.
        compare: whether to run the random search of equal cost.
        watch: told of every candidate's score.

    Raises:
        ModistError: a candidate or a parent cannot be scored; what is journalled is kept.
    """
    splits = [FIRST] if second is None else [FIRST, SECOND]
    known: list[list[float]] = []
    if parents is not None:
        # Before any candidate: a parent and the merged copy need not be in memory together.
        for index in range(len(genome.plan.inputs)):
            known.append([_once(journal, f"parent, {split}", index, parents) for split in splits])
        parents.close()
    evolved = evolve(genome, first, settings, journal, watch)
    drawn = random_search(genome, first, settings, journal, watch) if compare else None
    # Its workers, if it has any, make room for the second split's.
    first.close()

    def mark(entry: Entry, name: str, kind: str) -> Mark:
        again = None if second is None else _again(journal, second, entry)
        return Mark(name, kind, entry.score, again, entry.number)

    best, *others = evolved.finalists(settings.finalists)
    marks = [mark(best, "the merge found", "best")]
    marks += [mark(entry, f"candidate {entry.number}", "finalist") for entry in others if entry.number]
    marks.append(mark(evolved.candidates[0], "the starting recipe", "start"))
    if drawn is not None:
        marks.append(mark(drawn.best, "the best at random", "random"))
    for name, scores in zip(genome.plan.names, known, strict=False):
        marks.append(Mark(name, "parent", scores[0], scores[1] if second is not None else None))
    return Found(genome, metric, tuple(marks), evolved, drawn, genome.recipe(best.vector))


def _once(journal: Journal, stage: str, index: int, parents: Judge) -> float:
    entry = journal.find(stage, index)
    if entry is None:
        entry = Entry(stage, index, (), parents(index, stage.removeprefix("parent, ")))
        journal.add(entry)
    return entry.score


def _again(journal: Journal, pool: Pool, entry: Entry) -> float:
    stage = f"{entry.stage}, {SECOND}"
    known = journal.find(stage, entry.number)
    if known is None or known.vector != entry.vector:
        (score,) = pool.scores([np.array(entry.vector)])
        known = Entry(stage, entry.number, entry.vector, score, entry.generation)
        journal.add(known)
    return known.score


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


class LaterPool:
    """A pool that is opened when the first candidate is asked for: a search whose scores are all there loads nothing."""

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._pool: Pool | None = None

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        """See `Pool.scores`."""
        if self._pool is None:
            self._pool = self._make()
        found = self._pool.scores(vectors, told)
        if len(found) != len(vectors):
            raise SearchError(f"{len(found)} scores for {len(vectors)} candidates")
        return found

    def close(self) -> None:
        """See `Pool.close`."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
