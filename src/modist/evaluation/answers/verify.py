"""The default grader: whether an answer is the gold.  The rules are in docs/grading.md."""

from __future__ import annotations

import re
from functools import lru_cache

from modist.evaluation.answers import algebra
from modist.evaluation.answers.exact import LONGEST, exact, worded
from modist.evaluation.answers.notation import flat, prose
from modist.evaluation.answers.quantity import quantity, same
from modist.evaluation.answers.structure import Shape, name_of, read, value

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_INFINITE = value(r"\infty"), value(r"-\infty")
# More parts than this are compared one after the other, in order.
_MOST_PARTS = 40
_NUMBER = re.compile(r"(?<![\w.])-?[$£€]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def equal(gold: str, answer: str) -> bool:
    """Whether `answer` (a span, not a whole output) says the same as `gold`.

    May take long on monstrous formulas, and raise RecursionError or MemoryError: `Graders` has a limit for that.
    """
    decided = exact(gold, answer)
    if decided is not None:
        return decided
    if max(len(gold), len(answer)) > LONGEST:
        return False
    said = _sentence(gold, answer)
    if said is not None:
        return said
    return _same(_read(gold), _read(answer))


@lru_cache(maxsize=8192)
def _read(text: str) -> Shape:
    return read(text)


def _sentence(gold: str, answer: str) -> bool | None:
    """A sentence where a number or a word is asked for: its only number, or its last words."""
    seen = flat(answer)
    if len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", seen)) < 3 or not prose(seen):
        return None
    number = quantity(gold)
    if number is None:
        return None
    found = [quantity(one) for one in _NUMBER.findall(seen)]
    if len(found) != 1 or found[0] is None or re.search(r"\bnot\b|n't\b|\\|\^", seen):
        return False
    return same(number, found[0])


def _same(gold: Shape, answer: Shape) -> bool:
    if gold.kind == answer.kind == "value":
        return _same_values(gold, answer)
    if "relation" in (gold.kind, answer.kind):
        return _same_relations(gold, answer)
    if {gold.kind, answer.kind} == {"union", "list"}:
        return _same_sets(_as_union(gold), _as_union(answer))
    if gold.kind in ("list", "set") and answer.kind in ("list", "set"):
        repeated = gold.kind == answer.kind == "list"
        return _same_many(gold.parts, answer.parts) if repeated else _same_sets(gold, answer)
    if gold.kind != answer.kind:
        return _one_of_a_kind(gold, answer)
    if gold.kind == "tuple":
        return gold.text == answer.text and _same_rows(gold.parts, answer.parts)
    if gold.kind == "union":
        return _same_sets(gold, answer)
    return gold.text == answer.text and _same_matrices(gold, answer)


def _same_matrices(gold: Shape, answer: Shape) -> bool:
    """Matrices, row by row."""
    return len(gold.parts) == len(answer.parts) and all(
        _same_rows(one.parts, two.parts) for one, two in zip(gold.parts, answer.parts, strict=True)
    )


def _same_rows(gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
    return len(gold) == len(answer) and all(_same(one, two) for one, two in zip(gold, answer, strict=True))


def _same_many(gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
    """The same values in any order, each as often."""
    if len(gold) != len(answer):
        return False
    if len(gold) > _MOST_PARTS:
        return _same_rows(gold, answer)
    left = list(answer)
    for one in gold:
        place = next((place for place, two in enumerate(left) if _same(one, two)), None)
        if place is None:
            return False
        del left[place]
    return True


def _same_sets(gold: Shape | None, answer: Shape | None) -> bool:
    """Every part of one is in the other."""
    if gold is None or answer is None or max(len(gold.parts), len(answer.parts)) > _MOST_PARTS:
        return False
    return all(any(_same(one, two) for two in answer.parts) for one in gold.parts) and all(
        any(_same(one, two) for one in gold.parts) for two in answer.parts
    )


def _one_of_a_kind(gold: Shape, answer: Shape) -> bool:
    """Shapes that differ: {5} and 5 are one answer, and so are (1,2) and x=1, y=2."""
    for one, other in ((gold, answer), (answer, gold)):
        if one.kind in ("set", "list") and len(one.parts) == 1 and other.kind in ("value", "tuple"):
            return _same(one.parts[0], other) if one is gold else _same(other, one.parts[0])
        if one.kind == "list" and other.kind == "tuple" and other.text in ("()", "[]"):
            named = _named_parts(one)
            return named is not None and _same_rows(*((named, other.parts) if one is gold else (other.parts, named)))
    return False


def _named_parts(shape: Shape) -> tuple[Shape, ...] | None:
    """The values of x = 1, y = 2 by the order of the names."""
    found = {}
    for part in shape.parts:
        if part.kind != "relation" or part.signs != ("=",) or not name_of(part.parts[0]):
            return None
        found[name_of(part.parts[0])] = part.parts[1]
    return tuple(found[name] for name in sorted(found)) if len(found) == len(shape.parts) else None


def _same_values(gold: Shape, answer: Shape) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    decided = exact(gold.text, answer.text)
    if decided is not None:
        return decided
    if worded(gold.text) or worded(answer.text):
        return False
    return algebra.same(gold.text, answer.text)


def _same_relations(gold: Shape, answer: Shape) -> bool:
    if gold.kind != "relation" or answer.kind != "relation":
        return _same_as_relation(gold, answer)
    if _speaks(gold) or _speaks(answer):
        return gold.signs == answer.signs and _same_rows(gold.parts, answer.parts)
    if set(gold.signs) == {"="} and set(answer.signs) == {"="}:
        return _same_equations(gold, answer)
    first, second = _interval_of(gold), _interval_of(answer)
    if first is not None and second is not None and first[0] == second[0]:
        return _same(first[1], second[1])
    if len(gold.signs) != len(answer.signs):
        return False
    if len(gold.signs) == 1:
        return _same_inequalities(gold, answer)
    for signs, parts in (
        (answer.signs, answer.parts),
        (tuple(_FLIPPED.get(one, one) for one in answer.signs[::-1]), answer.parts[::-1]),
    ):
        if signs == gold.signs and _same_rows(gold.parts, parts):
            return True
    return False


def _speaks(relation: Shape) -> bool:
    """Whether words stand among its formulas (y = 2 when x = 1), so that no part may be passed over."""
    return any(part.kind == "value" and prose(part.text) for part in relation.parts[1:])


def _same_as_relation(gold: Shape, answer: Shape) -> bool:
    """One is a relation, the other is not: x = 5 and 5, x > 1 and (1, oo)."""
    relation, other = (gold, answer) if gold.kind == "relation" else (answer, gold)
    if relation is gold and _speaks(gold):
        return False
    if set(relation.signs) == {"="}:
        # A chain 6 * 7 = 42 in an answer ends in its value; a gold x + y = 5 is no 5.
        if relation is gold and not name_of(relation.parts[0]):
            return False
        if other.kind == "list" and relation.parts[-1].kind == "value":
            return False
        last = relation.parts[-1]
        return _same(last, answer) if relation is gold else _same(gold, last)
    interval = _interval_of(relation)
    if interval is None:
        return False
    if other.kind == "list":
        united = _as_union(other)
        return united is not None and _same_sets(_as_parts(interval[1]), united)
    return _same(interval[1], other) if relation is gold else _same(other, interval[1])


def _same_equations(gold: Shape, answer: Shape) -> bool:
    first, second = gold.parts, answer.parts
    names = name_of(first[0]), name_of(second[0])
    if all(names):
        if names[0] != names[1] and not _one_function(*names):
            return _proportional(gold, answer)
        if _same(first[-1], second[-1]):
            return True
        return names[0] == names[1] and first[-1].kind == second[-1].kind == "value" and _proportional(gold, answer)
    return _same_rows(first, second) or _proportional(gold, answer)


def _one_function(one: str, other: str) -> bool:
    """f(x) and f, not f(x) and g(x)."""
    return one.split("(")[0] == other.split("(")[0] and ("(" not in one or "(" not in other)


def _proportional(gold: Shape, answer: Shape) -> bool:
    sides = [(shape.parts[0], shape.parts[-1]) for shape in (gold, answer)]
    if any(side.kind != "value" for pair in sides for side in pair):
        return _same_rows(*sides) or _same_rows(sides[0], sides[1][::-1])
    texts = [(pair[0].text, pair[1].text) for pair in sides]
    return algebra.proportional(texts[0], texts[1], signed=False) != 0


def _same_inequalities(gold: Shape, answer: Shape) -> bool:
    sides = [*gold.parts, *answer.parts]
    if any(side.kind != "value" for side in sides):
        return gold.signs == answer.signs and _same_rows(gold.parts, answer.parts)
    sign = algebra.proportional((sides[0].text, sides[1].text), (sides[2].text, sides[3].text), signed=True)
    if sign == 0:
        return False
    wanted = answer.signs[0] if sign > 0 else _FLIPPED.get(answer.signs[0], "")
    return gold.signs[0] == wanted


def _interval_of(relation: Shape) -> tuple[str, Shape] | None:
    """(name, interval) of an inequality of one name: x < 2, 1 <= x < 2, x != 1 (a union)."""
    parts, signs = relation.parts, relation.signs
    if any(sign not in _FLIPPED for sign in signs):
        return None
    if len(signs) == 1:
        if name_of(parts[1]) and not name_of(parts[0]):
            parts, signs = parts[::-1], (_FLIPPED[signs[0]],)
        name = name_of(parts[0])
        if not name or parts[1].kind != "value" or name in re.findall(r"[A-Za-z]", parts[1].text):
            return None
        bound, high, low = parts[1], *_INFINITE
        return {
            "<": (name, Shape("tuple", "()", (low, bound))),
            "<=": (name, Shape("tuple", "(]", (low, bound))),
            ">": (name, Shape("tuple", "()", (bound, high))),
            ">=": (name, Shape("tuple", "[)", (bound, high))),
            "!=": (name, Shape("union", "", (Shape("tuple", "()", (low, bound)), Shape("tuple", "()", (bound, high))))),
        }.get(signs[0])
    if len(signs) == 2 and name_of(parts[1]):
        if all(sign in (">", ">=") for sign in signs):
            parts, signs = parts[::-1], tuple(_FLIPPED[sign] for sign in signs[::-1])
        if all(sign in ("<", "<=") for sign in signs):
            brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
            return name_of(parts[1]), Shape("tuple", brackets, (parts[0], parts[2]))
    return None


def _as_parts(shape: Shape) -> Shape:
    return shape if shape.kind == "union" else Shape("union", "", (shape,))


def _as_union(shape: Shape) -> Shape | None:
    """A union, from itself or from inequalities: x < 1 or x > 2."""
    if shape.kind == "union":
        return shape
    found = [_interval_of(part) if part.kind == "relation" else None for part in shape.parts]
    if not found or any(one is None for one in found) or len({one[0] for one in found if one}) > 1:
        return None
    return Shape("union", "", tuple(part for one in found if one for part in _as_parts(one[1]).parts))
