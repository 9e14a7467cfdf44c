"""The last of the published equality rules: two answers as formulas.

The published grader tries sympy's `parse_latex`, then `parse_expr`, then a copy of latex2sympy2.  The first needs a version of
antlr that math-verify does not want, the second runs what it reads as Python, so here latex2sympy2_extended reads LaTeX and a
parser of ours, which runs nothing, reads what is left (`sqrt(2)`, `2**3`).  Known to differ: where `parse_latex` stopped
without complaint at a character it did not know, we follow it for the comma only, and otherwise call the formula unreadable.

Answers are hostile until shown otherwise: `measure` bounds length, digits, powers and factorials before anything is computed,
and what still takes long is given up after `SECONDS` (in a main thread, which worker processes have).
"""

from __future__ import annotations

import cmath
import re
import warnings
from functools import cache, lru_cache
from typing import Any

from modist.errors import UserError
from modist.evaluation.answers.compatible.deadline import Late, deadline
from modist.evaluation.answers.compatible.plain import read_plain
from modist.evaluation.answers.compatible.size import fits
from modist.evaluation.answers.latex import read

SECONDS = 3.0
_TOLERANCE = 1e-4
_READABLE = re.compile(r"[\w\s+\-*/^(){}\[\].,=<>!|\\&%':]*\Z", re.ASCII)
_FRACTION = re.compile(r"(-?)(?:\\frac\{(\d{1,60})\}\{(\d{1,60})\}|(\d{1,60})(?:/(\d{1,60}))?)\Z", re.ASCII)
# Neither sense nor a bounded price: what these words start is not read.
_REFUSED = re.compile(r"\\(?:pm|mp|input|include|def|lim|int|oint|iint|sum|prod|overline|dot|ddot)(?![a-zA-Z])")
# No product of letters that anybody writes, and long to read as one.
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{12,}")
# A parser of one formula is several times quicker; it knows no relations, whose two sides are read apart.
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|leq|geq|neq|lt|gt|in|approx)(?![a-zA-Z])")
_SIGNS = {"=": "Eq", "<": "Lt", ">": "Gt", "\\le": "Le", "\\ge": "Ge", "\\ne": "Ne"}


def same(first: str, second: str, bugs: bool = True) -> bool:
    """Whether two normalised answers are one formula; False also where either cannot be read or time runs out."""
    _need()
    try:
        with deadline(SECONDS):
            return _same(first, second, bugs)
    except Late:
        return False


@cache
def _need() -> None:
    """UserError where the libraries are missing: later, that would look like a formula nobody can read."""
    try:
        import latex2sympy2_extended.latex2sympy2  # noqa: F401
    except ImportError:
        raise UserError("grading formulas needs math-verify, which is not here: pip install 'modist[eval]'") from None


def _same(first: str, second: str, bugs: bool) -> bool:
    one, two = _read(first, bugs), _read(second, bugs)
    if one is None or two is None:
        return False
    if any(getattr(side, "is_Relational", False) for side in (one, two)):
        return _holds(_same_relation, one, two)
    near = _near if bugs else _very_near
    if _holds(_identical, one, two) or _holds(near, one, two):
        return True
    # The published order is kept but for this: a place where they differ saves the search for a proof that they do not.
    if _holds(_differ, one, two):
        return False
    return any(_holds(rule, one, two) for rule in (_equivalent, _simplified, _same_matrix))


def _holds(rule: Any, one: Any, two: Any) -> bool:
    """Whether a rule says so; sympy's objections count as no."""
    try:
        return rule(one, two) is True
    except (Exception, RecursionError):
        return False


def opposite_or_same(first: str, second: str, bugs: bool = True) -> bool:
    """Whether two differences (left side minus right side) are equal but for the sign: one equation, or not."""
    return same(first, second, bugs) or same(f"-({first})", second, bugs)


@lru_cache(maxsize=512)
def _read(text: str, bugs: bool) -> Any:
    """A sympy object, or None."""
    if bugs:
        text = _before_comma(text)
    elif re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", text):
        return None  # a word is not the product of its letters
    text = text.replace("{}", " ")
    if fraction := _FRACTION.match(text):
        return _ratio(fraction[1] + (fraction[2] or fraction[4]), fraction[3] or fraction[5] or "1")
    if not text or not _READABLE.match(text) or _REFUSED.search(text) or _PROSE.search(text) or not fits(text):
        return None
    try:
        return _from_latex(text, mixed=not bugs)
    except Exception:
        pass
    try:
        return read_plain(text)
    except Exception:
        return None


def _ratio(top: str, bottom: str) -> Any:
    """Most formulas are no more than that, and LaTeX takes long to read."""
    import sympy

    return sympy.Rational(top, bottom) if int(bottom) else None


def _from_latex(text: str, mixed: bool) -> Any:
    import sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    if not mixed:
        # latex2sympy2_extended reads 3\frac{1}{2} as 7/2 whatever its options say; parse_latex made a product of it.
        text = re.sub(r"(?<=\d)\\frac", r"\\cdot\\frac", text)
    relations = _RELATION.findall(text)
    if not relations:
        return _formula(read(text, tidying=False))
    if len(relations) > 1:
        raise ValueError("a chain of relations, which none of the published parsers reads")
    if relations[0] in _SIGNS:
        left, right = (_formula(read(side, tidying=False)) for side in text.split(relations[0]))
        return getattr(sympy, _SIGNS[relations[0]])(left, right, evaluate=False)
    config = ConversionConfig(
        interpret_simple_eq_as_assignment=False,
        interpret_contains_as_eq=False,
        lowercase_symbols=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _formula(latex2sympy(text, normalization_config=None, conversion_config=config))


def _formula(found: Any) -> Any:
    """What was read, if it is an expression, a relation or a matrix; ValueError otherwise."""
    import sympy

    if not isinstance(found, sympy.Basic | sympy.MatrixBase) or isinstance(found, sympy.Set):
        # Intervals and sets are compared element by element before this, or not at all.
        raise ValueError("not a formula")
    return found


def _before_comma(text: str) -> str:
    """What stands before the first comma outside brackets: there the published parser stops reading."""
    depth = 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            return text[:place]
    return text


def _identical(one: Any, two: Any) -> bool:
    return bool(one == two) or str(one) == str(two)


def _differ(one: Any, two: Any) -> bool:
    """Whether two expressions have different values where every letter has a value of its own, between 0 and 3."""
    letters = sorted(one.free_symbols | two.free_symbols, key=str)
    values = {letter: 0.3137 + 2.6 * ((place + 1) * 0.6180339887 % 1) for place, letter in enumerate(letters)}
    first, second = complex(one.evalf(15, subs=values)), complex(two.evalf(15, subs=values))
    if not (cmath.isfinite(first) and cmath.isfinite(second)):
        return False
    return abs(first - second) > 1e-3 * max(abs(first), abs(second), 1e-3)


def _equivalent(one: Any, two: Any) -> bool:
    return bool(one.equals(two) is True)


def _simplified(one: Any, two: Any) -> bool:
    import sympy

    return bool(sympy.simplify(one - two) == 0)


def _same_relation(one: Any, two: Any) -> bool:
    """One relation, its sides moved about; of equations also their signs."""
    import sympy

    if not (one.is_Relational and two.is_Relational and one.func == two.func):
        return False
    left, right = one.lhs - one.rhs, two.lhs - two.rhs
    signs = (1, -1) if one.func == sympy.Eq else (1,)
    return any(not _holds(_differ, left, sign * right) and left.equals(sign * right) is True for sign in signs)


def _near(one: Any, two: Any) -> bool:
    return _within(one, two, _TOLERANCE)


def _very_near(one: Any, two: Any) -> bool:
    return _within(one, two, 1e-9)


def _within(one: Any, two: Any, tolerance: float) -> bool:
    if one.free_symbols or two.free_symbols:
        return False  # it would say so itself, after a long search for a real and an imaginary part
    first, second = complex(one.evalf()), complex(two.evalf())
    if not (cmath.isfinite(first) and cmath.isfinite(second)):
        return False
    return abs(first - second) <= tolerance * max(abs(first), abs(second))


def _same_matrix(one: Any, two: Any) -> bool:
    """Rounded to three places."""
    if one.shape != two.shape:
        return False
    return all(abs(complex(a) - complex(b)) < 0.5e-3 for a, b in zip(one, two, strict=True))
