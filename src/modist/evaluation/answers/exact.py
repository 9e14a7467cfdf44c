"""What can be decided without algebra: equal strings, plain numbers, words, clock times, dates, ratios."""

from __future__ import annotations

import re
from fractions import Fraction

from modist.evaluation.answers.notation import flat, key, prose, tidy
from modist.evaluation.answers.quantity import quantity, same

# Above this many characters an answer is compared as text only.
LONGEST = 4000

# fmt: off
_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
]
# fmt: on
_MONTH = "|".join(f"{name}|{name[:3]}" for name in _MONTHS) + "|sept"
_DATES = (
    re.compile(rf"(?P<month>{_MONTH})\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? ?(?P<year>\d{{4}}))?"),
    re.compile(rf"(?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})\.?(?:,? ?(?P<year>\d{{4}}))?"),
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?(?: ?o'?clock)? ?(?:([ap])\.? ?m\.?)?(?: ?o'?clock)?", re.IGNORECASE)
_RATIO = re.compile(r"(\d+(?:\.\d+)?) ?(?::|\bto\b|\\colon) ?(\d+(?:\.\d+)?)")

# Ways of saying one thing; the first stands for all.  Compared without spaces, in lower case.
_SAME_WORDS = {
    re.sub(r"[\s']", "", phrase): group[0]
    for group in (
        (
            "no solution",
            "no solutions",
            "no real solution",
            "no real solutions",
            "there is no solution",
            "there are no solutions",
            "has no solution",
            "\\emptyset",
            "\\{\\}",
            "the empty set",
            "empty set",
            "none",
        ),
        ("does not exist", "dne", "doesn't exist", "limit does not exist", "the limit does not exist"),
        (
            "all real numbers",
            "all reals",
            "every real number",
            "any real number",
            "all real number",
            "the set of all real numbers",
            "set of all real numbers",
            "real numbers",
            "\\mathbb{R}",
            "\\mathbbR",
            "\\R",
            "\\Reals",
            "(-\\infty,\\infty)",
            "(-\\infty,+\\infty)",
            "x\\in\\mathbb{R}",
            "-\\infty<x<\\infty",
        ),
        ("\\infty", "+\\infty", "infinity", "inf", "+infinity", "positive infinity"),
        ("-\\infty", "-infinity", "-inf", "negative infinity", "minus infinity"),
        (
            "infinitely many solutions",
            "infinitely many",
            "infinite solutions",
            "infinitely many solution",
            "infinite number of solutions",
        ),
    )
    for phrase in group
}
_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?(?:\s*[.:)](?:\s.*)?)?", re.DOTALL)


def exact(gold: str, answer: str) -> bool | None:
    """Whether `answer` says what `gold` says, where that needs no algebra; None where it does.

    Never hangs, for any input.  Nothing extracted is never equal, not even to an empty gold.
    """
    if not answer.strip() or not gold.strip():
        return False
    if gold.strip() == answer.strip():
        return True
    if max(len(gold), len(answer)) > LONGEST:
        return key(gold) == key(answer)
    numbers = quantity(gold), quantity(answer)
    if numbers[0] is not None and numbers[1] is not None:
        return same(numbers[0], numbers[1]) or _clocks(gold, answer) is True
    if key(gold) == key(answer):
        return True
    meanings = [_SAME_WORDS.get(re.sub(r"[\s']", "", _lower(text))) for text in (gold, answer)]
    if meanings[0] and meanings[1]:
        return meanings[0] == meanings[1]
    for rule in (_dates, _clocks, _ratios, _letters):
        said = rule(gold, answer)
        if said is not None:
            return said
    if worded(gold) and worded(answer):
        return _words(gold) == _words(answer)
    return None


def worded(text: str) -> bool:
    """Whether the whole answer is words: no digits, no relations, no commands."""
    seen = flat(text)
    return prose(seen) and not re.search(r"[\d=<>^_\\+*/|\[\]{}]", seen)


def _lower(text: str) -> str:
    seen = flat(text)
    return seen if "\\" in seen else seen.lower()


def _words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", flat(text).casefold().replace("'s ", "s ").replace("n't", "nt"))
    while words and words[0] in ("the", "a", "an", "it", "its", "is", "are"):
        words = words[1:]
    return words


def _date(text: str) -> tuple[int, int, str] | None:
    seen = re.sub(r"\s+", " ", flat(text).lower().replace("^", "").replace("{", "").replace("}", "")).replace(" ,", ",").strip()
    for weekday in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"):
        seen = seen.removeprefix(weekday).lstrip(", ")
    for pattern in _DATES:
        found = pattern.fullmatch(seen)
        if found and 1 <= int(found["day"]) <= 31:
            month = next(place for place, name in enumerate(_MONTHS) if name.startswith(found["month"][:3]))
            return month, int(found["day"]), found["year"] or ""
    return None


def _dates(gold: str, answer: str) -> bool | None:
    """June 20, 20 June, June 20th; a year that only one of them gives is passed over."""
    first, second = _date(gold), _date(answer)
    if first is None or second is None:
        return None
    return first[:2] == second[:2] and (first[2] == second[2] or not (first[2] and second[2]))


def _clock(text: str) -> tuple[int, int, int, str] | None:
    seen = re.sub(r"\s+", " ", flat(text)).strip()
    found = _CLOCK.fullmatch(seen) or _CLOCK.fullmatch(seen + ".")
    if not found or not (found[2] or found[4] or "clock" in seen.lower()):
        return None
    hour, minute, second, half = int(found[1]), int(found[2] or 0), int(found[3] or 0), (found[4] or "").lower()
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    elif hour > 12 or hour == 0:
        half = "-"
    return hour, minute, second, half


def _clocks(gold: str, answer: str) -> bool | None:
    """3:30 PM, 3:30 p.m., 15:30; where only one of them says which half of the day, it is passed over."""
    first, second = _clock(gold), _clock(answer)
    if first is None or second is None:
        return None
    if first == second or (first[3] and second[3]):
        return first[:3] == second[:3]
    if re.search("[ap]", first[3] + second[3]):
        return first[0] % 12 == second[0] % 12 and first[1:3] == second[1:3]
    # Neither is surely a time: 3:45 may be a ratio.
    return True if first[:3] == second[:3] else None


def _ratios(gold: str, answer: str) -> bool | None:
    """3:4 is 6:8, 3 to 4 and the number 3/4."""
    values = []
    for text in (gold, answer):
        found = _RATIO.fullmatch(flat(text))
        if found:
            if not Fraction(found[2]):
                return None
            values.append(Fraction(found[1]) / Fraction(found[2]))
        else:
            number = quantity(text)
            if number is None or number.unit:
                return None
            values.append(number.value)
    return values[0] == values[1]


def _letters(gold: str, answer: str) -> bool | None:
    """A gold that is one capital letter is a choice where the answer is a letter with brackets or what it stands for."""
    wanted = re.fullmatch(r"\(?([A-J])\)?", flat(gold).replace(" ", ""))
    if not wanted:
        return None
    found = _LETTER.fullmatch(flat(answer))
    return found[1] == wanted[1] if found else None


__all__ = ["LONGEST", "exact", "tidy", "worded"]
