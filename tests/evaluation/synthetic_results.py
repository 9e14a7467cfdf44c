"""Runs made up of right and wrong answers, for what is told of runs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from modist.evaluation.record import Record
from modist.evaluation.results import Results


def record(
    benchmark: str, number: int, right: bool, *, sample: int = 0, compatible: bool | None = None, **changed: object
) -> Record:
    """One answer to question `number`, graded alike by both unless `compatible` is said."""
    values = {
        "benchmark": benchmark,
        "id": f"{benchmark}-{number:04d}",
        "sample": sample,
        "batch": number // 8,
        "prompt": f"question {number}",
        "output": f"the answer is {number if right else number + 1}",
        "finish_reason": "stop",
        "tokens": 20 + number % 7,
        "prompt_tokens": 11,
        "seconds": 0.1,
        "gold": str(number),
        "extracted": str(number if right else number + 1),
        "extracted_compatible": str(number if right else number + 1),
        "equal": right,
        "equal_compatible": right if compatible is None else compatible,
    }
    return Record(**{**values, **changed})  # type: ignore[arg-type]


def results(name: str, answers: Mapping[str, Sequence[bool]] | Sequence[Record]) -> Results:
    """A run by its records, or by whether each question of each benchmark was answered right."""
    records = (
        tuple(record(benchmark, number, right) for benchmark, found in answers.items() for number, right in enumerate(found))
        if isinstance(answers, Mapping)
        else tuple(answers)
    )
    names = list(dict.fromkeys(one.benchmark for one in records))
    samples = max((one.sample for one in records), default=0) + 1
    plan = {"benchmarks": [{"name": one} for one in names], "settings": {"samples": samples}}
    return Results(name, Path("nowhere"), plan, records)


def counted(right: int, total: int) -> list[bool]:
    """The first `right` of `total` right."""
    return [number < right for number in range(total)]


def study(benchmarks: Mapping[str, int], rows: Mapping[str, Sequence[float]], seed: int = 0) -> list[Results]:
    """Runs in which hard questions are hard for all: row -> accuracy on each benchmark."""
    draw = random.Random(seed)
    hardness = {name: [draw.random() for _ in range(n)] for name, n in benchmarks.items()}
    found = []
    for row, accuracies in rows.items():
        answers = {}
        for (name, hard), accuracy in zip(hardness.items(), accuracies, strict=True):
            answers[name] = [draw.random() < min(1.0, max(0.0, accuracy + 1.2 * (0.5 - one))) for one in hard]
        found.append(results(row, answers))
    return found
