"""The published equality rules: whether two answers are the same, asked ten ways and in their order."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from modist.evaluation.answers.compatible.extract import choose, extract
from modist.evaluation.answers.compatible.normalise import normalise
from modist.evaluation.answers.compatible.symbolic import opposite_or_same, same

_LETTERS = ("A", "B", "C", "D", "E")
_BRACKETS = str.maketrans("", "", "{}()[]")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}\Z", re.DOTALL)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_DECIMAL = re.compile(r"[+-]?(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})(?:[eE][+-]?\d{1,2})?\Z")
_CHAIN = re.compile(r"([^<>=]+)(<=|<)[a-zA-Z](<=|<)([^<>=]+)\Z")
_ONE_SIDED = re.compile(r"[a-zA-Z](<=|<|>=|>)([^<>=]+)\Z")
_DEEPEST = 6


def grade_compatible(gold: str, output: str, kind: str = "math", bugs: bool = True, units: bool = True) -> tuple[bool, str]:
    """Whether a whole output answers `gold` by the published rules, and what was taken for its answer.

    Args:
        gold: as the benchmark has it; normalised here, twice, as the harness does.
        kind: "choice" or anything else, see `extract`.
        units: False for carp_en, whose golds are taken as they are (but for the spelling of relations) and whose predictions
            keep their units.
    """
    found = normalise(extract(output, kind, bugs, units), bugs, units)
    if units or not bugs:
        gold = normalise(normalise(gold, bugs), bugs)
    else:
        gold = gold.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge").strip()
    if gold in _LETTERS and found not in _LETTERS:
        found = choose(output, bugs)
    return equal_normalised(found, gold, bugs), found


def equal(prediction: str, gold: str, kind: str = "math", bugs: bool = True) -> bool:
    """Whether two bare answers are equal by the published rules, both normalised (twice) first.

    The rules alone, on strings as they are, are `equal_normalised`; upstream they are wrong without the normaliser.
    """
    if kind == "choice":
        prediction = choose(prediction, bugs)
    return equal_normalised(
        normalise(normalise(prediction, bugs), bugs),
        normalise(normalise(gold, bugs), bugs),
        bugs,
    )


def equal_normalised(prediction: str, gold: str, bugs: bool = True, depth: int = 0) -> bool:
    """The ten rules on normalised strings; the first that decides does."""
    prediction, gold = prediction.strip(), gold.strip()
    if not bugs and not prediction:
        return False
    if prediction.lower() == gold.lower() and (bugs or prediction == gold or len(gold) > 1):
        return True
    if gold in _LETTERS and choose(prediction, bugs) == gold:
        return True
    numbers = _numbers(prediction, gold, bugs)
    if numbers is not None:
        return numbers
    if not prediction or depth > _DEEPEST:
        return False
    if bugs and prediction.translate(_BRACKETS).lower() == gold.translate(_BRACKETS).lower():
        return True
    if not bugs and _bare(prediction) == _bare(gold):
        return True
    if _same_parts(prediction, gold, bugs, depth):
        return True
    if not bugs and (_listed(prediction) or _listed(gold)):
        return False
    return _same_equations(prediction, gold, bugs, depth)


def _numbers(prediction: str, gold: str, bugs: bool) -> bool | None:
    """Rule 3; None where either is no number."""
    if bugs:
        one, two = _number(prediction), _number(gold)
        if one is None or two is None:
            return None
        return any(math.isclose(one, value, rel_tol=1e-4) for value in (two / 100, two, two * 100))
    first, second = _exact(prediction), _exact(gold)
    if first is None or second is None:
        return None
    if first == second:
        return True
    if prediction.endswith("%") != gold.endswith("%"):
        return first * 100 == second or first == second * 100
    return False


def _number(text: str) -> float | None:
    """As published: commas are deleted wherever they stand, and a percent sign divides by 100."""
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        pass
    if text.endswith("%"):
        try:
            return float(text[:-1].removesuffix("\\")) / 100
        except ValueError:
            pass
    return None


def _exact(text: str) -> Fraction | None:
    """The number as written, commas only between groups of three digits; a percent sign is dropped."""
    text = text.removesuffix("%").removesuffix("\\")
    if _GROUPED.match(text):
        text = text.replace(",", "")
    return Fraction(text) if _DECIMAL.match(text) else None


def _bare(text: str) -> str:
    """A word or number alone in brackets, without them: (A), {5}."""
    inner = text[1:-1]
    return inner if text[:1] + text[-1:] in ("()", "{}", "[]") and inner.isalnum() else text


def _same_parts(prediction: str, gold: str, bugs: bool, depth: int) -> bool:
    """Rules 6 and 7: lists in brackets and matrices, element by element."""
    one, two = _MATRIX.match(prediction), _MATRIX.match(gold)
    if one and two:
        return _same_rows(one[1], two[1], bugs, depth)
    if bugs:
        if prediction[:1] + gold[:1] == "{{" and prediction.endswith("}") and gold.endswith("}"):
            # As Python sets, which parse_expr made of them.
            return _paired(split(prediction[1:-1]), split(gold[1:-1]), bugs, depth, ordered=False)
        if all(text[:1] in ("(", "[") and text[-1:] in (")", "]") for text in (prediction, gold)):
            return _paired(prediction[1:-1].split(","), gold[1:-1].split(","), bugs, depth)
        return False
    prediction, gold = _interval(prediction), _interval(gold)
    first, second = _kind(prediction), _kind(gold)
    if first != second or not first:
        return False
    if first != "list":
        prediction, gold = prediction[1:-1], gold[1:-1]
    return _paired(split(prediction), split(gold), bugs, depth, ordered=first not in ("list", "{}"))


def _paired(first: list[str], second: list[str], bugs: bool, depth: int, ordered: bool = True) -> bool:
    if len(first) != len(second) or len(first) > 50 or (len(first) == 1 and not ordered and not bugs):
        return False
    if ordered:
        return all(equal_normalised(a, b, bugs, depth + 1) for a, b in zip(first, second, strict=True))
    left = list(second)
    for one in first:
        found = next((place for place, two in enumerate(left) if equal_normalised(one, two, bugs, depth + 1)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_rows(first: str, second: str, bugs: bool, depth: int) -> bool:
    one = [row.split("&") for row in first.split("\\\\") if row.strip()]
    two = [row.split("&") for row in second.split("\\\\") if row.strip()]
    return len(one) == len(two) and all(_paired(a, b, bugs, depth) for a, b in zip(one, two, strict=True))


def split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _kind(text: str) -> str:
    """The brackets of a list, "list" for one without, "" for what is none."""
    brackets = text[:1] + text[-1:]
    if brackets in ("()", "[]", "(]", "[)", "{}") and len(split(text)) == 1:
        return brackets if len(split(text[1:-1])) > 1 else ""
    # \pm a is the list a, -a: see _interval.
    return "list" if len(split(text)) > 1 and not _GROUPED.match(text) else ""


def _listed(text: str) -> bool:
    return bool(_kind(_interval(text)))


def _interval(text: str) -> str:
    """An inequality as an interval and \\pm as a list; a set or list of \\mathbb and the like stays."""
    if text.count("\\pm") == 1:
        return text.replace("\\pm", "+").removeprefix("+") + "," + text.replace("\\pm", "-")
    plain = re.sub(r"\\([lg])(e|t)(?:\{\}|(?![a-z]))", _relation, text)
    if chain := _CHAIN.match(plain):
        return f"{'[' if chain[2] == '<=' else '('}{chain[1]},{chain[4]}{']' if chain[3] == '<=' else ')'}"
    if side := _ONE_SIDED.match(plain):
        closed = side[1].endswith("=")
        if side[1].startswith("<"):
            return f"(-\\infty,{side[2]}{']' if closed else ')'}"
        return f"{'[' if closed else '('}{side[2]},\\infty)"
    if text.startswith("{") and text.endswith("}") and len(split(text)) == 1 and len(split(text[1:-1])) > 1:
        return text[1:-1]
    return text


def _relation(found: re.Match[str]) -> str:
    return {"l": "<", "g": ">"}[found[1]] + ("=" if found[2] == "e" else "")


def _same_equations(prediction: str, gold: str, bugs: bool, depth: int) -> bool:
    """Rules 8 to 10: equations by the difference of their sides, `v = ...` by its value, the rest as formulas."""
    if prediction.count("=") == 1 and gold.count("=") == 1:
        one = "{}-({})".format(*(side.strip() for side in prediction.split("=")))
        two = "{}-({})".format(*(side.strip() for side in gold.split("=")))
        return opposite_or_same(one, two, bugs)
    for named, other in ((prediction, gold), (gold, prediction)):
        if named.count("=") == 1 and "=" not in other:
            name, value = named.split("=")
            if len(name.strip()) <= 2:
                return equal_normalised(value, other, bugs, depth + 1)
    return same(prediction, gold, bugs)
