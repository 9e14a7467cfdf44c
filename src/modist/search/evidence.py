"""How ways of answering are compared with each other: unit by unit, with an interval.

A unit is what is independent of others: a row of text, of which the log-likelihood is known, or a question, of which it is
known whether the answer was right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modist.search.em import Array

# One array for each stratum: [units].
Values = tuple[Array, ...]
_Z = 1.96
# What nobody would notice, and rounding could make: nats a token (a thousandth of the perplexity).  Of right answers every one
# counts that is more than sampling error.
NOTICED = {"likelihood": 1e-3, "accuracy": 0.0}


@dataclass(frozen=True)
class Difference:
    """How much better the one is than the other, and the 95% interval; infinite where the other cannot say some token.

    Attributes:
        least: what it must be to matter.
    """

    value: float
    low: float
    high: float
    least: float = 0.0

    @property
    def shown(self) -> bool:
        """Whether it is more than sampling error, and enough to be noticed."""
        return self.low > 0 and self.value >= self.least

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Measure:
    """What is compared: higher is better.

    Attributes:
        kind: `likelihood`, the mean log-likelihood of a token, or `accuracy`, the unweighted mean over benchmarks of the share
            of right answers.
        sizes: of each unit: the tokens of a row, or 1 for a question; one array for each stratum (benchmark).
    """

    kind: str
    sizes: Values

    @classmethod
    def of_rows(cls, lengths: npt.NDArray[np.integer]) -> Measure:
        """Of rows of so many tokens, [rows]; values are sums of log-likelihoods."""
        return cls("likelihood", (lengths.astype(np.float64),))

    @classmethod
    def of_questions(cls, counts: Sequence[int]) -> Measure:
        """Of benchmarks of so many questions; values are 1 for a right answer and 0 for a wrong one."""
        return cls("accuracy", tuple(np.ones(count) for count in counts))

    def score(self, values: Values) -> float:
        """The mean, unweighted over strata."""
        return math.fsum(self._mean(one, size) for one, size in zip(values, self.sizes, strict=True)) / len(self.sizes)

    def difference(self, ours: Values, theirs: Values) -> Difference:
        """score(ours) - score(theirs), unit by unit.

        For likelihoods the standard error is that of a ratio, clustered by row.  For right answers no variance is estimated:
        were each difference as likely as its negative, the sum of squares would be the variance (`statistics.sign_flip`), and
        one question alone can never be significant.
        """
        value, variance = 0.0, 0.0
        for one, other, size in zip(ours, theirs, self.sizes, strict=True):
            if not np.isfinite(one).all():
                return Difference(-math.inf, -math.inf, math.inf)
            if not np.isfinite(other).all():
                return Difference(math.inf, math.inf, math.inf)
            change, units, total = one - other, len(one), float(size.sum())
            mean = float(change.sum()) / total
            if self.kind == "likelihood":
                residual = change - mean * size
                squares = float(residual @ residual) * units / (units - 1) if units > 1 else math.inf
            else:
                squares = float(change @ change)
            value += mean
            variance += squares / total**2
        strata = len(self.sizes)
        value, error = value / strata, math.sqrt(variance) / strata
        return Difference(value, value - _Z * error, value + _Z * error, NOTICED[self.kind])

    def best(self, candidates: Mapping[str, Values]) -> str:
        """The highest; of equals the first."""
        return max(candidates, key=lambda name: self.score(candidates[name]))

    def chosen(self, candidates: Mapping[str, Values], folds: int = 5, seed: int = 0) -> Values:
        """The values of "the best of these" on units that did not choose it: each fold is answered by the candidate that is
        best on the other folds, so being the best of several flatters nobody."""
        found = tuple(np.empty_like(size) for size in self.sizes)
        generator = np.random.default_rng(seed)
        fold = [generator.permutation(len(size)) % max(2, min(folds, len(size))) for size in self.sizes]
        for number in range(folds):
            inside = [part != number for part in fold]
            here = Measure(self.kind, tuple(size[chosen] for size, chosen in zip(self.sizes, inside, strict=True)))
            name = here.best(
                {
                    name: tuple(one[chosen] for one, chosen in zip(values, inside, strict=True))
                    for name, values in candidates.items()
                }
            )
            for place, chosen in enumerate(inside):
                found[place][~chosen] = candidates[name][place][~chosen]
        return found

    def _mean(self, values: Array, size: Array) -> float:
        total = float(size.sum())
        return float(values.sum()) / total if total else -math.inf
