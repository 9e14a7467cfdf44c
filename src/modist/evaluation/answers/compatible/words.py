"""Words the published rules delete or replace: units of what is counted, and English numbers.

The facts describe the list as about 140 unit words and their plurals, among them the single letters a c d g h l m o s t; the
words below are our own choice by that description.
"""

from __future__ import annotations

import re
from functools import cache

_LENGTHS = "m cm mm km dm metre meter kilometer kilometre centimeter inch inches feet ft yard mile"
_AREAS = "sq square acre hectare"
_VOLUMES = "l ml litre liter gallon cubic cube cc cup"
_MASSES = "g kg gm mg gram kilogram lb pound ounce oz ton"
_TIMES = "s h t sec second min minute hr hour day week month yr year am pm noon o"
_SPEEDS = "mph kmph kmh"
_MONEY = "rs rupee dollar cent coin d c profit loss gain"
_ANGLES = "deg degree east west north south"
_PHYSICS = "ohm volt watt"
_PEOPLE = "man men woman women person people child children student worker soldier"
_THINGS = (
    "apple orange book ball box boxes card marble pencil toy tile brick tree page pie pizza slice egg piece unit item mark "
    "point number way time"
)
_COMPARISONS = "more less increase decrease percent per excess ratio st th a ab"
# Several words, written with the spaces in which they were found.
_PHRASES = ("sq m", "sq cm", "sq inch", "cu m", "cu cm", "cubic cm", "per hour", "per second", "per day", "no change")
# The stop was meant, but is a wildcard in the published pattern: `b >` is taken too.
_STOPPED = ("a .", "b .", "c .", "d .", "e .", "f .", "g .", "h .", "a . m", "p . m", "rs .", "sq . m", "cu . m", "s .", "rs.")

_GROUPS = (_LENGTHS, _AREAS, _VOLUMES, _MASSES, _TIMES, _SPEEDS, _MONEY, _ANGLES, _PHYSICS, _PEOPLE, _THINGS, _COMPARISONS)
UNITS: tuple[str, ...] = (*dict.fromkeys(" ".join(_GROUPS).split()), *_PHRASES, *_STOPPED)


@cache
def unit_pattern() -> re.Pattern[str]:
    """A unit between two characters that are no part of a word, both of them captured and the longest unit first."""
    words = sorted(UNITS, key=len, reverse=True)
    # Not escaped: see _STOPPED.
    return re.compile(rf"(^|\W)(?:{'|'.join(words)})s?($|\W)")


@cache
def trailing_unit_pattern() -> re.Pattern[str]:
    """What should be deleted of units: one that ends the text and belongs to a number, with a power such as ^2 or not.

    A single letter counts only after a space or in \\text, \\mathrm and the like, because 2t is a product.
    """
    words = [word for word in UNITS if word not in _STOPPED and len(word) > 1 and word not in ("ab", "st", "th")]
    letters = "[cdghlmst]"
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    space = r"(?:\s|~|\\,|\\;|\\ )"
    power = r"(?:\s?\^\s?\{?[23]\}?)?"
    # Few spaces: what a run of them could cost is their number squared.
    bare = rf"(?:{space}{{0,4}}(?:{names})s?|{space}{{1,4}}{letters})"
    macro = r"\\(?:mathrm|text|mbox|rm|operatorname)"
    wrapped = rf"{space}{{0,4}}{macro}\s?\{{{space}{{0,4}}(?:{names}|{letters})s?{space}{{0,4}}\.?\}}"
    return re.compile(rf"(?<=[\d)}}])(?:{wrapped}|{bare}){power}\.?$")


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


@cache
def number_words() -> dict[str, str]:
    """English for 0 ... 100, as digits: {"twenty-one": "21", ...}."""
    small = _SMALL.split()
    found = {word: str(value) for value, word in enumerate(small)}
    for index, ten in enumerate(_TENS.split()):
        value = 20 + 10 * index
        found[ten] = str(value)
        for digit in range(1, 10):
            found[f"{ten}-{small[digit]}"] = found[f"{ten} {small[digit]}"] = str(value + digit)
    return found | {"hundred": "100", "one hundred": "100"}
