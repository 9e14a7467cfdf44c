"""What a search makes as high as it can: accuracy on development questions, likelihood of text, or several with weights.

    accuracy:questions.dev.yml                              the share of right answers, 0 to 1
    likelihood:chats.jsonl                                  the mean log-probability of a token, in nats (0 or less)
    0.7*accuracy:a.dev.yml + 0.3*likelihood:b.jsonl         a sum

The terms are added as they are; to weigh accuracy against nats is the user's to do.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modist.errors import ModistError, UserError, nearest
from modist.search.disjoint import HeldOut, Sample, held_out
from modist.search.part import Part

KINDS = ("accuracy", "likelihood")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# A plus is a sign of the grammar only before a new term: file names may have one.
_PLUS = re.compile(rf"\s*\+\s*(?=(?:{_NUMBER}\s*\*\s*)?(?:{'|'.join(KINDS)})\s*(?::|\+|$))")
_TERM = re.compile(r"(?:(?P<weight>[^*:]*?)\s*\*\s*)?(?P<kind>[^:*]*?)\s*(?::\s*(?P<what>.*))?", re.DOTALL)


class Metric(Protocol):
    """A number for a model; higher is better."""

    name: str

    def __call__(self, model: Any, tokenizer: Any) -> float: ...


class Term(Metric, Protocol):
    """A metric that reads data."""

    files: tuple[Path, ...]

    def samples(self) -> list[Sample]:
        """Its rows, for comparing with test sets."""

    def digest(self) -> str:
        """SHA-256 of what it asks and how, hexadecimal."""

    def close(self) -> None:
        """Gives back processes."""


@dataclass(frozen=True)
class Written:
    """One term as it was written: `0.3*likelihood:b.jsonl`."""

    weight: float
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{'' if self.weight == 1 else f'{self.weight:g}*'}{self.kind}:{self.what}"


class Sum:
    """Metrics added up, each times its weight.

    Attributes:
        name: as it could be written.
        terms: (weight, metric).
        absent: test sets whose rows are not on this machine, so that nothing could be compared with them.
    """

    def __init__(self, terms: Sequence[tuple[float, Term]], absent: Sequence[str] = ()) -> None:
        self.terms = tuple(terms)
        self.absent = tuple(absent)
        self.name = " + ".join(term.name if weight == 1 else f"{weight:g}*{term.name}" for weight, term in self.terms)

    def __call__(self, model: Any, tokenizer: Any) -> float:
        """The sum.

        Raises:
            ModistError: a term gives something that is no finite number; says which.
        """
        return self.total(self.each(model, tokenizer))

    def each(self, model: Any, tokenizer: Any) -> list[float]:
        """What every term gives, without its weight; raises as the sum does."""
        return [finite(term, model, tokenizer) for _, term in self.terms]

    def total(self, values: Sequence[float]) -> float:
        """The sum of what `each` gave."""
        return math.fsum(weight * value for (weight, _), value in zip(self.terms, values, strict=True))

    @property
    def files(self) -> tuple[Path, ...]:
        """The data, each file once."""
        return tuple(dict.fromkeys(file for _, term in self.terms for file in term.files))

    def samples(self) -> list[Sample]:
        """All rows, for comparing with test sets or a second split (`disjoint.separate`)."""
        return [sample for _, term in self.terms for sample in term.samples()]

    def digest(self) -> str:
        """SHA-256 of weights and data, hexadecimal: a search that goes on must have the same one."""
        found = hashlib.sha256()
        for weight, term in self.terms:
            found.update(f"{weight!r} {term.digest()}\n".encode())
        return found.hexdigest()

    def close(self) -> None:
        """End the processes that grade; the next model starts new ones."""
        for _, term in self.terms:
            term.close()


def finite(metric: Metric, model: Any, tokenizer: Any) -> float:
    """A metric's number of a model.

    Raises:
        ModistError: it is NaN or infinite, or none at all.
    """
    found = metric(model, tokenizer)
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise ModistError(f"{metric.name}: gives {str(found)[:60]!r}, which is no number to search by") from None
    if not math.isfinite(value):
        raise ModistError(f"{metric.name}: gives {value}, which is no number to search by")
    return value


def read_metrics(
    texts: Sequence[str],
    *,
    given: Sequence[str] = (),
    data: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    part: Part | None = None,
    tests: Sequence[str] = (),
    compare: bool | HeldOut = True,
    **asking: Any,
) -> Sum:
    """The sum of everything that was written, its data read.

    Args:
        texts: such as `0.7*accuracy:a.dev.yml + 0.3*likelihood:b.jsonl`; several are added.
        given: data for a kind that names none (`accuracy`): each of these files, the term's weight split evenly.
        data: the folder of the benchmarks' rows; None is the usual one.
        limit: so many rows of each term, drawn by `seed`; None is all.
        part: which of several parts that share no question.
        tests: test sets beside those that are found (`disjoint.held_out`), by name or YAML file.
        compare: whether to compare with test sets; False where this data has been; or the sets to compare with.
        **asking: `style`, `batch_size`, `max_new_tokens`, `seconds_per_grade` of `Accuracy`.

    Raises:
        UserError: what is written is no metric, data that is not there or wrong, a test set by name or by content.
    """
    written = [term for text in texts for term in parse(text, given)]
    if not written:
        raise UserError("no metric: give at least one, such as accuracy:FILE.yml or likelihood:FILE.jsonl")
    there: set[tuple[str, str]] = set()
    for term in written:
        if (term.kind, term.what) in there:
            raise UserError(f"{term.kind}:{term.what}: is there twice; give it once, with the weight it should have")
        there.add((term.kind, term.what))
    terms = [(term.weight, _term(term, data, limit, seed, part, asking)) for term in written]
    found = Sum(terms)
    if compare is False:
        return found
    sets = compare if isinstance(compare, HeldOut) else held_out(data, _near(written, found.files), tests)
    sets.refuse(found.samples())
    return Sum(terms, sets.absent)


def parse(text: str, given: Sequence[str] = ()) -> list[Written]:
    """The terms of one text.

    Raises:
        UserError: it is no metric; names the nearest right one.
    """
    found = []
    for part in _PLUS.split(text.strip()):
        match = _TERM.fullmatch(part.strip())
        kind = match["kind"].strip() if match else part.strip()
        if match is None or kind not in KINDS:
            close = nearest(kind, KINDS) or f"; write {' or '.join(f'{known}:FILE' for known in KINDS)}"
            raise UserError(f"--metric {part.strip()!r}: {kind[:60]!r} is no kind of metric{close}")
        weight = _weight(match["weight"], part.strip())
        what = (match["what"] or "").strip()
        if not what and not given:
            files = "a benchmark's name or YAML file" if kind == "accuracy" else "a JSONL file"
            raise UserError(f"--metric {part.strip()!r}: says not on what: {kind}: and {files}")
        names = [what] if what else list(given)
        found += [Written(weight / len(names), kind, name) for name in names]
    return found


def _weight(text: str | None, term: str) -> float:
    if text is None:
        return 1.0
    if not re.fullmatch(_NUMBER, text.strip()):
        raise UserError(f"--metric {term!r}: {text.strip()!r} is no weight; a number, as in 0.7*accuracy:FILE")
    weight = float(text)
    if not (math.isfinite(weight) and weight > 0):
        raise UserError(f"--metric {term!r}: the weight must be more than 0, since every metric is better when higher")
    return weight


def _term(written: Written, data: Path | None, limit: int | None, seed: int, part: Part | None, asking: dict[str, Any]) -> Term:
    if written.kind == "accuracy":
        from modist.search.accuracy_metric import Accuracy

        return Accuracy(written.what, data=data, limit=limit, seed=seed, part=part, **asking)
    from modist.search.likelihood_metric import Likelihood

    return Likelihood(Path(written.what).expanduser(), limit=limit, seed=seed, part=part)


def _near(written: Sequence[Written], files: Sequence[Path]) -> list[Path]:
    """The data and the YAML that declares it: other benchmarks lie beside both."""
    return [*files, *(Path(term.what) for term in written if Path(term.what).suffix.lower() in (".yml", ".yaml"))]
