"""One answer held against its gold, by two graders: ours, and the published harness's rules with their known errors."""

from __future__ import annotations

from collections.abc import Sequence

from modist.errors import UserError
from modist.evaluation.answers.graders import Graders
from modist.evaluation.answers.judge import KINDS, Grade, prepare, settle


def grade(gold: str, answer: str, kind: str = "math", choices: Sequence[str] = (), pattern: str | None = None) -> Grade:
    """Grade in this process, without a time limit; `Graders` has one.

    Args:
        answer: a whole output, or a bare answer.
        kind: one of KINDS; "code" is graded elsewhere, by running it.
        choices: the texts of (A), (B), ... of a choice item.
        pattern: where one is given, the last match's group 1 is the answer; without a match there is none, and it is not equal.
    """
    case = prepare(gold, answer, kind, choices, pattern)
    found: dict[str, bool] = {}
    notes = []
    for question in case.questions:
        try:
            found[question[0]] = settle(question)
        except UserError:
            raise
        except Exception as error:
            notes.append(f"{type(error).__name__} in the {question[0]} grader")
    return case.grade(found.get("default"), found.get("compatible"), "; ".join(notes))


__all__ = ["KINDS", "Grade", "Graders", "grade"]
