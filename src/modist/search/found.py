"""What a search for merge coefficients found, beside what there was without it, and what that means in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modist.search.evolve import Outcome
from modist.search.genome import Genome

FIRST, SECOND = "first", "second"


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
            verb = "scores as" if abs(gain) < 1e-9 else "scores above" if gain > 0 else "scores below"
            lines.append(f"the merge found {verb} {name} on the {split} split: {own:.4g} against {_on(other, split):.4g}")
        if split == SECOND:
            loss = self.best.first - own
            # Sums of shares of questions differ by rounding alone where nothing differs.
            change = "as" if abs(loss) < 1e-9 else f"{abs(loss):.2g} {'more' if loss > 0 else 'less'} than"
            lines.append(
                f"it scored {self.best.first:.4g} on the split it was chosen on, {change} on the second: the second is what it"
                " is worth"
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
