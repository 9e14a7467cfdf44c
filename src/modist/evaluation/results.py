"""What a run found: its plan and one record for every answer, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.record import Record, read_record

PLAN = "plan.json"
ANSWERS = "answers.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Results:
    """One model's answers, in the plan's order: by benchmark, then as the benchmark's file has them, then by sample.

    Attributes:
        name: the model's, for tables.
        folder: the run's.
        plan: what `plan.json` holds.
        records: one for every answer that was planned.
        already: how many of them an earlier run had found.
    """

    name: str
    folder: Path
    plan: dict[str, Any]
    records: tuple[Record, ...]
    already: int = 0
    _by: dict[str, list[Record]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by: dict[str, list[Record]] = {name: [] for name in self.benchmarks}
        for record in self.records:
            by[record.benchmark].append(record)
        object.__setattr__(self, "_by", by)

    @property
    def benchmarks(self) -> list[str]:
        """Names, in the order in which they were asked for."""
        return [entry["name"] for entry in self.plan["benchmarks"]]

    @property
    def samples(self) -> int:
        """Answers a question."""
        return int(self.plan["settings"]["samples"])

    def of(self, benchmark: str) -> list[Record]:
        """The records of one benchmark; KeyError where the run has none of that name."""
        return self._by[benchmark]

    def questions(self, benchmark: str) -> dict[str, list[Record]]:
        """id -> its samples, in order."""
        found: dict[str, list[Record]] = {}
        for record in self.of(benchmark):
            found.setdefault(record.id, []).append(record)
        return found

    def count(self, benchmark: str) -> int:
        """Questions, not answers."""
        return len(self.questions(benchmark))

    def right(self, benchmark: str, compatible: bool = False) -> int:
        """Answers that the default grader, or the published rules, call right."""
        return sum(record.equal_compatible if compatible else record.equal for record in self.of(benchmark))

    def disagreements(self, benchmark: str | None = None) -> list[Record]:
        """Answers about which the two graders disagree."""
        records = self.records if benchmark is None else self.of(benchmark)
        return [record for record in records if record.equal != record.equal_compatible]

    @property
    def errors(self) -> list[Record]:
        """Answers that never came; they count as wrong."""
        return [record for record in self.records if record.failed]

    @property
    def tokens(self) -> int:
        return sum(record.tokens for record in self.records)

    @property
    def seconds(self) -> float:
        """Of generating, all batches together."""
        return sum(record.seconds for record in self.records)


class Unfinished(UserError):
    """A run that was stopped, and not yet gone on with."""


def read_plan(folder: Path) -> dict[str, Any]:
    """A run folder's plan.

    Raises:
        UserError: there is none.
        EvaluationError: it is damaged, or of another version of modist.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: holds no run of modist eval (there is no {PLAN})") from None
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: damaged: not JSON ({str(error)[:100]})") from None
    wrong = _wrong_plan(plan)
    if wrong:
        raise EvaluationError(f"{path}: damaged: {wrong}")
    if plan["format"] != FORMAT:
        raise EvaluationError(f"{path}: has format {plan['format']!r}, and this modist reads {FORMAT}")
    return dict(plan)


def _wrong_plan(plan: object) -> str:
    """Why this cannot be a plan, or an empty string."""
    if not isinstance(plan, dict) or "format" not in plan:
        return "not a plan"
    kinds = {"name": str, "model": dict, "settings": dict, "benchmarks": list, "batches": list}
    for key, kind in kinds.items():
        if not isinstance(plan.get(key), kind):
            return f"{key!r} is missing or no {kind.__name__}"
    if not isinstance(plan["settings"].get("samples"), int):
        return "'settings' has no number of samples"
    for entry in plan["benchmarks"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not isinstance(entry.get("ids"), list):
            return "a benchmark without a name and ids"
    names = {entry["name"] for entry in plan["benchmarks"]}
    for batch in plan["batches"]:
        if not isinstance(batch, dict) or batch.get("benchmark") not in names or not isinstance(batch.get("asks"), list):
            return "a batch without a benchmark and asks"
        if any(not isinstance(ask, list) or len(ask) != 2 for ask in batch["asks"]):
            return "a batch whose asks are not pairs of an id and a sample"
    return ""


def batch_keys(plan: dict[str, Any]) -> list[list[tuple[str, str, int]]]:
    """The keys (benchmark, id, sample) of every batch, in order."""
    return [[(batch["benchmark"], str(id), int(sample)) for id, sample in batch["asks"]] for batch in plan["batches"]]


def in_order(plan: dict[str, Any], records: Sequence[Record]) -> tuple[Record, ...]:
    """The records by benchmark, question and sample, as the plan lists them."""
    place = {
        (entry["name"], id): (number, position)
        for number, entry in enumerate(plan["benchmarks"])
        for position, id in enumerate(entry["ids"])
    }
    return tuple(sorted(records, key=lambda record: (*place[record.benchmark, record.id], record.sample)))


def read_results(folder: Path, partial: bool = False) -> Results:
    """What a run folder holds.  Of a batch that is there twice (asked again after errors) the later copy counts.

    Args:
        folder: as `evaluate` was given.
        partial: read what there is of an unfinished run, too.

    Raises:
        UserError: there is no run, or it is not finished (`Unfinished`).
        EvaluationError: a file is damaged; names the line.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    planned = batch_keys(plan)
    path = folder / ANSWERS
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raw = b""
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None
    found: dict[int, list[Record]] = {}
    rows: list[Record] = []
    *lines, tail = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = read_record(line)
        except ValueError as error:
            raise EvaluationError(f"{path}:{number}: {error}") from None
        if rows and record.batch != rows[-1].batch:
            raise EvaluationError(f"{path}:{number}: batch {rows[-1].batch} ends before its last answer")
        rows.append(record)
        keys = planned[record.batch] if record.batch < len(planned) else []
        if keys[len(rows) - 1 : len(rows)] != [record.key]:
            raise EvaluationError(f"{path}:{number}: {record.id!r} of {record.benchmark!r} is not what the plan has here")
        if len(rows) == len(keys):
            found[record.batch], rows = rows, []
    if not partial and (len(found) < len(planned) or rows or tail):
        raise Unfinished(
            f"{folder}: this run is not finished ({len(found)} of {len(planned)} batches); the same command goes on with it"
        )
    records = [record for batch in sorted(found) for record in found[batch]]
    return Results(plan["name"], folder, plan, in_order(plan, records), already=len(records))
