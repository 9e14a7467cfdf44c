"""What stands after a number: the name of a unit, a currency, a factor such as `million`."""

from __future__ import annotations

import re
from fractions import Fraction

CURRENCIES = {"$": "dollar", "£": "pound sterling", "€": "euro", "¥": "yen", "₹": "rupee"}
CURRENCIES |= {"usd": "dollar", "rs": "rupee", "rs.": "rupee"}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# Names of one unit; a plural "s" is taken off before.
_SAME_UNIT = {
    name: names.split()[0]
    for names in (
        "cm centimeter centimetre cms",
        "mm millimeter millimetre",
        "meter metre m mtr",
        "km kilometer kilometre kms",
        "inch inche in",
        "foot feet ft",
        "yard yd",
        "mile mi",
        "g gram gm",
        "kg kilogram kilo kgs",
        "mg milligram",
        "ounce oz",
        "lb pound lbs",
        "liter litre l",
        "ml milliliter millilitre",
        "second sec s",
        "minute min",
        "hour hr h",
        "year yr",
        "mph milesperhour",
        "percent % pct percentage",
        "degree deg ^\\circ",
        "radian rad",
        "dollar buck",
        "cent ¢ c",
        "people person",
        "child children",
        "unit",
        "men man",
        "women woman",
    )
    for name in names.split()
}
# Words that make a number another one, so that they are no units.
# fmt: off
_NOT_UNITS = frozenset((
    "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "mod", "and", "or", "nor", "times", "plus", "minus", "over",
    "squared", "cubed", "factorial", "to", "x", "hundred", "thousand", "million", "billion", "trillion", "dozen", "half",
    "third", "quarter", "less", "more", "than", "not", "per", "remainder", "if", "when", "where", "for", "is", "are",
    "infinity", "inf", "undefined",
))
# fmt: on

_UNIT_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|textrm|mbox|mathbf|operatorname)\s*\{([^{}]*)\}")


def unit_of(rest: str) -> tuple[Fraction, str] | None:
    """(factor, unit) of what follows a number; None if that is more than a unit."""
    rest = rest.rstrip()
    first, rest = rest[:1], rest.lstrip()
    if not rest:
        return Fraction(1), ""
    # Words and the like in brackets after the number: 25 (apples).
    rest = re.sub(r"^\(([a-zA-Z ]+)\)$", r"\1", rest)
    if re.match(r"\^(?!\s*\{?\s*(?:\\circ|\\text|\\mathrm))", rest):
        return None
    in_text = bool(_UNIT_TEXT.search(rest))
    words = _UNIT_TEXT.sub(r" \1 ", rest).replace("~", " ").strip()
    if re.search(r"\\(?!circ)|[=<>{}(),;:|!+_&]|\.\d", words.replace("{", "").replace("}", "") if "^" in words else words):
        return None
    words = words.replace("^\\circ", " ^\\circ ").replace("{", "").replace("}", "").strip(". ")
    if not words:
        return Fraction(1), ""
    factor = Fraction(1)
    parts = words.split()
    if parts[0].lower() in SCALES:
        factor = Fraction(SCALES[parts.pop(0).lower()])
    if parts and parts[0].lower() in ("st", "nd", "rd", "th", "^st", "^nd", "^rd", "^th"):
        parts.pop(0)
    if not parts:
        return factor, ""
    if re.search(r"\d", re.sub(r"\^\s*-?[23]", "", " ".join(parts))):
        return None
    names = [name.lower().strip(".,") for name in parts]
    if any(name in _NOT_UNITS and not (name == "per" and place) for place, name in enumerate(names)):
        return None
    if not in_text and not all(_is_word(name, names, first) for name in names):
        return None
    if not all(
        re.fullmatch(r"[a-z'\-]+(?:\^-?[23])?(?:[/.·][a-z]+(?:\^-?[23])?)*\.?|%|¢|\^\\circ|/|[$£€¥₹]|\^-?[23]", name)
        for name in names
    ):
        return None
    if len(names) > 8:
        return None
    return factor, _unit_name(names)


def _is_word(name: str, names: list[str], first: str) -> bool:
    """Whether letters after a number, not in \\text, are a word: a unit's name, or letters that stand apart from the number."""
    letters = re.sub(r"\^-?[23]$", "", name)
    if not letters or not letters[0].isalpha():
        return True
    parts = letters.split("/")
    if len(parts) > 1:
        return all(part in _SAME_UNIT or (len(part) > 3 and part.isalpha()) for part in parts)
    if len(letters) == 1:
        return letters == "a" and len(names) > 1
    if letters in _SAME_UNIT:
        return True
    return (len(letters) > 2 or letters in ("of", "am", "pm", "in", "to", "at")) and first.isspace()


def _unit_name(names: list[str]) -> str:
    text = " ".join(CURRENCIES.get(name, name) for name in names)
    text = re.sub(r"\bsq(?:uare|\.)?\s+(\S+)", r"\1^2", text)
    text = re.sub(r"\bcu(?:bic|\.)?\s+(\S+)", r"\1^3", text)
    text = re.sub(r"(\S+) squared\b", r"\1^2", text)
    text = re.sub(r"\s*(?:/|\bper\b)\s*", "/", text).replace(" ^2", "^2").replace(" ^3", "^3")
    name = "/".join(_one_unit(part) for part in text.split("/"))
    return {"mile/hour": "mph", "kmh": "km/hour", "kph": "km/hour", "kmph": "km/hour"}.get(name, name)


def _one_unit(name: str) -> str:
    name, power, rest = name.strip().partition("^")
    if name == "" and power:
        return _SAME_UNIT.get("^" + rest.split(" ")[0], "^" + rest)
    if name not in _SAME_UNIT and name.endswith("s") and len(name) > 2:
        name = name[:-2] if name[:-2] in _SAME_UNIT and name.endswith("es") else name[:-1]
    return _SAME_UNIT.get(name, name) + power + rest


def alike(one: str, other: str) -> bool:
    """5 red apples, 5 apples."""
    first, second = (one, other) if len(one) < len(other) else (other, one)
    return second.endswith(" " + first) or second.startswith(first + " of ")
