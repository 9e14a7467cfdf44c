"""What a user has without merging, made of the parents' own answers: a route's row and a vote's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.results import Results
from modist.evaluation.study.document import Row
from modist.evaluation.study.route import read_scores, route
from modist.evaluation.study.vote import vote


def routed(row: Row, parents: Mapping[str, Results], scores: Path) -> tuple[Results, dict[str, float]]:
    """Each question's answer is the greedy one of the parent to which the prompt is likelier.

    Args:
        row: of kind `route`.
        parents: by name, their runs.
        scores: the folder with each parent's, by benchmark.

    Returns:
        The row's results, and which fraction of the questions each parent got.
    """
    first = parents[row.parents[0]]
    records = []
    totals = dict.fromkeys(row.parents, 0)
    for benchmark in first.benchmarks:
        said = {}
        for name in row.parents:
            found = read_scores(scores / name / f"{benchmark}.json")
            if found is None:
                raise EvaluationError(f"{scores / name}: the scores of the prompts are gone; run the study again")
            said[name] = found
        chosen, counts = route({name: parents[name].of(benchmark) for name in row.parents}, said)
        records += chosen
        for name, count in counts.items():
            totals[name] += count
    every = sum(totals.values())
    plan = {**first.plan, "name": row.label}
    found_ = Results(row.label, first.folder.with_name(row.name), plan, tuple(records))
    return found_, {name: count / every for name, count in totals.items()}


def voted(row: Row, sampled: Mapping[str, Results]) -> Results:
    """The majority's answer to every question, among the first samples of each parent."""
    each = row.samples // len(row.parents)
    first = sampled[row.parents[0]]
    records = []
    for benchmark in first.benchmarks:
        questions = {name: sampled[name].questions(benchmark) for name in row.parents}
        for id in questions[row.parents[0]]:
            records.append(vote([record for name in row.parents for record in questions[name][id][:each]]))
    plan = {**first.plan, "name": row.label, "settings": {**first.plan["settings"], "samples": 1}}
    return Results(row.label, first.folder.with_name(row.name), plan, tuple(records))
