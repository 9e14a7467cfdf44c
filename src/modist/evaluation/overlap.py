"""Which questions two parents get right, and what their merges kept, lost and gained of them.

The claim tested here: that merging lets a model solve what neither parent can ("combinatorial" reasoning; Unconstrained Model
Merging, arXiv 2410.13699).  Some questions that one greedy answer of each parent misses are luck, and any further answer finds
a few of them.  So the merge's count is held against the same count from a parent that answered a second time, by sampling, and
the two are compared question by question (exact McNemar).

Of runs with several samples a question, the first is looked at: one try for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modist.errors import UserError
from modist.evaluation.statistics import ALPHA, mcnemar

if TYPE_CHECKING:
    from modist.evaluation.results import Results
    from modist.report.tables import Grid

# Both parents right, only the first, only the second, neither.
BOTH, FIRST, SECOND, NEITHER = "both", "first", "second", "neither"
CELLS = (BOTH, FIRST, SECOND, NEITHER)
Question = tuple[str, str]


@dataclass(frozen=True)
class Kept:
    """One row against both parents: of the questions in each cell, how many it was asked, and how many it gets right."""

    name: str
    asked: Mapping[str, int]
    right: Mapping[str, int]
    gained_ids: tuple[Question, ...] = ()

    @property
    def kept(self) -> int:
        """Questions some parent solves, and the row too."""
        return sum(self.right[cell] for cell in CELLS if cell != NEITHER)

    @property
    def lost(self) -> int:
        """Questions some parent solves, and the row does not."""
        return sum(self.asked[cell] - self.right[cell] for cell in CELLS if cell != NEITHER)

    @property
    def gained(self) -> int:
        """Questions the row solves and no parent does."""
        return self.right[NEITHER]


@dataclass(frozen=True)
class Claim:
    """Does a row solve more of what neither parent solves than a parent's second try?

    Attributes:
        row, control: names.
        asked: questions that neither parent solves and both answered.
        gained, again: how many of them the row, the control solves.
        only_row, only_control: questions that only the one, only the other solves.
        p: exact McNemar, two-sided.
    """

    row: str
    control: str
    asked: int
    gained: int
    again: int
    only_row: int
    only_control: int
    p: float

    @property
    def holds(self) -> bool:
        """Whether the row solves significantly more than the control."""
        return self.p < ALPHA and self.gained > self.again

    def sentence(self) -> str:
        """The finding, for people."""
        from modist.evaluation.telling import p_value

        if not self.asked:
            return f"{self.row}: there is no question that neither parent solves, so nothing can be said."
        found = (
            f"Of {self.asked:,} questions neither parent solves, {self.row} solves {self.gained:,} "
            f"({100 * self.gained / self.asked:.1f}%) and {self.control} {self.again:,} "
            f"({100 * self.again / self.asked:.1f}%), {p_value(self.p)}: "
        )
        if self.holds:
            return found + "more than a second try finds, as the combinatorial claim says."
        if self.p < ALPHA:
            return found + "fewer than a second try finds; nothing combinatorial is seen."
        return found + "no more than a second try may find by luck; nothing combinatorial is shown."


@dataclass(frozen=True)
class Overlap:
    """A pair of parents and what others made of their questions.

    Attributes:
        first, second: the parents' names.
        benchmark: one's name, or "" for all pooled.
        counts: questions in each of CELLS.
        rows, controls: the merges, and the parents' second tries.
        claims: for each row, against each control.
    """

    first: str
    second: str
    benchmark: str
    counts: Mapping[str, int]
    rows: tuple[Kept, ...]
    controls: tuple[Kept, ...] = ()
    claims: tuple[Claim, ...] = ()

    def labels(self) -> dict[str, str]:
        """What each cell is called."""
        return {BOTH: "both parents", FIRST: f"only {self.first}", SECOND: f"only {self.second}", NEITHER: "neither parent"}

    def sentences(self) -> list[str]:
        """One a claim."""
        return [claim.sentence() for claim in self.claims]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        claims = [{**asdict(claim), "holds": claim.holds} for claim in self.claims]
        rows = {
            name: [{**asdict(one), "kept": one.kept, "lost": one.lost, "gained": one.gained} for one in found]
            for name, found in (("rows", self.rows), ("controls", self.controls))
        }
        head = {"first": self.first, "second": self.second, "benchmark": self.benchmark, "counts": dict(self.counts)}
        return {**head, **rows, "claims": claims}

    def grid(self) -> Grid:
        """A line a row: right answers of each cell's, kept, lost, gained."""
        from modist.report.tables import Face, Grid, Head, Line

        labels = self.labels()
        heads = [Head(labels[cell], f"n={self.counts[cell]:,}", "cells", benchmark=True) for cell in CELLS]
        heads += [Head("kept", "of theirs"), Head("lost", "of theirs"), Head("gained", "beyond them")]
        lines = []
        for kind, found in (("parent", self.controls), ("merge", self.rows)):
            for one in found:
                cells = [Face(f"{one.right[cell]:,} of {one.asked[cell]:,}", value=one.right[cell]) for cell in CELLS]
                sums = [Face(f"{number:,}", value=number) for number in (one.kept, one.lost, one.gained)]
                lines.append(Line(one.name, kind, (*cells, *sums)))
        return Grid(tuple(heads), tuple(lines), notes=tuple(self.sentences()))


def overlap(
    first: Results,
    second: Results,
    rows: Sequence[Results],
    controls: Sequence[Results] = (),
    *,
    benchmark: str | None = None,
    compatible: bool = False,
) -> Overlap:
    """Sort the questions that both parents answered by who solves them, and say what the rows made of each sort.

    Args:
        first, second: the parents' runs.
        rows: runs of what was made of them.
        controls: second runs of parents, by sampling; named so that one sees whose ("general, sampled again").
        benchmark: only this one's questions; all benchmarks pooled otherwise.
        compatible: grade as the published harness does instead.

    Raises:
        UserError: the parents have no question in common.
    """
    one, two = (_solved(run, benchmark, compatible) for run in (first, second))
    cells: dict[Question, str] = {}
    for question in one:
        if question in two:
            cells[question] = {
                (True, True): BOTH,
                (True, False): FIRST,
                (False, True): SECOND,
                (False, False): NEITHER,
            }[one[question], two[question]]
    if not cells:
        where = f" of {benchmark}" if benchmark else ""
        raise UserError(f"{first.name} and {second.name} answered no question{where} in common")
    solved = {run.name: _solved(run, benchmark, compatible) for run in (*rows, *controls)}
    claims = [_claim(row.name, control.name, cells, solved) for row in rows for control in controls]
    found = list(cells.values())
    return Overlap(
        first.name,
        second.name,
        benchmark or "",
        {cell: found.count(cell) for cell in CELLS},
        tuple(_kept(row.name, cells, solved[row.name]) for row in rows),
        tuple(_kept(control.name, cells, solved[control.name]) for control in controls),
        tuple(claims),
    )


def _solved(run: Results, benchmark: str | None, compatible: bool) -> dict[Question, bool]:
    """Each question, and whether its first sample is right."""
    return {
        (record.benchmark, record.id): bool(record.equal_compatible if compatible else record.equal)
        for record in run.records
        if record.sample == 0 and (benchmark is None or record.benchmark == benchmark)
    }


def _kept(name: str, cells: Mapping[Question, str], solved: Mapping[Question, bool]) -> Kept:
    asked, right = dict.fromkeys(CELLS, 0), dict.fromkeys(CELLS, 0)
    gained = []
    for question, cell in cells.items():
        if question in solved:
            asked[cell] += 1
            right[cell] += solved[question]
            if cell == NEITHER and solved[question]:
                gained.append(question)
    return Kept(name, asked, right, tuple(gained))


def _claim(row: str, control: str, cells: Mapping[Question, str], solved: Mapping[str, Mapping[Question, bool]]) -> Claim:
    ours, theirs = solved[row], solved[control]
    hard = [question for question, cell in cells.items() if cell == NEITHER and question in ours and question in theirs]
    only_row = sum(ours[question] and not theirs[question] for question in hard)
    only_control = sum(theirs[question] and not ours[question] for question in hard)
    return Claim(
        row,
        control,
        len(hard),
        sum(ours[question] for question in hard),
        sum(theirs[question] for question in hard),
        only_row,
        only_control,
        mcnemar(only_row, only_control),
    )
