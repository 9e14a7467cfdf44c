"""What a count of right answers allows one to say: intervals, paired tests, the smallest difference a sample can show.

Proportions, probabilities and differences are fractions from 0 to 1, never per cent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

ALPHA = 0.05
POWER = 0.8
Z95 = 1.96


def wilson(right: float, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22, eq. 2.

    Args:
        right: how many of `total`, from 0 to `total`; need not be whole.
        total: independent trials; for 0 nothing is known, and the interval is (0, 1).
        z: the normal quantile, 1.96 for 95%.

    Raises:
        ValueError: `right` is not between 0 and `total`.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} right of {total}")
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula is exact, but its rounding is not.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == total else min(1.0, centre + half)
    return low, high


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: were a question that only one gets right as likely A's as B's, how surprising is this?

    Source: McNemar 1947, Psychometrika 12; the exact form is the sign test, X ~ Binomial(only_a + only_b, 1/2).

    Args:
        only_a, only_b: questions that only the one, only the other gets right; those of both and of neither say nothing.

    Returns:
        p, in (0, 1]; 1 where the two never differ.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts are not negative: {only_a}, {only_b}")
    differing = only_a + only_b
    if only_a == only_b:
        return 1.0
    return min(1.0, 2.0 * _lower_tail(min(only_a, only_b), differing))


def _lower_tail(most: int, trials: int) -> float:
    """P(X <= most) for X ~ Binomial(trials, 1/2), most < trials / 2; from the largest term down, in logarithms."""
    log_term = math.lgamma(trials + 1) - math.lgamma(most + 1) - math.lgamma(trials - most + 1) - trials * math.log(2)
    total = ratio = 1.0
    for successes in range(most, 0, -1):
        ratio *= successes / (trials - successes + 1)
        total += ratio
        if ratio < 1e-17 * total:
            break
    return math.exp(log_term) * total


def sign_flip(strata: Sequence[Sequence[float]]) -> float:
    """Two-sided paired test of an unweighted mean over benchmarks of mean differences, item by item.

    Under the null each item's difference is as likely as its negative, so the statistic's variance is the sum of squares (no
    variance is estimated, and one item alone can never be significant); the normal limit is used.  For one stratum of
    differences -1, 0, 1 this is McNemar's test without its exactness.

    Args:
        strata: for each benchmark, each item's difference; averages over an item's samples are welcome, since an item's samples
            stay together.

    Returns:
        p, in [0, 1]; 1 where nothing differs.
    """
    used = [stratum for stratum in strata if stratum]
    effect = sum(math.fsum(stratum) / len(stratum) for stratum in used)
    variance = sum(math.fsum(d * d for d in stratum) / len(stratum) ** 2 for stratum in used)
    if variance == 0:
        return 1.0
    return math.erfc(abs(effect) / math.sqrt(2 * variance))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having been looked at together (Holm 1979, Scand. J. Stat. 6), in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_difference(
    n: int, p: float = 0.5, discordant: float | None = None, power: float = POWER, alpha: float = ALPHA
) -> float:
    """The smallest true difference that n questions would show, at this power, by a two-sided test at this level.

    Paired, where `discordant` is given: the share of questions that only one of the two gets right is assumed to be that
    (never less than the difference itself, which is the case most favourable to the test).  Formula: Connor 1987, Biometrics
    43, eq. 1: sqrt(n) d = z_alpha sqrt(s) + z_power sqrt(s - d^2).  Unpaired, where it is not: n questions for each of two
    models, answered independently, one right with probability p and the other with p + d or p - d, whichever is nearer to 1/2.

    Args:
        n: questions.
        p: accuracy of the one to compare with; used unpaired only.
        discordant: from 0 to 1, or None.

    Returns:
        d in (0, 1], or infinity where n questions cannot show even the largest difference.
    """
    if n < 1:
        return math.inf
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    if discordant is None:
        near = p if p <= 0.5 else 1 - p

        def shown(d: float) -> bool:
            middle = near + d / 2
            needed = z_alpha * math.sqrt(2 * middle * (1 - middle)) + z_power * math.sqrt(
                near * (1 - near) + (near + d) * (1 - near - d)
            )
            return math.sqrt(n) * d >= needed

        return _first(shown, 1 - near)
    # The exact test must be able to reject at all: k questions all one way give p = 2^(1-k).
    least = math.ceil(1 - math.log2(alpha)) / n
    if least > 1:
        return math.inf

    def paired(d: float) -> bool:
        share = max(discordant, d)
        return math.sqrt(n) * d >= z_alpha * math.sqrt(share) + z_power * math.sqrt(share - d * d)

    return max(least, _first(paired, 1.0))


def _first(shown: Callable[[float], bool], most: float) -> float:
    """Where a condition that stays true begins to hold in (0, most]; infinity where it never does."""
    if most <= 0 or not shown(most):
        return math.inf
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def avg_at_k(right: Sequence[int], samples: Sequence[int], z: float = Z95) -> tuple[float, float, float]:
    """avg@K: mean over items of the share of right samples, and an interval that knows samples of an item are alike.

    Two samples of one question are nearly one observation, so the n of the interval is what the spread over items makes it:
    Wilson's interval at n_eff = m (1 - m) / SE^2, SE the standard error over items (a cluster-robust one; Miller 2024, arXiv
    2411.00640, eq. 4).  n_eff lies between the number of items (all samples of an item agree) and that of all samples.

    Args:
        right: right samples of each item.
        samples: how many samples each item has, at least 1.

    Returns:
        (mean, low, high).
    """
    items = len(right)
    if items == 0:
        return math.nan, 0.0, 1.0
    shares = [one / of for one, of in zip(right, samples, strict=True)]
    mean = math.fsum(shares) / items
    effective = float(items)
    if items > 1 and 0 < mean < 1 and max(samples) > 1:
        squares = math.fsum((share - mean) ** 2 for share in shares)
        error2 = squares / (items - 1) / items
        most = float(sum(samples))
        effective = most if error2 == 0 else min(most, max(float(items), mean * (1 - mean) / error2))
    # Wilson takes any positive n; `wilson` asks for a whole number of trials, so floor, the wider.
    total = max(1, math.floor(effective))
    low, high = wilson(min(mean * total, total), total, z)
    return mean, low, high


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples is right, estimated without bias from c right of n.

    Source: Chen et al. 2021, Evaluating large language models trained on code (arXiv 2107.03374), eq. 1:
    1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"{c} right of {n} samples, {k} at a time")
    return 1.0 - math.prod((n - c - index) / (n - index) for index in range(k)) if n - c >= k else 1.0


def square_and_add(means: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float, float]:
    """The unweighted mean of independent proportions, and an interval from theirs.

    Source: Newcombe 1998, Statistics in Medicine 17, method 10, for a sum in place of a difference: squared distances to the
    limits add up.

    Returns:
        (mean, low, high).
    """
    count = len(means)
    mean = math.fsum(means) / count
    below = math.sqrt(math.fsum((m - low) ** 2 for m, low in zip(means, lows, strict=True))) / count
    above = math.sqrt(math.fsum((high - m) ** 2 for m, high in zip(means, highs, strict=True))) / count
    return mean, max(0.0, mean - below), min(1.0, mean + above)
