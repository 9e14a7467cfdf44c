"""Plain numbers with what stands around them: units, percent signs, currencies, degrees, bases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from modist.evaluation.answers.notation import flat, tidy
from modist.evaluation.answers.unit import CURRENCIES, SCALES, alike, unit_of

# A number of more digits is compared as text: turning it into an integer takes time that grows with its square.
_MOST_DIGITS = 400
_MOST_EXPONENT = 400
# Decimals shown before a decimal may stand for a number that no decimal ends (1/3, pi): those math-verify compares by.
DECIMALS = 6

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}\.\d*|{_DIGITS}|\.\d+)"
_REPEATING = r"(?P<lead>\d*)\.(?P<once>\d*)\\(?:overline|bar|dot)\s*\{?\s*(?P<again>\d+)\s*\}?"
_FRAC = r"\\frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))"
_WHOLE = re.compile(rf"(?P<sign>[-+]?)\s*(?P<body>{_DECIMAL})(?P<rest>.*)", re.DOTALL)
_FRACTION = re.compile(rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s*)?{_FRAC}(?P<rest>.*)", re.DOTALL)
_SLASHED = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)(?:\s+and\s+|\s+))?\(?\s*(?P<up>[-+]?{_DECIMAL})\s*\)?"
    rf"\s*/\s*\(?\s*(?P<down>-?{_DECIMAL})\s*\)?(?P<rest>.*)",
    re.DOTALL,
)
_AGAIN = re.compile(rf"(?P<sign>[-+]?)\s*{_REPEATING}(?P<rest>.*)", re.DOTALL)
_POWER = re.compile(
    r"\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\s*\d+)\s*\}|\(?\s*([-+]?\d+)\s*\)?)(?P<rest>.*)",
    re.DOTALL,
)
_E = re.compile(r"[eE]([-+]?\d{1,4})(?![\d.A-Za-z])(?P<rest>.*)", re.DOTALL)
_BARE_POWER = re.compile(r"(?P<sign>[-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))(?P<rest>.*)", re.DOTALL)
_BASE = re.compile(r"_\s*\{?\s*(?:\\text\{)?\s*(\d+|[a-z]+)\s*\}?\}?\s*$")
# fmt: off
_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}


@dataclass(frozen=True)
class Quantity:
    """A rational number, its unit (empty where none is written) and how many decimals were shown (None: an exact form)."""

    value: Fraction
    unit: str = ""
    decimals: int | None = None
    base: str = ""


@lru_cache(maxsize=65536)
def quantity(text: str) -> Quantity | None:
    """What `text` says if it is one plain number, alone or with a unit; None for anything else.

    Understood: signs, thousands (1,000 1{,}000 1\\,000 1 000), decimals, 3/4, \\frac34, mixed numbers (1 1/2, 1\\frac{1}{2}),
    1.5\\times10^3, 1.5e3, repeating decimals, English number words, ordinals, percent, currencies, degrees, bases (101_2),
    and unit words.  A single letter after a number is a variable, not a unit, unless it stands in \\text or \\mathrm.
    """
    if len(text) > 4 * _MOST_DIGITS:
        return None
    plain = tidy(text)
    if not re.search(r"\d", plain):
        return _spelled(flat(text))
    return _quantity(plain)


def _quantity(plain: str) -> Quantity | None:
    plain = re.sub(r"^(?:=|:|\\approx|\\simeq|~|≈|about|approximately|exactly|only)\s*", "", plain.strip())
    currency = ""
    found = re.match(r"(?P<sign>-?)\s*(?P<mark>[$£€¥₹]|(?:usd|rs\.?)\s)\s*(?=[-\d.])", plain, re.IGNORECASE)
    if found:
        currency = CURRENCIES[found["mark"].strip().lower()]
        plain = found["sign"] + plain[found.end() :]
    elif re.match(r"[-+]?\s*\((?=[^(),]*\)$)", plain):
        # (-3) is -3; (1,2) is not.
        plain = re.sub(r"\(([^(),]*)\)$", r"\1", plain).replace("--", "")
    base = ""
    found = _BASE.search(plain)
    if found:
        base, plain = found[1], plain[: found.start()]
    read = _read(plain)
    if read is None:
        return None
    value, rest, decimals = read
    scaled = unit_of(rest)
    if scaled is None:
        return None
    scale, unit = scaled
    if currency and unit and unit != currency:
        return None
    return Quantity(value * scale, currency or unit, decimals if scale == 1 else None, base)


def _read(plain: str) -> tuple[Fraction, str, int | None] | None:
    """The number at the start, what follows it, and its decimals."""
    found = _FRACTION.match(plain)
    if found:
        up, down = found[3] or found[4], found[5] or found[6]
        return _ratio(found["sign"], found["whole"], up, down, found["rest"])
    found = _SLASHED.match(plain)
    if found:
        return _ratio(found["sign"], found["whole"], found["up"], found["down"], found["rest"])
    found = _AGAIN.match(plain)
    if found:
        return _repeating(found)
    found = _BARE_POWER.match(plain)
    if found and abs(int(found[2] or found[3])) <= _MOST_EXPONENT:
        value = Fraction(10) ** int(found[2] or found[3])
        return (-value if found["sign"] == "-" else value), found["rest"], None
    found = _WHOLE.match(plain)
    if not found or len(found["body"]) > _MOST_DIGITS:
        return None
    body = found["body"].replace(",", "").replace(" ", "")
    value = Fraction(body.rstrip(".") if body != "." else "0")
    decimals: int | None = len(body.partition(".")[2])
    rest = found["rest"]
    power = _POWER.match(rest) or _E.match(rest)
    if power:
        exponent = int((power[1] or power[2]).replace(" ", "") if power.re is _POWER else power[1])
        if abs(exponent) > _MOST_EXPONENT:
            return None
        value, rest, decimals = value * Fraction(10) ** exponent, power["rest"], None
    return (-value if found["sign"] == "-" else value), rest, decimals


def _ratio(sign: str, whole: str | None, up: str, down: str, rest: str) -> tuple[Fraction, str, int | None] | None:
    if max(len(up), len(down)) > _MOST_DIGITS or re.match(r"\s*[/^]", rest):
        return None
    try:
        top, bottom = (Fraction(part.replace(",", "").replace(" ", "").rstrip(".")) for part in (up, down))
    except ValueError:
        return None
    if not bottom or (whole and (top < 0 or bottom < 0)):
        return None
    value = top / bottom + int(whole or 0)
    return (-value if sign == "-" else value), rest, None


def _repeating(found: re.Match[str]) -> tuple[Fraction, str, int | None] | None:
    once, again = found["once"], found["again"]
    if len(once) + len(again) > _MOST_DIGITS:
        return None
    value = Fraction(int(found["lead"] or 0)) + Fraction(int(once or 0), 10 ** len(once))
    value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
    return (-value if found["sign"] == "-" else value), found["rest"], None


def _spelled(text: str) -> Quantity | None:
    """English number words: `eleven`, `twenty-one`, `two hundred and five`, `one half`, with a unit after them."""
    words = re.sub(r"[-,]", " ", text.lower()).split()
    if not words or len(words) > 12:
        return None
    sign = -1 if words[0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    total = current = 0
    used = 0
    for word in words:
        if word in _SMALL:
            current += _SMALL.index(word)
        elif word in _TENS:
            current += _TENS[word]
        elif word == "hundred" and used:
            current *= 100
        elif word in SCALES and used and word != "hundred":
            total, current = total + current * SCALES[word], 0
        elif not (word == "and" and used and used + 1 < len(words) and words[used + 1] in (*_SMALL, *_TENS)):
            break
        used += 1
    if not used:
        return None
    rest = words[used:]
    if rest and re.fullmatch(r"hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?", rest[0]):
        stem = rest[0].rstrip("s")
        return Quantity(Fraction(sign * (total + current), _PARTS[stem])) if len(rest) == 1 else None
    scaled = unit_of(" " + " ".join(rest)) if rest else (Fraction(1), "")
    return Quantity(sign * (total + current) * scaled[0], scaled[1], 0) if scaled is not None else None


def same(gold: Quantity, answer: Quantity) -> bool:
    """Whether two plain numbers are one answer.

    Values must be equal exactly.  A unit, a currency, a degree sign or a base that only one of them writes is passed over; two
    different ones differ (units are not converted).  `50%` is 50 percent and 0.5, but 0.5 is not 50.  A decimal of six or
    more decimals may stand for a fraction that no decimal ends, if it is that fraction rounded or cut.
    """
    if gold.base and answer.base and gold.base != answer.base:
        return False
    percents = (gold.unit == "percent", answer.unit == "percent")
    if gold.unit and answer.unit and gold.unit != answer.unit and not alike(gold.unit, answer.unit):
        return False
    if percents == (True, True) or percents == (False, False):
        return close(gold, answer)
    whole, part = (gold, answer) if percents[0] else (answer, gold)
    if part.unit:
        return False
    if close(Quantity(whole.value / 100, "", None if whole.decimals is None else whole.decimals + 2), part):
        return True
    # "What percent?" asks for 50, and the answer says 50%; but 0.5% is not the share 0.5.
    return close(whole, part) and (percents[0] or abs(part.value) >= 1)


def close(one: Quantity, other: Quantity) -> bool:
    """Equal values, or a long decimal that is the other rounded (or cut) where it ends."""
    if one.value == other.value:
        return True
    return stands_for(one, other.value) or stands_for(other, one.value)


def stands_for(decimal: Quantity, value: Fraction) -> bool:
    """Whether a decimal of six or more decimals is `value` rounded or cut there, `value` being no decimal of its own."""
    if decimal.decimals is None or decimal.decimals < DECIMALS or decimal.decimals > 60:
        return False
    down = value.denominator
    for prime in (2, 5):
        while down % prime == 0:
            down //= prime
    if down == 1 and decimal.decimals < 12:
        return False
    # Floats that were printed in full differ from the number meant in their last digits.
    shown = min(decimal.decimals, 10)
    apart = abs(decimal.value - value)
    return bool(apart * 10**shown <= 1 and apart * 10**DECIMALS <= abs(value))
