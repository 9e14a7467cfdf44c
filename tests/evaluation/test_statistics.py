"""Intervals and tests against scipy, brute force and simulation."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from modist.evaluation.statistics import (
    avg_at_k,
    holm,
    mcnemar,
    pass_at_k,
    sign_flip,
    smallest_difference,
    square_and_add,
    wilson,
)

CASES = [(0, 1), (1, 1), (0, 30), (3, 30), (15, 30), (30, 30), (1, 300), (986, 1319), (2500, 5000)]


@pytest.mark.parametrize(("right", "total"), CASES)
def test_wilson_solves_its_equation(right: int, total: int) -> None:
    """Both ends are where the score statistic is exactly z: (share - p)^2 = z^2 p (1 - p) / n."""
    for end in wilson(right, total):
        if 0 < end < 1:
            assert (right / total - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / total, rel=1e-9)


@pytest.mark.parametrize(("right", "total"), CASES)
def test_wilson_is_scipy_s(right: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total, stats.norm.ppf(0.975)) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_ends_and_errors() -> None:
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(3, 10)[0] == pytest.approx(1 - wilson(7, 10)[1])
    for right, total in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="right of"):
            wilson(right, total)


@pytest.mark.parametrize(("p", "n"), [(0.5, 40), (0.1, 30), (0.9, 300), (0.75, 1319)])
def test_wilson_covers_as_often_as_it_says(p: float, n: int) -> None:
    draw = random.Random(17)
    covered = 0
    for _ in range(4000):
        low, high = wilson(sum(draw.random() < p for _ in range(n)) if n < 100 else _binomial(draw, n, p), n)
        covered += low <= p <= high
    # At small n the true coverage swings by about two points around 95%; of 4,000 the standard error is 0.35.
    assert 0.925 < covered / 4000 < 0.98


def _binomial(draw: random.Random, n: int, p: float) -> int:
    return round(min(n, max(0.0, draw.gauss(n * p, math.sqrt(n * p * (1 - p))))))


def test_mcnemar_by_all_ways_to_toss() -> None:
    for a, b in itertools.product(range(7), range(7)):
        n = a + b
        tosses = [sum(way) for way in itertools.product((0, 1), repeat=n)]
        as_far = sum(abs(heads - n / 2) >= abs(a - n / 2) for heads in tosses)
        assert mcnemar(a, b) == pytest.approx(as_far / len(tosses), rel=1e-12), (a, b)


@pytest.mark.parametrize(("a", "b"), [(10, 2), (55, 89), (387, 1164), (2400, 2600), (0, 5000)])
def test_mcnemar_is_scipy_s(a: int, b: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(a, a + b, 0.5).pvalue, rel=1e-9)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_edges() -> None:
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 2)


def test_sign_flip_has_its_level_and_is_mcnemar_s_limit() -> None:
    draw = random.Random(3)
    rejected = 0
    for _ in range(2000):
        strata = [[draw.choice((-1.0, 0.0, 1.0)) for _ in range(n)] for n in (30, 300)]
        rejected += sign_flip(strata) < 0.05
    assert 0.035 < rejected / 2000 < 0.065
    one = [[1.0] * 60 + [-1.0] * 30 + [0.0] * 200]
    assert sign_flip(one) == pytest.approx(math.erfc(30 / math.sqrt(2 * 90)))
    assert sign_flip(one) == pytest.approx(mcnemar(60, 30), rel=0.35)


def test_sign_flip_weighs_benchmarks_alike() -> None:
    few, many = [1.0] * 5, [-1.0, 1.0] * 5000
    # Ten thousand questions without a tendency must not drown five with one, nor lend them certainty.
    assert sign_flip([few, many]) == pytest.approx(sign_flip([few]), rel=0.1)
    assert sign_flip([]) == sign_flip([[0.0, 0.0]]) == 1.0
    assert sign_flip([[1.0]]) > 0.3


def test_holm_by_its_definition() -> None:
    draw = random.Random(5)
    for _ in range(200):
        p = [draw.random() ** 3 for _ in range(draw.randrange(1, 9))]
        found = holm(p)
        for level in (0.001, 0.01, 0.05, 0.2):
            left, rejected = sorted(range(len(p)), key=lambda at: p[at]), set()
            while left and p[left[0]] <= level / len(left):
                rejected.add(left.pop(0))
            assert {at for at in range(len(p)) if found[at] <= level} == rejected
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def _power_paired(n: int, difference: float, discordant: float, draw: random.Random, tries: int = 1500) -> float:
    above = (discordant + difference) / 2
    shown = 0
    for _ in range(tries):
        tosses = [draw.random() for _ in range(n)]
        a, b = sum(toss < above for toss in tosses), sum(above <= toss < discordant for toss in tosses)
        shown += mcnemar(a, b) < 0.05
    return shown / tries


@pytest.mark.parametrize(("n", "discordant"), [(300, 0.2), (300, 0.5), (100, 0.4)])
def test_the_smallest_difference_is_shown_four_times_of_five(n: int, discordant: float) -> None:
    difference = smallest_difference(n, discordant=discordant)
    # The exact test is a little more careful than the formula's normal limit.
    assert 0.72 < _power_paired(n, difference, discordant, random.Random(n)) < 0.86


def test_smallest_difference_edges() -> None:
    assert smallest_difference(0) == math.inf
    assert smallest_difference(5, discordant=0.5) == math.inf  # even 5 of 5 one way is p = 1/16
    assert smallest_difference(6, discordant=0.5) == 1.0
    assert smallest_difference(30, discordant=0.0) == pytest.approx(0.2426, abs=1e-3)
    assert smallest_difference(3, p=0.5) == math.inf
    falling = [smallest_difference(n, 0.7, 0.2) for n in (30, 300, 3000)]
    assert falling == sorted(falling, reverse=True)
    # Pairing pays where the two agree on most questions.
    assert smallest_difference(1319, 0.75, 0.1) < 0.6 * smallest_difference(1319, 0.75)


@pytest.mark.parametrize(("n", "p"), [(1319, 0.75), (300, 0.5), (500, 0.9)])
def test_the_unpaired_difference_has_its_power(n: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    difference = smallest_difference(n, p)
    other = p + difference if p <= 0.5 else p - difference
    middle = (p + other) / 2
    wall = 1.959964 * math.sqrt(2 * middle * (1 - middle) / n)
    power = stats.norm.sf((wall - difference) / math.sqrt((p * (1 - p) + other * (1 - other)) / n))
    assert power == pytest.approx(0.8, abs=1e-3)


def test_avg_at_one_is_wilson() -> None:
    assert avg_at_k([1, 0, 1, 1], [1] * 4) == pytest.approx((0.75, *wilson(3, 4)))


def test_samples_of_one_question_are_no_new_questions() -> None:
    """Where all samples of a question agree the interval is that of the questions alone."""
    alike = avg_at_k([8] * 30 + [0] * 10, [8] * 40)
    assert alike == pytest.approx((0.75, *wilson(30, 40)), abs=0.01)
    # Where every question is answered right as often as the next, samples count in full.
    assert avg_at_k([6] * 40, [8] * 40) == pytest.approx((0.75, *wilson(240, 320)))


def test_avg_at_k_covers_where_questions_differ() -> None:
    draw = random.Random(11)
    covered = 0
    for _ in range(1500):
        # Half of the questions are nearly always right, half nearly never: mean 1/2.
        chances = [0.95 if draw.random() < 0.5 else 0.05 for _ in range(60)]
        right = [sum(draw.random() < chance for _ in range(8)) for chance in chances]
        _, low, high = avg_at_k(right, [8] * 60)
        covered += low <= 0.5 <= high
    assert 0.93 < covered / 1500 < 0.975


def test_avg_at_k_of_nothing() -> None:
    mean, low, high = avg_at_k([], [])
    assert math.isnan(mean)
    assert (low, high) == (0.0, 1.0)


def test_pass_at_k_by_every_choice_of_samples() -> None:
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            choices = list(itertools.combinations(range(n), k))
            seen = sum(any(sample < c for sample in choice) for choice in choices) / len(choices)
            assert pass_at_k(n, c, k) == pytest.approx(seen), (n, c, k)
    for wrong in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="samples"):
            pass_at_k(*wrong)


def test_square_and_add_covers() -> None:
    draw = random.Random(23)
    truth = (0.1, 0.5, 0.85)
    covered = 0
    for _ in range(1500):
        counts = [sum(draw.random() < p for _ in range(n)) for p, n in zip(truth, (30, 60, 90), strict=True)]
        ends = [wilson(count, n) for count, n in zip(counts, (30, 60, 90), strict=True)]
        means = [count / n for count, n in zip(counts, (30, 60, 90), strict=True)]
        _, low, high = square_and_add(means, [end[0] for end in ends], [end[1] for end in ends])
        covered += low <= sum(truth) / 3 <= high
    assert 0.935 < covered / 1500 < 0.97
    assert square_and_add([0.4], [0.3], [0.6]) == pytest.approx((0.4, 0.3, 0.6))
