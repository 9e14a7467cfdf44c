"""One row on one benchmark: what was answered, its interval, and its paired test against the best parent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from modist.evaluation.statistics import ALPHA, avg_at_k, holm, mcnemar, pass_at_k, sign_flip, square_and_add

if TYPE_CHECKING:
    from modist.evaluation.record import Record

ABOVE, BELOW = "▲", "▼"


@dataclass(frozen=True)
class Cell:
    """One row on one benchmark; fractions, not per cent.

    Attributes:
        samples: of a question, the most any has.
        answers, right: all answers to its n questions, and those that are right.
        only_row, only_best: questions that only this row, only the best parent gets right; None with several samples, without
            a parent, and for the best parent itself.
        difference: from the best parent, on the questions both answered.
        p, p_holm: the paired test, as it is and corrected; None as above.
        pass_k: the chance that one of the samples is right; None for one sample.
        disagreements: answers the two graders see differently.
        errors, cut: answers that failed, or ended at the token limit.
        paper: what the paper says, a fraction.
    """

    n: int
    samples: int
    answers: int
    right: int
    accuracy: float
    low: float
    high: float
    is_best: bool = False
    only_row: int | None = None
    only_best: int | None = None
    difference: float | None = None
    p: float | None = None
    p_holm: float | None = None
    mark: str = ""
    bold: bool = False
    pass_k: float | None = None
    tokens: float = 0.0
    disagreements: int = 0
    errors: int = 0
    cut: int = 0
    paper: float | None = None


@dataclass(frozen=True)
class Average:
    """The unweighted mean over the benchmarks of a group, with the same marks."""

    accuracy: float
    low: float
    high: float
    is_best: bool = False
    difference: float | None = None
    p: float | None = None
    p_holm: float | None = None
    mark: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Asked:
    """One row's answers to one benchmark: right samples, all samples and the gold of each question."""

    right: Mapping[str, int]
    samples: Mapping[str, int]
    gold: Mapping[str, str]
    tokens: float
    disagreements: int
    errors: int
    cut: int


def asked(records: Sequence[Record], compatible: bool) -> dict[str, Asked]:
    """A run's answers by benchmark, as the one grader or the other sees them."""
    sorted_: dict[str, list[Record]] = {}
    for record in records:
        sorted_.setdefault(record.benchmark, []).append(record)
    found = {}
    for benchmark, ours in sorted_.items():
        right: dict[str, int] = {}
        samples: dict[str, int] = {}
        for record in ours:
            right[record.id] = right.get(record.id, 0) + bool(record.equal_compatible if compatible else record.equal)
            samples[record.id] = samples.get(record.id, 0) + 1
        found[benchmark] = Asked(
            right,
            samples,
            {record.id: record.gold for record in ours},
            sum(record.tokens for record in ours) / len(ours),
            sum(record.equal != record.equal_compatible for record in ours),
            sum(record.finish_reason == "error" for record in ours),
            sum(record.finish_reason == "length" for record in ours),
        )
    return found


def differences(row: Asked, best: Asked) -> list[float]:
    """Item by item, over the questions both answered, from -1 to 1."""
    common = [item for item in row.right if item in best.right]
    return [row.right[item] / row.samples[item] - best.right[item] / best.samples[item] for item in common]


def compare(cell: Cell, ours: Asked, best: Asked) -> Cell:
    """The cell, tested against the best parent on the questions both answered; as it was where there is none."""
    found = differences(ours, best)
    if not found:
        return cell
    mean = math.fsum(found) / len(found)
    if max(ours.samples.values()) > 1 or max(best.samples.values()) > 1:
        return replace(cell, difference=mean, p=sign_flip([found]))
    only_row, only_best = sum(d > 0 for d in found), sum(d < 0 for d in found)
    return replace(cell, difference=mean, only_row=only_row, only_best=only_best, p=mcnemar(only_row, only_best))


def measure(one: Asked) -> Cell:
    """Accuracy and interval; not yet compared with a parent."""
    items = list(one.right)
    right, samples = [one.right[item] for item in items], [one.samples[item] for item in items]
    mean, low, high = avg_at_k(right, samples)
    k = min(samples)
    passed = sum(pass_at_k(n, c, k) for n, c in zip(samples, right, strict=True)) / len(items) if k > 1 else None
    return Cell(
        n=len(items),
        samples=max(samples),
        answers=sum(samples),
        right=sum(right),
        accuracy=mean,
        low=low,
        high=high,
        pass_k=passed,
        tokens=one.tokens,
        disagreements=one.disagreements,
        errors=one.errors,
        cut=one.cut,
    )


Tested = TypeVar("Tested", Cell, Average)


def average(measured: Sequence[Cell]) -> Average:
    """The unweighted mean of cells of different benchmarks; not yet tested."""
    return Average(*square_and_add([c.accuracy for c in measured], [c.low for c in measured], [c.high for c in measured]))


def compare_average(one: Average, differences: Sequence[Sequence[float]]) -> Average:
    """The same, tested against the best parent's: `differences` for each benchmark."""
    mean = math.fsum(math.fsum(stratum) / len(stratum) for stratum in differences) / len(differences)
    return replace(one, difference=mean, p=sign_flip(differences))


def mark(tested: Sequence[Tested], claims: Sequence[bool], best: Sequence[float | None]) -> list[Tested]:
    """Cells, or averages, marked, and bold where that can be believed.

    Args:
        tested: all that are looked at together; some may not be tested.
        claims: whether each is of something made, not of a parent: these are corrected for one another (Holm).
        best: the accuracy of the best parent each is compared with.
    """
    family = [index for index, one in enumerate(tested) if claims[index] and one.p is not None]
    corrected = dict(zip(family, holm([tested[index].p or 0.0 for index in family]), strict=True))
    marked = []
    for index, one in enumerate(tested):
        found, bold = _verdict(one, corrected.get(index), best[index])
        marked.append(replace(one, p_holm=corrected.get(index), mark=found, bold=bold))
    return marked


def _verdict(one: Cell | Average, corrected: float | None, best: float | None) -> tuple[str, bool]:
    if one.p is None or one.difference is None or one.p >= ALPHA:
        return "", False
    if one.difference < 0:
        return BELOW, False
    # Over other questions than the parent answered, a row's own accuracy may say something else than the paired test.
    return ABOVE, corrected is not None and corrected < ALPHA and best is not None and one.low > best
