"""How large a formula could grow, judged from its text: `9^{9^{9^9}}` must not be computed to find out."""

from __future__ import annotations

import re
from itertools import permutations

LONGEST = 400
_DIGITS = 60
_EXPONENT = 10_000
_DEEPEST = 20
_RUN = re.compile(r"\d{61}")
_INTEGER = re.compile(r"(?<![\d.])\d+")
_FACTORIAL_OF_BRACKET = re.compile(r"[)}\]]\s*!")
_HUGE_FACTORIAL = re.compile(r"\d{5,}\s*!|!\s*!")
_COMBINATION = re.compile(r"\\(?:t|d)?binom|\\choose|\\sum|\\prod|factorial|binomial")
_POWER = re.compile(r"\^|\*\*")


def fits(text: str) -> bool:
    """Whether everything written in `text` can be computed in memory and time worth an answer.

    Bounded: length (400), brackets in brackets (20), digits of a number (60), every exponent (10,000, also of a power of a
    power, whatever its own powers and products could make of the numbers in it), factorials and binomials (9,999).
    """
    if len(text) > LONGEST or _RUN.search(text) or not _shallow(text):
        return False
    if _HUGE_FACTORIAL.search(text) or (_FACTORIAL_OF_BRACKET.search(text) and ("^" in text or "**" in text)):
        return False
    if _FACTORIAL_OF_BRACKET.search(text) and (text.count("!") > 1 or sum(map(len, _INTEGER.findall(text))) > 4):
        return False
    if _COMBINATION.search(text) and any(len(run) > 4 for run in _INTEGER.findall(text)):
        return False
    return _powers_fit(text)


def _shallow(text: str) -> bool:
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > _DEEPEST:
                return False
        elif character in ")]}":
            depth -= 1
    return True


def _powers_fit(text: str) -> bool:
    plain, bracketed = 1.0, 1.0
    place = 0
    while match := _POWER.search(text, place):
        exponent, place = _group(text, match.end())
        largest = _largest(exponent)
        # The exponents of a bracket and of what it may hold multiply; those of letters and numbers stand alone.
        if text[: match.start()].rstrip().endswith((")", "}", "]")):
            bracketed *= max(1.0, largest)
        else:
            plain = max(plain, largest)
        if plain * bracketed > _EXPONENT:
            return False
    return True


def _group(text: str, start: int) -> tuple[str, int]:
    """The exponent that begins at `start` and where it ends; a chain a^b^c is one exponent `b^c`."""
    place = start
    while place < len(text) and text[place] in " +-":
        place += 1
    if place < len(text) and text[place] in "({[":
        place = _closing(text, place)
    else:
        while place < len(text) and (text[place].isalnum() or text[place] in ".\\"):
            place += 1
        # \frac{...}{...}, sqrt(...): what a name is applied to belongs to it.
        while place < len(text) and text[place] in "({[" and text[start:place].strip(" +-"):
            place = _closing(text, place)
    following = _POWER.match(text, place)
    if following:
        place = _group(text, following.end())[1]
    return text[start:place], max(place, start)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "({[":
            depth += 1
        elif text[place] in ")}]":
            depth -= 1
            if depth == 0:
                return place + 1
    return len(text)


def _largest(exponent: str) -> float:
    """No value that the numbers in an exponent can be made to take is larger, however they are put together."""
    numbers = sorted(float(run) for run in _INTEGER.findall(exponent) if len(run) < 20)
    if any(len(run) >= 20 for run in _INTEGER.findall(exponent)) or "!" in exponent or _COMBINATION.search(exponent):
        return float("inf")
    numbers = [number for number in numbers if number > 1]
    depth = len(_POWER.findall(exponent))
    if not numbers:
        return 1.0
    if depth == 0:
        value = 1.0
        for number in numbers:
            value *= number
        return max(value, sum(numbers))
    if depth > 1 or len(numbers) > 3:
        return float("inf")
    if len(numbers) == 1:
        return numbers[0]
    if max(numbers) > _EXPONENT:
        return float("inf")
    tries = []
    for order in permutations(numbers):
        for cut in range(1, len(order)):
            base, power = 1.0, 1.0
            for number in order[:cut]:
                base *= number
            for number in order[cut:]:
                power *= number
            tries.append(base**power if power * len(str(int(base))) < 300 else float("inf"))
    return max(tries)
