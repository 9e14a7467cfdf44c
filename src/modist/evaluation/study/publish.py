"""What a study says in the end: one table in five forms, pictures, one page.

OUT/index.html, table.txt, table.md, table.tex, table.csv, results.json and pictures/; all made anew from the runs each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.overlap import Overlap, overlap
from modist.evaluation.results import Results
from modist.evaluation.study.run import Entry, Outcome
from modist.evaluation.table import MAIN, Table, build
from modist.evaluation.telling import disagreements
from modist.version import VERSION


@dataclass(frozen=True)
class Published:
    """The table, what came out in sentences, and all of it for JSON."""

    table: Table
    lines: tuple[str, ...]
    results: dict[str, Any]


def publish(outcome: Outcome) -> Published:
    """Write the table, the pictures and the page beside the runs.

    Raises:
        EvaluationError: a file cannot be written.
    """
    table, published = (_table(outcome, compatible) for compatible in (False, True))
    pair = _overlap(outcome)
    lines = [*_findings(outcome, table), *(f"{one.label}: {one.tuned.line()}" for one in outcome.entries if one.tuned)]
    results: dict[str, Any] = {
        "title": outcome.study.title,
        "version": VERSION,
        "table": table.as_dict(),
        "table_compatible": published.as_dict(),
        "overlap": pair.as_dict() if pair else None,
        "rows": [_about(entry) for entry in outcome.entries],
        "findings": lines,
    }
    forms = {
        "table.txt": table.text(160),
        "table.md": table.markdown(),
        "table.tex": table.latex(),
        "table.csv": table.csv(),
        "results.json": json.dumps(results, indent=1),
    }
    try:
        for name, text in forms.items():
            _write(outcome.out / name, text if text.endswith("\n") else text + "\n")
        (outcome.out / "pictures").mkdir(exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{outcome.out}: cannot be written ({error.strerror})") from None
    _page(outcome, table, published, pair, lines)
    return Published(table, tuple(lines), results)


def _table(outcome: Outcome, compatible: bool) -> Table:
    from modist.evaluation.benchmarks import find

    study, entries = outcome.study, outcome.entries
    found = [find(name) for name in (*study.benchmarks, *study.retention)]
    return build(
        [entry.results for entry in entries],
        [entry.label for entry in entries if entry.role == "parent"],
        {entry.label: entry.role for entry in entries if entry.role != "parent"},
        compatible,
        shares={entry.label: entry.share for entry in entries if entry.share},
        paper={entry.label: study.paper[entry.paper] for entry in entries if entry.paper},
        retention=[find(name).name for name in study.retention],
        titles={one.name: one.title for one in found},
        benchmarks=[one.name for one in found],
    )


def _overlap(outcome: Outcome) -> Overlap | None:
    """What became of the first two parents' questions; a sampled run of each is the second try that claims are held against."""
    parents = [entry for entry in outcome.entries if entry.role == "parent"]
    if len(parents) < 2:
        return None
    controls = [_again(parent, outcome) for parent in parents[:2] if parent.name in outcome.sampled]
    rows = [entry.results for entry in outcome.entries if entry.role in ("merge", "mixture")]
    return overlap(parents[0].results, parents[1].results, rows, controls)


def _again(parent: Entry, outcome: Outcome) -> Results:
    return replace(outcome.sampled[parent.name], name=f"{parent.label}, sampled again")


def _findings(outcome: Outcome, table: Table) -> list[str]:
    """What came out, a sentence each: who is shown to beat the best parent, and the best of each kind."""
    averages = {row.name: row.averages[MAIN] for row in table.rows if MAIN in row.averages}
    roles = {entry.label: entry.role for entry in outcome.entries}
    parents = [name for name in averages if roles[name] == "parent"]
    if not parents:
        return []
    best = max(parents, key=lambda name: averages[name].accuracy)
    found = [f"The best parent on average is {best}, {_per_cent(averages[best].accuracy)}."]
    for role, what in (("merge", "merges"), ("mixture", "mixtures"), ("rival", "ways without merging")):
        names = [name for name in averages if roles[name] == role]
        if not names:
            continue
        top = max(names, key=lambda name: averages[name].accuracy)
        above = [name for name in names if averages[name].bold]
        shown = f"{len(above)} of {len(names)} {what}" if above else f"none of {len(names)} {what}"
        verb = "is" if len(above) <= 1 else "are"
        found.append(
            f"On average {shown} {verb} shown to beat it{' (' + ', '.join(above) + ')' if above else ''}; the highest is {top},"
            f" {_per_cent(averages[top].accuracy)} [{_per_cent(averages[top].low)}, {_per_cent(averages[top].high)}]."
        )
    return found


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def _about(entry: Entry) -> dict[str, Any]:
    tried = [
        {"value": one.value, "accuracy": one.accuracy, "right": list(one.right), "total": list(one.total)}
        for one in (entry.tuned.candidates if entry.tuned else ())
    ]
    return {
        "name": entry.name,
        "label": entry.label,
        "role": entry.role,
        "share": entry.share,
        "notes": list(entry.notes),
        "tuned": {"parameter": entry.tuned.parameter, "best": entry.tuned.best.value, "tried": tried} if entry.tuned else None,
    }


def _page(outcome: Outcome, table: Table, published: Table, pair: Overlap | None, lines: Sequence[str]) -> None:
    from modist.report.page import write_page

    study = outcome.study
    notes = [*study.notes, *(f"{entry.label}: {note}" for entry in outcome.entries for note in entry.notes)]
    if study.paper_source:
        notes.append(f"The numbers marked as the paper's are {study.paper_source}: greedy answers, no intervals printed.")
    if any(entry.role == "rival" for entry in outcome.entries):
        notes.append(
            "A route gives each question to the parent whose reading finds it likelier, per token, and costs one more reading"
            " of the prompt by each. A vote takes the answer that most of its samples give, ties to the earlier parent; votes"
            " with the same number of samples cost the same, and the tokens column counts all of them. A mixture of two models"
            " costs one pass of a model a token decoded lazily, two in batches: about half a vote of four."
        )
    if pair is not None and pair.claims:
        notes.append(
            "Kept, lost and gained count greedy answers, or the first sample. A second try of a parent finds some questions"
            " that neither parent's greedy answer solves; a merge's gains are held against that."
        )
    more: list[tuple[str, Any]] = []
    if table.disagreements:
        more.append(("The same, graded by the published harness's rules", published))
    if pair is not None:
        more.append(("What became of the parents' questions", pair))
    pictures, lacking = _pictures(outcome, table, pair)
    write_page(
        outcome.out / "index.html",
        table,
        pictures,
        [*notes, *lacking],
        title=study.title,
        lead=f"{len(outcome.entries)} rows on {len(table.columns)} benchmarks, parents first.",
        findings=lines,
        more=more,
        settings=_settings(outcome),
        commands=[f"modist study {study.document.name} --out {outcome.out}"],
        # A route's and a vote's answers are the parents'.
        disagreements=disagreements([entry.results for entry in outcome.entries if entry.role != "rival"]),
    )


def _settings(outcome: Outcome) -> dict[str, object]:
    plan = outcome.entries[0].results.plan
    model = plan.get("model", {})
    decode = outcome.study.decode
    drawn = f"temperature {decode.temperature:g}, top-p {decode.top_p:g}, seed {decode.seed}"
    found: dict[str, object] = {"modist": VERSION, "prompts": decode.style or "each benchmark's own", "answers": "greedy"}
    if outcome.sampled:
        found["answers voted over"] = drawn
    found |= {name: model[name] for name in ("torch", "transformers", "dtype", "device") if name in model}
    limit = plan["settings"].get("limit")
    return found | ({"questions": f"{limit} of each benchmark, drawn by seed {decode.seed}"} if limit else {})


def _pictures(outcome: Outcome, table: Table, pair: Overlap | None) -> tuple[list[Any], list[str]]:
    """Bars with intervals and the parents' questions; or why there are none."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return [], ["There are no pictures: drawing needs matplotlib (pip install 'modist[plot]')."]
    from modist.evaluation.densities import CAPTION, draw_figures
    from modist.report.bars import Panel, Point, draw_bars
    from modist.report.overlap_picture import Bar, draw_overlap
    from modist.report.page import Picture

    folder = outcome.out / "pictures"
    panels = []
    for place, column in enumerate(table.columns):
        cells = [row.cells[place] for row in table.rows]
        points = tuple(Point(cell.accuracy, cell.low, cell.high, cell.bold) if cell else None for cell in cells)
        panels.append(Panel(f"{column.title}, n={column.n:,}", points))
    names, kinds = [row.name for row in table.rows], [row.role for row in table.rows]
    bars = draw_bars(folder / "accuracy.png", names, kinds, panels, outcome.study.title)
    found = [Picture(bars, "Accuracy by benchmark", "with 95% intervals; the dashed line is the best parent.")]
    if pair is not None:
        drawn = [Bar(one.name, one.asked, one.right, True) for one in pair.controls]
        drawn += [Bar(one.name, one.asked, one.right) for one in pair.rows]
        if drawn:
            picture = draw_overlap(folder / "overlap.png", pair.first, pair.second, drawn, "The parents' questions")
            caption = "which questions each row keeps, loses and gains, by which parent solves them."
            found.append(Picture(picture, "What became of the parents' questions", caption))
    found.append(Picture(draw_figures(folder / "figures.png"), "The paper's Figures 1-3", CAPTION))
    return found, []


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", errors="replace")
    os.replace(part, path)
