"""A table's cells in words: percentages, p-values, what stands below it; and the raw numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modist.evaluation.cells import BELOW, Average, Cell
from modist.evaluation.table import MAIN, Column, Row, Table
from modist.report.tables import Face, Grid, Head, Line, plain

if TYPE_CHECKING:
    from modist.evaluation.results import Results

_NOTHING = Face("—")
_AVERAGES = {"main": "average", "retention": "retention average"}


def per_cent(share: float) -> str:
    """A fraction as per cent with one decimal, without its sign."""
    return f"{100 * share:.1f}"


def p_value(p: float) -> str:
    """As papers write it: p=.031, p<.001."""
    if p < 0.0005:
        return "p<.001"
    return "p=1" if p > 0.9995 else f"p={p:.3f}".replace("0.", ".")


def as_grid(table: Table) -> Grid:
    """The table in text: benchmarks of each group, their average beside, then what a row cost and where it errs."""
    heads: list[Head] = []
    columns: list[list[Face]] = []
    foot: list[Face] = []

    def add(head: Head, faces: list[Face], below: Face | None = None) -> None:
        heads.append(head)
        columns.append(faces)
        foot.append(below or Face(""))

    for group in table.groups():
        for at, column in enumerate(table.columns):
            if column.group == group:
                title = Head(column.title, f"n={column.n:,}", group, _about(column), benchmark=True)
                add(title, [_face(row.cells[at], column) for row in table.rows], _shows(column))
        if any(group in row.averages for row in table.rows):
            count = sum(column.group == group for column in table.columns)
            title = Head(_AVERAGES[group], f"of {count}", group, f"unweighted mean over {count} benchmarks")
            add(title, [_average_face(row.averages.get(group)) for row in table.rows])
    add(
        Head("tokens", "an answer", "about", "mean tokens generated for an answer"),
        [Face(f"{row.tokens:,.0f}", value=row.tokens) for row in table.rows],
    )
    if any(row.share for row in table.rows):
        add(Head("share", "of the parents", "about", left=True), [Face(plain(row.share)) for row in table.rows])
    add(
        Head("graders", "disagree", "about", "answers that the two graders see differently"),
        [Face(f"{row.disagreements:,}", value=row.disagreements) for row in table.rows],
    )
    # A column of zeros says less than a note.
    if any(row.cut for row in table.rows):
        add(
            Head("cut", "at the limit", "about", "answers that ended at the token limit; graded as they are"),
            [Face(f"{row.cut:,}", value=row.cut) for row in table.rows],
        )
    if any(row.errors for row in table.rows):
        add(
            Head("errors", "no answer", "about", "answers that never came; they count as wrong"),
            [Face(f"{row.errors:,}", value=row.errors) for row in table.rows],
        )
    lines = [Line(row.name, row.role, tuple(column[at] for column in columns)) for at, row in enumerate(table.rows)]
    compared = any(column.best for column in table.columns)
    return Grid(
        tuple(heads),
        tuple(lines),
        "difference n can show" if compared else "",
        tuple(foot) if compared else (),
        tuple(_notes(table)),
    )


def _face(cell: Cell | None, column: Column) -> Face:
    if cell is None:
        return _NOTHING
    hint = [f"{cell.right:,} of {cell.answers:,} right, 95% interval {per_cent(cell.low)} to {per_cent(cell.high)}"]
    if cell.n != column.n:
        hint.append(f"only {cell.n:,} of {column.n:,} questions")
    if cell.pass_k is not None:
        hint.append(f"avg@{cell.samples}; pass@{cell.samples} {per_cent(cell.pass_k)}")
    if cell.is_best:
        hint.append("the best parent here")
    if cell.only_row is not None and cell.only_best is not None:
        hint.append(f"{cell.only_row:,} questions only this row gets right, {cell.only_best:,} only {plain(column.best or '')}")
    if cell.p is not None:
        corrected = f", {p_value(cell.p_holm)} corrected for the whole table" if cell.p_holm is not None else ""
        hint.append(f"paired test {p_value(cell.p)}{corrected}")
    if cell.disagreements:
        hint.append(f"the graders disagree on {cell.disagreements:,}")
    return Face(
        per_cent(cell.accuracy),
        cell.mark,
        "best" if cell.is_best else p_value(cell.p) if cell.p is not None else "",
        f"{per_cent(cell.low)}–{per_cent(cell.high)}",
        f"paper {per_cent(cell.paper)}" if cell.paper is not None else "",
        cell.bold,
        "; ".join(hint),
        cell.accuracy,
    )


def _average_face(one: Average | None) -> Face:
    if one is None:
        return _NOTHING
    interval = f"{per_cent(one.low)}–{per_cent(one.high)}"
    test = "best" if one.is_best else p_value(one.p) if one.p is not None else ""
    hint = f"unweighted mean, 95% interval {interval}"
    return Face(per_cent(one.accuracy), one.mark, test, interval, "", one.bold, hint, one.accuracy)


def _shows(column: Column) -> Face:
    if not math.isfinite(column.shows):
        return Face("none", hint=_about(column))
    return Face(f"±{per_cent(column.shows)}", hint=_about(column), value=column.shows)


def _about(column: Column) -> str:
    if column.best is None:
        return f"{column.n:,} questions"
    if not math.isfinite(column.shows):
        return f"{column.n:,} questions cannot show any difference"
    how = (
        f"a paired test, where one of two models alone is right on {per_cent(column.discordant)}% of the questions"
        if column.discordant is not None
        else "an unpaired test"
    )
    return (
        f"{column.n:,} questions show a true difference of {per_cent(column.shows)} points from {plain(column.best)} "
        f"in four of five repetitions ({how})"
    )


def _notes(table: Table) -> list[str]:
    grader = "the published harness's rules" if table.compatible else "math-verify behind an exact-string short-cut"
    notes = [f"Accuracy in per cent with Wilson's 95% interval below; graded by {grader}; {table.disagreement_line()}."]
    if any(column.best for column in table.columns):
        notes += [
            "p: exact McNemar test, question by question, against the best parent of that benchmark ('best'); averages and "
            "several samples a question: sign-flip test. ▲ above, ▼ below the best parent at p < .05.",
            "Bold: above the best parent even after Holm's correction over the table, with an interval that does not cover "
            "it. Where nothing is bold, nothing here is shown to beat both parents.",
            "Difference n can show: the smallest true difference from the best parent that a two-sided paired test at .05 "
            "finds with power .8, if as many answers differ as here in the median row.",
        ]
    ends = ["no answer failed"] if not any(row.errors for row in table.rows) else []
    ends += ["none was cut at the token limit"] if not any(row.cut for row in table.rows) else []
    if ends:
        notes[0] = f"{notes[0][:-1]}; {', '.join(ends)}."
    if any(cell and cell.samples > 1 for row in table.rows for cell in row.cells):
        notes.append("Several samples a question: avg@K, with an interval that knows a question's samples are alike.")
    if any(cell and cell.paper is not None for row in table.rows for cell in row.cells):
        notes.append("'paper': the number the paper gives; measured elsewhere, with its own grader.")
    return notes


def findings(table: Table) -> list[str]:
    """What the table shows, in sentences: which rows are shown to beat the best parent, where, and which fall below it."""
    made = [row for row in table.rows if row.role != "parent"]
    if not made or not any(column.best for column in table.columns):
        return []
    found = []
    above = {row.name: _where(table, row, bold=True) for row in made}
    winners = {name: places for name, places in above.items() if places}
    count = f"{len(made)} row{'s' if len(made) > 1 else ''}"
    if winners:
        said = "; ".join(f"{name} on {', '.join(places)}" for name, places in winners.items())
        found.append(f"Shown to beat the best parent, corrected for all comparisons of the table: {said}.")
    else:
        found.append(f"None of {count} is shown to beat the best parent on any benchmark here.")
    for row in made:
        places = _where(table, row, mark=BELOW)
        if places:
            found.append(f"{row.name} is below the best parent on {', '.join(places)}.")
    average = {row.name: one for row in made if (one := row.averages.get(MAIN)) and one.p is not None}
    if average:
        name, one = max(average.items(), key=lambda entry: entry[1].accuracy)
        difference = 100 * (one.difference or 0.0)
        found.append(
            f"The highest average of what was made is {name}'s, {per_cent(one.accuracy)}: {difference:+.1f} points against the "
            f"parent with the best average ({p_value(one.p or 0.0)})."
        )
    return found


def _where(table: Table, row: Row, bold: bool = False, mark: str = "") -> list[str]:
    return [
        column.title
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell and ((bold and cell.bold) or (mark and cell.mark == mark))
    ]


def disagreements(results: Sequence[Results]) -> dict[str, list[dict[str, str]]]:
    """By benchmark, the answers that the two graders see differently, as text for a page."""
    found: dict[str, list[dict[str, str]]] = {}
    for run in results:
        for record in run.records:
            if record.equal != record.equal_compatible:
                found.setdefault(record.benchmark, []).append(
                    {
                        "model": run.name,
                        "question": record.id,
                        "gold": record.gold,
                        "default grader": _judged(record.equal, record.extracted),
                        "compatible grader": _judged(record.equal_compatible, record.extracted_compatible),
                        "note": record.note,
                    }
                )
    return found


def _judged(right: bool, span: str) -> str:
    return f"{'right' if right else 'wrong'}: {span}"


# fmt: off
_CSV = (
    "row", "role", "group", "benchmark", "n", "samples", "answers", "right", "accuracy", "low", "high", "best_parent",
    "is_best", "difference", "only_row", "only_best", "p", "p_holm", "mark", "bold", "pass_k", "paper", "tokens",
    "disagreements", "cut", "errors", "shows",
)
# fmt: on


def as_csv(table: Table) -> str:
    """One line a cell and one an average, fractions in full precision; nothing where nothing is known."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV, lineterminator="\n", restval="")
    writer.writeheader()
    for row in table.rows:
        _write_cells(writer, row, table.columns)
        for group, one in row.averages.items():
            benchmark = "average" if group == MAIN else f"average of {group}"
            writer.writerow({**_raw(vars(one)), "row": row.name, "role": row.role, "group": group, "benchmark": benchmark})
    return file.getvalue()


def _write_cells(writer: csv.DictWriter[str], row: Row, columns: Sequence[Column]) -> None:
    for cell, column in zip(row.cells, columns, strict=True):
        if cell is None:
            continue
        place = {"row": row.name, "role": row.role, "group": column.group, "benchmark": column.benchmark}
        about = _raw({"best_parent": column.best, "shows": column.shows})
        writer.writerow({**_raw(vars(cell)), **place, **about})


def _raw(found: dict[str, object]) -> dict[str, object]:
    kept = {key: value for key, value in found.items() if value is not None}
    return {key: int(value) if isinstance(value, bool) else value for key, value in kept.items()}
