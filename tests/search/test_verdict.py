"""The rule, case by case and on fakes."""

from __future__ import annotations

import numpy as np
import pytest

from modist.search.evidence import Difference, Measure
from modist.search.recommend import MIXTURE, weigh
from modist.search.verdict import decide
from tests.search.fake_rows import rows

SURE, MAYBE, NO = Difference(0.5, 0.4, 0.6), Difference(0.1, -0.1, 0.3), Difference(-0.5, -0.6, -0.4)


@pytest.mark.parametrize(
    ("mixture", "merge", "beyond", "kind"),
    [
        (SURE, SURE, MAYBE, "merge"),  # as good as can be told, and one model
        (SURE, SURE, NO, "merge"),
        (MAYBE, SURE, NO, "merge"),
        (SURE, SURE, SURE, "mix"),
        (SURE, MAYBE, MAYBE, "mix"),  # the merge itself is not shown to help
        (SURE, NO, SURE, "mix"),
        (SURE, None, None, "mix"),
        (MAYBE, None, None, "alone"),
        (MAYBE, MAYBE, MAYBE, "alone"),
        (NO, NO, NO, "alone"),
    ],
)
def test_the_rule(mixture: Difference, merge: Difference | None, beyond: Difference | None, kind: str) -> None:
    found = decide(mixture, merge, beyond, "math")
    assert found.kind == kind
    assert "math" in found.reason


def test_what_is_recommended_of_fakes() -> None:
    measure, make = rows(0)
    experts = {"a": make(2.0), "b": make(1.5)}
    found = weigh(measure, experts, make(1.2), {"linear": make(1.9), "slerp": make(1.2)})
    assert (found.best, found.merge, found.verdict.kind) == ("b", "slerp", "merge")
    assert found.scores[MIXTURE] == pytest.approx(-1.2, abs=0.05) and found.scores["b"] == pytest.approx(-1.5, abs=0.05)
    assert weigh(measure, experts, make(1.0), {"slerp": make(1.2)}).verdict.kind == "mix"
    assert weigh(measure, experts, make(1.2), {"slerp": make(1.6)}).verdict.kind == "mix"
    assert weigh(measure, experts, make(1.2), {}).verdict.kind == "mix"
    assert weigh(measure, experts, experts["b"], {"slerp": make(1.6)}).verdict.kind == "alone"
    assert weigh(measure, experts, make(1.7), {"slerp": make(1.6)}).verdict.kind == "alone"


def test_twins_are_no_reason_to_mix_or_merge() -> None:
    measure, make = rows(1)
    one = make(1.5)
    found = weigh(measure, {"a": one, "b": one}, one, {"linear": one})
    assert (found.best, found.verdict.kind) == ("a", "alone")
    assert (found.mixture.value, found.mixture.low, found.mixture.high) == (0, 0, 0)


def test_what_nobody_would_notice_is_no_difference() -> None:
    measure, make = rows(4)
    (one,) = make(1.5)
    slightly, clearly = (one + 5e-4 * measure.sizes[0],), (one + 2e-3 * measure.sizes[0],)
    assert measure.difference(slightly, (one,)).low > 0
    assert weigh(measure, {"a": (one,)}, slightly, {}).verdict.kind == "alone"
    assert weigh(measure, {"a": (one,)}, clearly, {}).verdict.kind == "mix"
    # Nor is a mixture better than a merge by so little.
    assert weigh(measure, {"a": (one,)}, (one + 2.4e-3 * measure.sizes[0],), {"linear": clearly}).verdict.kind == "merge"
    right = np.zeros(5000)
    right[:5] = 1.0
    assert Measure.of_questions([5000]).difference((right,), (np.zeros(5000),)).shown


def test_answers_are_compared_question_by_question() -> None:
    generator = np.random.default_rng(2)
    math_questions, general = np.arange(200) < 190, np.arange(200) >= 10
    experts = {
        "math": (np.ones(200) * math_questions, np.zeros(200)),
        "general": (np.zeros(200), np.ones(200) * general),
    }
    both = ((generator.random(200) < 0.95) * 1.0, (generator.random(200) < 0.94) * 1.0)
    half = tuple((generator.random(200) < 0.4) * 1.0 for _ in range(2))
    measure = Measure.of_questions([200, 200])
    found = weigh(measure, experts, both, {"linear": half})
    assert found.verdict.kind == "mix"
    assert found.scores["math"] == pytest.approx(0.475) and found.best == "math"
    assert weigh(measure, experts, half, {"linear": both}).verdict.kind == "merge"
