"""Tuning: one parameter of a recipe, the values of a grid, each merged and scored on development data; the best is kept.

The development data is none of the study's benchmarks: a parameter chosen on the test set would be a part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One value tried.

    Attributes:
        right, total: answers, by development benchmark.
    """

    value: float
    right: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """The unweighted mean over the development benchmarks, as the table's average."""
        return sum(right / total for right, total in zip(self.right, self.total, strict=True)) / len(self.total)


@dataclass(frozen=True)
class Tuned:
    """A grid and its scores; `best` is the first of the highest."""

    parameter: str
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        return max(self.candidates, key=lambda candidate: candidate.accuracy)

    def line(self) -> str:
        """For people: every value with its score, the chosen one first."""
        tried = ", ".join(f"{candidate.value:g}: {100 * candidate.accuracy:.1f}" for candidate in self.candidates)
        edge = self.best.value in (self.candidates[0].value, self.candidates[-1].value) and len(self.candidates) > 1
        hint = "; the best lies at the end of the grid, which may be too short" if edge else ""
        return f"{self.parameter} = {self.best.value:g}, best on the development data ({tried}{hint})"


def tune(parameter: str, grid: Sequence[float], score: Callable[[float], Candidate]) -> Tuned:
    """Score every value of a grid, in its order."""
    return Tuned(parameter, tuple(score(value) for value in grid))
