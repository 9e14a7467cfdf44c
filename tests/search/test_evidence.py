"""Differences and their intervals against what can be worked out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modist.evaluation.statistics import sign_flip
from modist.search.evidence import Measure
from tests.search.fake_rows import rows


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_a_ratio_over_rows(seed: int) -> None:
    measure, make = rows(seed, 80)
    ours, theirs = make(1.0, 0.4), make(1.1, 0.4)
    found = measure.difference(ours, theirs)
    change, lengths = ours[0] - theirs[0], measure.sizes[0]
    assert found.value == pytest.approx(change.sum() / lengths.sum())
    drawn = np.random.default_rng(seed).integers(0, 80, (4000, 80))
    again = change[drawn].sum(1) / lengths[drawn].sum(1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * again.std(), rel=0.1)
    assert (found.low + found.high) / 2 == pytest.approx(found.value)


def test_rows_that_differ_alike_leave_no_doubt_and_two_rows_leave_much() -> None:
    lengths = np.array([3, 30, 10])
    found = Measure.of_rows(lengths).difference((-1.0 * lengths,), (-1.5 * lengths,))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    # Two rows of ten tokens, one 4 nats better and the other none: 0.2 a token, standard error 4 / sqrt(4) / 10.
    two = Measure.of_rows(np.array([10, 10])).difference((np.array([-6.0, -10.0]),), (np.array([-10.0, -10.0]),))
    assert (two.value, two.high - two.value) == pytest.approx((0.2, 1.96 * 0.2))


@pytest.mark.parametrize("seed", range(20))
def test_of_answers_it_is_the_paired_test(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ours = tuple((generator.random(count) < 0.6) * 1.0 for count in (40, 25))
    theirs = tuple((generator.random(count) < 0.4) * 1.0 for count in (40, 25))
    found = Measure.of_questions([40, 25]).difference(ours, theirs)
    p = sign_flip([(one - other).tolist() for one, other in zip(ours, theirs, strict=True)])
    assert (found.low > 0 or found.high < 0) == (p < 0.05)


def test_one_question_shows_nothing() -> None:
    assert not Measure.of_questions([1]).difference((np.ones(1),), (np.zeros(1),)).shown
    assert Measure.of_questions([10]).difference((np.ones(10),), (np.zeros(10),)).shown


def test_a_token_that_one_cannot_say_is_without_limit() -> None:
    measure = Measure.of_rows(np.array([2, 3]))
    can, cannot = (np.array([-1.0, -2.0]),), (np.array([-1.0, -np.inf]),)
    assert measure.difference(can, cannot).shown
    assert measure.difference(cannot, can).value == -math.inf
    assert not measure.difference(cannot, cannot).shown


def test_being_the_best_of_many_flatters_nobody() -> None:
    flattered, honest = [], []
    for seed in range(60):
        measure, make = rows(seed, 60)
        candidates = {f"{number}": make(1.0, 0.5) for number in range(20)}
        mean = np.mean([measure.score(values) for values in candidates.values()])
        flattered.append(measure.score(candidates[measure.best(candidates)]) - mean)
        honest.append(measure.score(measure.chosen(candidates)) - mean)
    assert np.mean(flattered) > 0.08
    assert abs(np.mean(honest)) < 0.02


def test_a_clear_winner_is_chosen_in_every_fold() -> None:
    measure, make = rows(3)
    good = make(1.0)
    assert np.array_equal(measure.chosen({"bad": make(2.0), "good": good})[0], good[0])
