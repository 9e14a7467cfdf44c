"""A folder of runs, and what is told of them together: one table in four forms, and one page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import UserError, nearest
from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.results import PLAN, Results, Unfinished, read_results
from modist.evaluation.table import Table, build

NOTE = "models.json"


@dataclass(frozen=True)
class Album:
    """Runs to be told together.

    Attributes:
        folder: that holds a folder for each run.
        results: of the runs, in the order in which they are told.
        parents: names of some of them.
        roles: name -> `merge`, `mixture` or `other`.
        shares: name -> what it has of its parents, in words.
    """

    folder: Path
    results: tuple[Results, ...]
    parents: tuple[str, ...]
    roles: Mapping[str, str]
    shares: Mapping[str, str]

    def table(self, compatible: bool = False) -> Table:
        """Parents first; by the default grader, or by the published rules."""
        titles = {entry["name"]: entry["title"] for one in self.results for entry in one.plan["benchmarks"]}
        return build(self.results, self.parents, self.roles, compatible, shares=self.shares, titles=titles)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: the tables, and what of each run no table says."""
        return {
            "table": self.table().as_dict(),
            "table_compatible": self.table(compatible=True).as_dict(),
            "models": [
                {
                    "name": one.name,
                    "folder": str(one.folder),
                    "role": "parent" if one.name in self.parents else self.roles.get(one.name, "other"),
                    "answers": len(one.records),
                    "tokens": one.tokens,
                    "seconds": one.seconds,
                    "already": one.already,
                    "benchmarks": [self._counts(one, name) for name in one.benchmarks],
                    "errors": [
                        {"benchmark": at.benchmark, "id": at.id, "sample": at.sample, "why": at.note} for at in one.errors
                    ],
                }
                for one in self.results
            ],
        }

    @staticmethod
    def _counts(one: Results, name: str) -> dict[str, Any]:
        records = one.of(name)
        return {
            "name": name,
            "questions": one.count(name),
            "answers": len(records),
            "right": one.right(name),
            "right_compatible": one.right(name, compatible=True),
            "errors": sum(record.failed for record in records),
            "cut": sum(record.finish_reason == "length" for record in records),
            "disagreements": list(dict.fromkeys(record.id for record in one.disagreements(name))),
        }

    def write(self, commands: Sequence[str] = ()) -> Path:
        """Write table.md, table.tex, table.csv and index.html into the folder; returns the page.

        Raises:
            EvaluationError: the disk is unwilling.
        """
        from modist.evaluation.telling import disagreements
        from modist.report.page import write_page

        table, published = self.table(), self.table(compatible=True)
        try:
            for name, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
                _write(self.folder / f"table.{name}", text if text.endswith("\n") else text + "\n")
        except OSError as error:
            raise EvaluationError(f"{self.folder}: cannot be written ({error.strerror})") from None
        notes = [
            f"{one.name}: {len(one.errors):,} answers failed and count as wrong (the first: {one.errors[0].note[:200]})"
            for one in self.results
            if one.errors
        ]
        pictures, note = self._pictures(table)
        write_page(
            self.folder / "index.html",
            table,
            pictures,
            [*notes, *note],
            title="Evaluation",
            lead=f"{len(table.rows)} models on {len(table.columns)} benchmarks" + (", parents first." if self.parents else "."),
            findings=table.findings(),
            more=[("The same, graded by the published harness's rules", published)],
            settings=self._settings(),
            commands=commands,
            disagreements=disagreements(self.results),
        )
        return self.folder / "index.html"

    def _pictures(self, table: Table) -> tuple[list[Any], list[str]]:
        """Bars with intervals; or why there are none."""
        from importlib.util import find_spec

        if find_spec("matplotlib") is None:
            return [], ["There are no pictures: drawing needs matplotlib (pip install 'modist[plot]')."]
        from modist.report.bars import Panel, Point, draw_bars
        from modist.report.page import Picture

        panels = []
        for place, column in enumerate(table.columns):
            cells = [row.cells[place] for row in table.rows]
            points = tuple(Point(cell.accuracy, cell.low, cell.high, cell.bold) if cell else None for cell in cells)
            panels.append(Panel(f"{column.title}, n={column.n:,}", points))
        names, kinds = [row.name for row in table.rows], [row.role for row in table.rows]
        bars = draw_bars(self.folder / "accuracy.png", names, kinds, panels)
        line = "; the dashed line is the best parent" if self.parents else ""
        return [Picture(bars, "Accuracy by benchmark", f"with 95% intervals{line}.")], []

    def _settings(self) -> dict[str, object]:
        """What all runs have in common, and what each benchmark was asked in."""
        found: dict[str, object] = {}
        plans = [one.plan for one in self.results]
        for group in ("versions", "settings"):
            for key, value in plans[0].get(group, {}).items():
                if value is not None and all(plan.get(group, {}).get(key) == value for plan in plans):
                    found[key.replace("_", " ")] = value
        if plans[0]["settings"].get("temperature") is None:
            found["answers"] = "greedy"
            found.pop("top p", None)
            found.pop("top k", None)
        for entry in plans[0]["benchmarks"]:
            found[entry["name"]] = (
                f"{len(entry['ids']):,} of {entry['rows']:,} questions, style {entry['style']}, at most"
                f" {entry['max_new_tokens']:,} tokens, data {entry['digest'][:12]}"
            )
        return found

    def remember(self) -> None:
        """Keep who is whose parent beside the runs, for `read_album`."""
        note = _read_note(self.folder)
        here = {one.name for one in self.results}
        order = [name for name in note.get("order", []) if name not in here]
        # Who is evaluated alone, or beside others that nobody called its children, is no less a parent for it.
        before = [name for name in note.get("parents", []) if not self.parents or name not in here]
        kept = {
            "order": [*order, *(one.name for one in self.results)],
            "parents": [*before, *self.parents],
            "roles": {**note.get("roles", {}), **self.roles},
            "shares": {**note.get("shares", {}), **self.shares},
        }
        try:
            _write(self.folder / NOTE, json.dumps(kept, indent=1) + "\n")
        except OSError as error:
            raise EvaluationError(f"{self.folder}: cannot be written ({error.strerror})") from None


def read_album(folder: Path, parents: Sequence[str] = (), note: Callable[[str], object] = lambda line: None) -> Album:
    """All finished runs of a folder.

    Args:
        parents: names; those that were remembered by default.
        note: told of each run that is not finished.

    Raises:
        UserError: there is no run, none is finished, or a parent is not among them.
        EvaluationError: a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = [folder] if (folder / PLAN).is_file() else sorted(path.parent for path in folder.glob(f"*/{PLAN}"))
    if not found:
        raise UserError(f"{folder}: holds no runs of modist eval")
    kept = _read_note(folder)
    results: dict[str, Results] = {}
    stopped: list[Unfinished] = []
    for path in found:
        try:
            one = read_results(path)
        except Unfinished as error:
            stopped.append(error)
            continue
        if one.name in results:
            raise UserError(f"{path} and {results[one.name].folder}: two runs are called {one.name!r}")
        results[one.name] = one
    if not results:
        raise stopped[0]
    for one_stopped in stopped:
        note(str(one_stopped))
    order = [name for name in kept.get("order", []) if name in results]
    names = [*order, *(name for name in results if name not in order)]
    for name in parents:
        if name not in results:
            raise UserError(f"--parents {name}: there is no such run in {folder}{nearest(name, results)}")
    chosen = list(parents) or [name for name in kept.get("parents", []) if name in results]
    return Album(
        folder,
        tuple(results[name] for name in names),
        tuple(chosen),
        {name: role for name, role in kept.get("roles", {}).items() if name in results},
        {name: share for name, share in kept.get("shares", {}).items() if name in results},
    )


def _read_note(folder: Path) -> dict[str, Any]:
    """What was remembered; nothing where that cannot be read, since runs can be told without it."""
    try:
        found = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    kinds: dict[str, type] = {"order": list, "parents": list, "roles": dict, "shares": dict}
    return {key: value for key, value in found.items() if isinstance(value, kinds.get(key, ()))}


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
