"""A grid, its scores and its best."""

from __future__ import annotations

import pytest

from modist.evaluation.study.tune import Candidate, Tuned, tune


@pytest.mark.parametrize("best", [0.1, 0.4, 1.0])
def test_the_best_of_a_grid_is_found_wherever_it_stands(best: float) -> None:
    asked: list[float] = []

    def score(value: float) -> Candidate:
        asked.append(value)
        return Candidate(value, (int(100 - 90 * abs(value - best)), 50), (100, 100))

    found = tune("lambda", [0.1, 0.4, 0.7, 1.0], score)
    assert asked == [0.1, 0.4, 0.7, 1.0] and found.best.value == best


def test_benchmarks_count_alike_whatever_their_size() -> None:
    # 90% of 10 and 10% of 1000 against 20% of both: pooled the second is better, averaged the first.
    small, even = Candidate(1, (9, 100), (10, 1000)), Candidate(2, (2, 200), (10, 1000))
    assert small.accuracy == pytest.approx(0.5) and even.accuracy == pytest.approx(0.2)
    assert Tuned("lambda", (even, small)).best is small


def test_of_equals_the_first_and_the_line_says_all() -> None:
    tuned = Tuned("lambda", tuple(Candidate(value, (right,), (4,)) for value, right in ((0.2, 1), (0.5, 3), (0.8, 3))))
    assert tuned.best.value == 0.5
    assert tuned.line() == "lambda = 0.5, best on the development data (0.2: 25.0, 0.5: 75.0, 0.8: 75.0)"


def test_a_best_at_the_end_of_the_grid_is_told() -> None:
    tuned = Tuned("lambda", tuple(Candidate(value, (right,), (4,)) for value, right in ((0.2, 1), (0.5, 2), (0.8, 3))))
    assert "the best lies at the end of the grid" in tuned.line()
