"""The published harness's grader, its rules written anew and its errors optional."""

from modist.evaluation.answers.compatible.equal import equal, equal_normalised, grade_compatible
from modist.evaluation.answers.compatible.extract import choose, extract
from modist.evaluation.answers.compatible.normalise import normalise

__all__ = ["choose", "equal", "equal_normalised", "extract", "grade_compatible", "normalise"]
