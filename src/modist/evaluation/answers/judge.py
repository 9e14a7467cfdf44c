"""What is judged of an answer: the spans, what is plain at once, and the questions that need algebra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from modist.errors import UserError, nearest
from modist.evaluation.answers import choice as choices_
from modist.evaluation.answers.compatible import choose, equal_normalised, normalise
from modist.evaluation.answers.compatible import extract as extract_compatible
from modist.evaluation.answers.exact import exact
from modist.evaluation.answers.extract import LONGEST, cut, extract, has_trigger, is_bare
from modist.evaluation.answers.notation import key
from modist.evaluation.answers.verify import equal

KINDS = ("math", "choice", "text", "code")
_LETTERS = ("A", "B", "C", "D", "E")

# (which grader, gold, span)
Question = tuple[str, str, str]


@dataclass(frozen=True)
class Grade:
    """What became of one answer.

    `equal` is the default grader's word, `equal_compatible` the published rules'; `extracted` and `extracted_compatible` are
    the spans they judged (the latter normalised), and `note` says what went wrong on the way (a time limit, a crash, a cut),
    else it is empty.
    """

    equal: bool
    equal_compatible: bool
    extracted: str
    extracted_compatible: str
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One answer, its spans found.  A verdict of None is still to be found: `questions` says by asking what."""

    gold: str
    extracted: str
    gold_compatible: str
    extracted_compatible: str
    equal: bool | None
    equal_compatible: bool | None
    note: str = ""

    @property
    def questions(self) -> tuple[Question, ...]:
        asked: list[Question] = []
        if self.equal is None:
            asked.append(("default", self.gold, self.extracted))
        if self.equal_compatible is None:
            asked.append(("compatible", self.gold_compatible, self.extracted_compatible))
        return tuple(asked)

    def grade(self, equal: bool | None = None, equal_compatible: bool | None = None, note: str = "") -> Grade:
        """The grade, once what was open is known."""
        verdicts = (
            self.equal if self.equal is not None else bool(equal),
            self.equal_compatible if self.equal_compatible is not None else bool(equal_compatible),
        )
        return Grade(*verdicts, self.extracted, self.extracted_compatible, "; ".join(filter(None, (self.note, note))))


def prepare(gold: str, answer: str, kind: str = "math", choices: Sequence[str] = (), pattern: str | None = None) -> Case:
    """Extract, and decide what is plain.  Takes time linear in the answer, whatever it holds.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"there is no kind of answer {kind!r}; one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    output, shortened = cut(answer)
    note = f"cut to its last {LONGEST:,} characters" if shortened else ""
    if kind == "code":
        return Case(gold, "", gold, "", False, False, "code is graded by running it")
    if kind == "text" and pattern is None:
        same, span = _text(gold, output)
        return Case(gold, span, gold, span, same, same, note)
    span = extract(output, pattern)
    if kind == "text":
        same = bool(span) and bool(exact(gold, span))
        return Case(gold, span, gold, span, same, same, note)
    if kind == "choice":
        span = choices_.choose(span if pattern is not None else output, choices)
        verdict: bool | None = bool(span) and span == choices_.gold_letter(gold, choices)
        found = extract_compatible(span if pattern is not None else output, "choice")
    else:
        verdict = exact(gold, span)
        given = pattern is not None or (is_bare(output) and not has_trigger(output))
        found = normalise(span) if given else extract_compatible(output)
    published, found = _normalised_gold(gold), normalise(found)
    if published in _LETTERS and found not in _LETTERS:
        found = choose(span if pattern is not None else output)
    return Case(gold, span, published, found, verdict, _plain_compatible(published, found), note)


@lru_cache(maxsize=65536)
def _normalised_gold(gold: str) -> str:
    return normalise(normalise(gold))


def _plain_compatible(gold: str, found: str) -> bool | None:
    """The published rules' word where no formula has to be read for it."""
    if gold.strip().lower() == found.strip().lower() or not found.strip() or (_is_float(gold) and _is_float(found)):
        return equal_normalised(found, gold)
    return None


def _is_float(text: str) -> bool:
    try:
        float(text.replace(",", "").strip().removesuffix("%").removesuffix("\\"))
    except ValueError:
        return False
    return True


def _text(gold: str, output: str) -> tuple[bool, str]:
    try:
        from modist.evaluation.answers.reasoning import grade_text
    except ModuleNotFoundError:
        span = extract(output)
        return bool(span) and key(gold) == key(span), span
    return grade_text(gold, output)


def settle(question: Question) -> bool:
    """Answer a question.  May take any time and memory, and raise anything."""
    grader, gold, span = question
    return equal(gold, span) if grader == "default" else equal_normalised(span, gold)
