"""The table: parents first, then what was made of them; each cell with its interval and its paired test.

What is said where:
    interval    Wilson's, 95%; with several samples a question it is widened for their likeness (`statistics.avg_at_k`).
    p           exact McNemar against the best parent of that benchmark, on the questions both answered; with several samples,
                and for averages, the sign-flip test of `statistics.sign_flip`.
    ▲, ▼        p < 0.05, above or below the best parent.
    bold        ▲, and still significant after Holm's correction over all cells of the table, and the interval does not cover
                the best parent.  So nothing whose interval covers the best parent is ever bold.
    average     unweighted over benchmarks, as the paper's; only for rows that have them all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from modist.errors import UserError, nearest
from modist.evaluation.cells import Asked, Average, Cell, asked, average, compare, compare_average, differences, mark, measure
from modist.evaluation.statistics import smallest_difference

if TYPE_CHECKING:
    from modist.evaluation.results import Results
    from modist.report.tables import Grid

MAIN, RETENTION = "main", "retention"
ROLES = ("parent", "merge", "mixture", "rival", "other")


@dataclass(frozen=True)
class Column:
    """One benchmark: how many questions, the parent to beat, and what these questions can show.

    Attributes:
        n: questions, the most that any row answered.
        group: `main`, or `retention` for what was measured to see what was forgotten.
        best: the parent that is best here; None where there are no parents.
        shows: the smallest true difference from the best parent that n would show (power 0.8, level 0.05).
        discordant: the share of questions that only one of two gets right assumed for `shows`: the median over the rows;
            None where there was none to look at, and `shows` is then that of an unpaired test.
    """

    benchmark: str
    title: str
    n: int
    group: str = MAIN
    best: str | None = None
    shows: float = math.inf
    discordant: float | None = None


@dataclass(frozen=True)
class Row:
    """One model: a cell for each column (None where it was not asked), and what it cost.

    Attributes:
        role: one of ROLES.
        averages: by group of columns; only groups of which every cell is there.
        tokens: mean tokens an answer.
        share: what it has of its parents, in the caller's words.
    """

    name: str
    role: str
    cells: tuple[Cell | None, ...]
    averages: Mapping[str, Average]
    tokens: float
    share: str = ""
    answers: int = 0
    disagreements: int = 0
    errors: int = 0
    cut: int = 0


@dataclass(frozen=True)
class Table:
    """Columns and rows, and how they are shown: see `modist.report.tables` for the forms."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    compatible: bool = False
    answers: int = 0
    disagreements: int = 0

    def groups(self) -> list[str]:
        """The groups of columns there are, `main` first."""
        return [group for group in (MAIN, RETENTION) if any(column.group == group for column in self.columns)]

    def grid(self) -> Grid:
        """As plain text cells, for every form a table is shown in."""
        from modist.evaluation.telling import as_grid

        return as_grid(self)

    def text(self, width: int | None = None, colour: bool = False) -> str:
        """For a terminal `width` columns wide (None: this one's); columns that do not fit go into a table below."""
        from modist.report.tables import text

        return text(self.grid(), width, colour)

    def markdown(self) -> str:
        """For documents; at most five benchmarks a table."""
        from modist.report.tables import markdown

        return markdown(self.grid())

    def latex(self) -> str:
        """For papers, with booktabs; at most five benchmarks a table."""
        from modist.report.tables import latex

        return latex(self.grid())

    def csv(self) -> str:
        """Raw numbers, one line a cell."""
        from modist.evaluation.telling import as_csv

        return as_csv(self)

    def findings(self) -> list[str]:
        """What it shows, in sentences."""
        from modist.evaluation.telling import findings

        return findings(self)

    def disagreement_line(self) -> str:
        """One line: on how many answers the two graders differ."""
        if not self.answers:
            return "no answers were graded"
        share = 100 * self.disagreements / self.answers
        return f"the two graders disagree on {self.disagreements:,} of {self.answers:,} answers ({share:.2g}%)"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; what is infinite becomes None."""
        return {
            "grader": "compatible" if self.compatible else "default",
            "answers": self.answers,
            "disagreements": self.disagreements,
            "columns": [_finite(asdict(column)) for column in self.columns],
            "rows": [
                {
                    **{key: value for key, value in vars(row).items() if key not in ("cells", "averages")},
                    "cells": {
                        column.benchmark: _finite(asdict(cell)) if cell else None
                        for column, cell in zip(self.columns, row.cells, strict=True)
                    },
                    "averages": {group: asdict(average) for group, average in row.averages.items()},
                }
                for row in self.rows
            ],
        }


def _finite(found: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in found.items()}


def build(
    results: Sequence[Results],
    parents: Sequence[str],
    roles: Mapping[str, str],
    compatible: bool = False,
    *,
    shares: Mapping[str, str] | None = None,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    retention: Collection[str] = (),
    titles: Mapping[str, str] | None = None,
    benchmarks: Sequence[str] | None = None,
) -> Table:
    """The table of some runs.

    Args:
        results: one a row; the parents are put first, the rest stays in its order.
        parents: names of `results`, best order first; may be empty (then nothing is compared).
        roles: by name, one of ROLES; a parent's is `parent`, one not named here `other`.
        compatible: grade as the published harness does instead.
        shares: by name, what a row has of its parents, in words.
        paper: by name and benchmark, what the paper says, in per cent.
        retention: benchmarks that form a group of their own, with an average of their own.
        titles: by benchmark, what it is called; its name otherwise.
        benchmarks: which, in what order; all there are, in the order they are met, otherwise.

    Raises:
        UserError: a name twice, a parent or benchmark that is not there, or runs that answered different questions.
    """
    by_name = {one.name: one for one in results}
    if len(by_name) < len(results):
        names = [one.name for one in results]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two rows are called {twice!r}; give one another name")
    for parent in parents:
        if parent not in by_name:
            raise UserError(f"the parent {parent!r} was not run{nearest(parent, by_name)}")
    for name, role in roles.items():
        if role not in ROLES:
            raise UserError(f"{name}: there is no role {role!r}{nearest(role, ROLES)}; the roles are {', '.join(ROLES)}")
    ordered = [by_name[name] for name in parents] + [one for one in results if one.name not in parents]
    questions = {one.name: asked(one.records, compatible) for one in ordered}
    found = list(dict.fromkeys(benchmark for one in ordered for benchmark in questions[one.name]))
    for name in benchmarks or ():
        if name not in found:
            raise UserError(f"no row was asked {name!r}{nearest(name, found)}")
    chosen = list(benchmarks) if benchmarks is not None else found
    chosen = [name for name in chosen if name not in retention] + [name for name in chosen if name in retention]
    columns: list[Column] = []
    cells: dict[str, list[Cell | None]] = {one.name: [] for one in ordered}
    for benchmark in chosen:
        here = {name: theirs[benchmark] for name, theirs in questions.items() if benchmark in theirs}
        _same_questions(benchmark, here)
        column, measured = _column(benchmark, here, parents)
        group = RETENTION if benchmark in retention else MAIN
        columns.append(replace(column, title=(titles or {}).get(benchmark, benchmark), group=group))
        for name, theirs in cells.items():
            said = (paper or {}).get(name, {}).get(benchmark)
            cell = measured.get(name)
            theirs.append(replace(cell, paper=said / 100) if cell and said is not None else cell)
    cells = _marked(columns, cells, parents)
    averages = _averages(columns, cells, questions, parents)
    rows = []
    for name, theirs in cells.items():
        role = "parent" if name in parents else roles.get(name, "other")
        rows.append(_row(name, role, tuple(theirs), averages[name], (shares or {}).get(name, "")))
    return Table(
        tuple(columns), tuple(rows), compatible, sum(row.answers for row in rows), sum(row.disagreements for row in rows)
    )


def _row(name: str, role: str, cells: tuple[Cell | None, ...], averages: Mapping[str, Average], share: str) -> Row:
    there = [cell for cell in cells if cell]
    answers = sum(cell.answers for cell in there)
    return Row(
        name,
        role,
        cells,
        averages,
        tokens=sum(cell.tokens * cell.answers for cell in there) / max(1, answers),
        share=share,
        answers=answers,
        disagreements=sum(cell.disagreements for cell in there),
        errors=sum(cell.errors for cell in there),
        cut=sum(cell.cut for cell in there),
    )


def _same_questions(benchmark: str, asked: Mapping[str, Asked]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name, one in asked.items():
        for item, gold in one.gold.items():
            first = seen.setdefault(item, (gold, name))
            if first[0] != gold:
                raise UserError(f"{benchmark}: {first[1]!r} and {name!r} were asked different questions (see {item})")


def _column(benchmark: str, asked: Mapping[str, Asked], parents: Sequence[str]) -> tuple[Column, dict[str, Cell]]:
    """A column, and the cells of the rows that were asked it, tested but not yet marked."""
    cells = {name: measure(one) for name, one in asked.items()}
    n = max(cell.n for cell in cells.values())
    there = [name for name in parents if name in cells]
    if not there:
        return Column(benchmark, benchmark, n), cells
    best = max(there, key=lambda name: cells[name].accuracy)
    shares = []
    for name, one in asked.items():
        if name == best:
            cells[name] = replace(cells[name], is_best=True)
            continue
        cells[name] = compare(cells[name], one, asked[best])
        found = differences(one, asked[best])
        if found:
            shares.append(math.fsum(d * d for d in found) / len(found))
    discordant = median(shares) if shares else None
    shows = smallest_difference(n, cells[best].accuracy, discordant)
    return Column(benchmark, benchmark, n, best=best, shows=shows, discordant=discordant), cells


def _marked(
    columns: Sequence[Column], cells: Mapping[str, Sequence[Cell | None]], parents: Sequence[str]
) -> dict[str, list[Cell | None]]:
    """All cells with their marks, corrected for one another over the whole table."""
    bests = [cell.accuracy if column.best and (cell := cells[column.best][at]) else None for at, column in enumerate(columns)]
    places = [(name, at) for name, theirs in cells.items() for at, cell in enumerate(theirs) if cell]
    marked = mark(
        [cell for theirs in cells.values() for cell in theirs if cell],
        [name not in parents for name, _ in places],
        [bests[at] for _, at in places],
    )
    new: dict[str, list[Cell | None]] = {name: [None] * len(columns) for name in cells}
    for (name, at), cell in zip(places, marked, strict=True):
        new[name][at] = cell
    return new


def _averages(
    columns: Sequence[Column],
    cells: Mapping[str, Sequence[Cell | None]],
    questions: Mapping[str, Mapping[str, Asked]],
    parents: Sequence[str],
) -> dict[str, dict[str, Average]]:
    """By row and group, for the rows that have every cell of a group of two benchmarks or more."""
    averages: dict[str, dict[str, Average]] = {name: {} for name in cells}
    for group in (MAIN, RETENTION):
        members = [(at, column.benchmark) for at, column in enumerate(columns) if column.group == group]
        if len(members) < 2:
            continue
        found: dict[str, Average] = {}
        for name, theirs in cells.items():
            there = [cell for at, _ in members if (cell := theirs[at])]
            if len(there) == len(members):
                found[name] = average(there)
        candidates = [name for name in parents if name in found]
        best = max(candidates, key=lambda name: found[name].accuracy) if candidates else None
        for name in found:
            if best is None:
                break
            strata = [differences(questions[name][benchmark], questions[best][benchmark]) for _, benchmark in members]
            if name == best:
                found[name] = replace(found[name], is_best=True)
            elif all(strata):
                found[name] = compare_average(found[name], strata)
        accuracy = found[best].accuracy if best else None
        marked = mark(list(found.values()), [name not in parents for name in found], [accuracy] * len(found))
        for name, one in zip(found, marked, strict=True):
            averages[name][group] = one
    return averages
