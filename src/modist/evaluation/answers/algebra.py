"""Whether two formulas are the same function: read by math-verify's parser, compared at points, else by math-verify itself.

Two formulas that agree at a dozen points to thirty digits are equal, but for a chance nobody will meet; and two that differ at
one point are not.  That takes a thousandth of the time of a symbolic proof, and it sees letters: 2t is not 2s.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from modist.evaluation.answers import latex
from modist.evaluation.answers.notation import flat, prose
from modist.evaluation.answers.quantity import DECIMALS, quantity

_DIGITS = 50
_POINTS = 11
_LONGEST_IDENTITY = 50
_NEVER = re.compile(
    r"\\(?:ldots|overline|angle|triangle|vec|hat|widehat|Rightarrow|rightarrow|to|begin|forall|exists|in|circ)(?![A-Za-z])"
    r"|[?@#&]"
)
_NAMES = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|pi|max|min|gcd|lcm"
_PLAIN_NAME = re.compile(rf"(?<![A-Za-z\\])({_NAMES})(?![A-Za-z])")
_CHOOSE = re.compile(r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}")
# fmt: off
_GREEK = frozenset((
    "alpha", "beta", "gamma", "delta", "varepsilon", "theta", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi",
    "varphi", "psi", "omega",
))
# fmt: on
_TRIG = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|\{[^{}]*\}|\([^()]*\)|(?<![A-Za-z\\])[A-Za-z])\s*\^\\circ")


def _mpmath() -> Any:
    import mpmath  # type: ignore[import-untyped]

    return mpmath


class Unsupported(Exception):
    """The evaluator at points does not know a part of the formula."""


def same(gold: str, answer: str) -> bool:
    """Whether two single values (no lists, no relations) are equal.  May take long, or fail, on monstrous input."""
    found = _ready(gold), _ready(answer)
    if found[0] is None or found[1] is None or not found[0] or not found[1]:
        return False
    letters = _written_letters(found[0]), _written_letters(found[1])
    # Letters may cancel, but nobody leaves a long formula like that: \sin^2 x + \cos^2 x for 1 is read, a page is not.
    if letters[0] != letters[1] and (all(letters) or max(len(found[0]), len(found[1])) > _LONGEST_IDENTITY):
        return False
    first, second = _parsed(found[0]), _parsed(found[1])
    if first is None or second is None:
        return False
    try:
        with _mpmath().workdps(_DIGITS):
            return _same_at_points(first, second, _decimals(gold), _decimals(answer))
    except Unsupported:
        return _verified(first, second)


def proportional(gold: tuple[str, str], answer: tuple[str, str], signed: bool) -> int:
    """1 or -1 if `left - right` of one is a constant times that of the other, by the constant's sign; 0 if it is not.

    `signed` False asks only for some constant, and also passes over a common denominator: x/y = 2 and x = 2y.
    """
    sides = [_ready(side) for side in (*gold, *answer)]
    if not all(sides):
        return 0
    parsed = [_parsed(str(side)) for side in sides]
    if any(side is None for side in parsed):
        return 0
    from sympy import Add, Mul, fraction, together

    differences = [Add(left, Mul(-1, right)) for left, right in (parsed[:2], parsed[2:])]
    try:
        with _mpmath().workdps(_DIGITS):
            sign = _ratio(*differences)
            if not sign and not signed:
                sign = _ratio(*(fraction(together(one.doit()))[0] for one in differences))
    except Unsupported:
        return 0
    return sign


def _written_letters(text: str) -> set[str]:
    """The variables, from the text: reading a formula takes milliseconds, and most wrong ones speak of other letters."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|mathbb|operatorname)(?![A-Za-z])", " ", text)
    named = {name for name in re.findall(r"\\([A-Za-z]+)", text) if name in _GREEK}
    return named | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", text))) - {"e", "i"}


def _ready(text: str) -> str | None:
    """The formula as the parser wants it, or None for what is no formula."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mathit|operatorname)\s*\{\s*([A-Za-z]{2,})\s*\}", _named, text)
    text = flat(text)
    if prose(_PLAIN_NAME.sub(" ", text)) or len(text) > 1500:
        return None
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _PLAIN_NAME.sub(lambda found: "\\" + found[1], text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = text.replace("**", "^").replace("*", r"\cdot ").replace(r"\lg", r"\log_{10}").replace("÷", "/").replace(r"\div", "/")
    text = re.sub(r"([A-Za-z])('+)", lambda found: f"{found[1]}_{{{'p' * len(found[2])}}}", text)
    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})" if _TRIG.search(text) else r"\1", text)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\\frac{\1}{100})", text)
    text = re.sub(r"^\s*\$|\$\s*$", "", text)
    if _NEVER.search(text) or re.search(r"[<>=$%]", text):
        return None
    return text.strip()


def _named(found: re.Match[str]) -> str:
    return f"\\{found[1]} " if re.fullmatch(_NAMES, found[1]) else f" {found[0]} "


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    from sympy import Expr

    try:
        found = latex.read(text)
    except ValueError:
        return None
    return found if isinstance(found, Expr) else None


def _decimals(text: str) -> int | None:
    number = quantity(text)
    return None if number is None else number.decimals


def _verified(first: Any, second: Any) -> bool:
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if _letters(first) != _letters(second):
        return False
    return bool(verify(first, second, timeout_seconds=None))


def _letters(formula: Any) -> set[str]:
    return {symbol.name for symbol in formula.free_symbols}


def _same_at_points(first: Any, second: Any, decimals: int | None, others: int | None) -> bool:
    mpmath = _mpmath()

    letters = sorted((_letters(first) | _letters(second)) - {"i"})
    tolerance = mpmath.mpf(10) ** (-11 if _has_floats(first) or _has_floats(second) else 8 - _DIGITS)
    real: list[tuple[bool, Any, Any]] = []
    complexes: list[tuple[bool, Any, Any]] = []
    for one, two in _values(first, second, letters):
        pair = (_agree(one, two, tolerance), one, two)
        (real if _is_real(one) and _is_real(two) else complexes).append(pair)
        if not letters:
            return (pair[0] and _exactly(first, second, one)) or _stands(one, two, decimals, others)
        if len(real) and not real[-1][0]:
            return False
    chosen = real if len(real) >= 3 else complexes + real
    if not chosen:
        raise Unsupported
    return all(agreed for agreed, _, _ in chosen)


def _exactly(first: Any, second: Any, value: Any) -> bool:
    """Integers too long for the digits compared are computed in full, if they can be."""
    mpmath = _mpmath()

    if not _is_real(value) or abs(value) < mpmath.mpf(10) ** (_DIGITS - 10):
        return True
    if abs(value) > mpmath.mpf(10) ** 5000:
        return False
    return bool((first.doit() - second.doit()).is_zero)


def _stands(one: Any, two: Any, decimals: int | None, others: int | None) -> bool:
    """A plain decimal of six decimals or more for a number that is not rational in sight: 1.414214 for \\sqrt{2}."""
    mpmath = _mpmath()

    shown = decimals if decimals is not None else others
    if (
        shown is None
        or (decimals is not None and others is not None)
        or shown < DECIMALS
        or not (_is_real(one) and _is_real(two))
    ):
        return False
    one, two = mpmath.re(one), mpmath.re(two)
    return bool(
        abs(one - two) * mpmath.mpf(10) ** min(shown, 10) <= 1 and abs(one - two) * 10**DECIMALS <= max(abs(one), abs(two))
    )


def _has_floats(formula: Any) -> bool:
    from sympy import Float

    return bool(formula.has(Float))


def _is_real(value: Any) -> bool:
    mpmath = _mpmath()

    return bool(abs(mpmath.im(value)) <= mpmath.mpf(10) ** (15 - _DIGITS) * (1 + abs(mpmath.re(value))))


def _agree(one: Any, two: Any, tolerance: Any) -> bool:
    size = max(abs(one), abs(two))
    # A difference of formulas that is zero keeps the noise of its parts.
    return bool(abs(one - two) <= tolerance * size or size < tolerance)


def _ratio(first: Any, second: Any) -> int:
    """The sign of first / second if that is one real number everywhere, else 0."""
    mpmath = _mpmath()

    letters = sorted((_letters(first) | _letters(second)) - {"i"})
    if _letters(first) != _letters(second):
        return 0
    tolerance = mpmath.mpf(10) ** (-10 if _has_floats(first) or _has_floats(second) else 10 - _DIGITS)
    found = None
    for one, two in _values(first, second, letters):
        if abs(one) < tolerance and abs(two) < tolerance:
            continue
        if abs(two) < tolerance or abs(one) < tolerance:
            return 0
        ratio = one / two
        if not _is_real(ratio) or (found is not None and not _agree(found, ratio, tolerance)):
            return 0
        found = ratio
    if found is None:
        return 0
    return 1 if mpmath.re(found) > 0 else -1


def _values(first: Any, second: Any, letters: Sequence[str]) -> Any:
    """Pairs of values at points; where either is undefined there is none."""
    mpmath = _mpmath()

    for point in _points(letters, _on_integers(first) or _on_integers(second)):
        try:
            one, two = evaluate(first, point), evaluate(second, point)
        except (ZeroDivisionError, OverflowError, ValueError):
            continue
        if mpmath.isfinite(one) and mpmath.isfinite(two):
            yield one, two


def _on_integers(formula: Any) -> bool:
    """Formulas in whole numbers, such as (-1)^n and \\lfloor n/2 \\rfloor, are compared there."""
    from sympy import Pow, ceiling, floor

    if formula.has(floor, ceiling):
        return True
    return any(power.base.is_number and power.base.is_negative and power.exp.free_symbols for power in formula.atoms(Pow))


def _points(letters: Sequence[str], whole: bool) -> list[dict[str, Any]]:
    mpmath = _mpmath()

    if not letters:
        return [{}]
    draw = random.Random("points")
    points = []
    for number in range(_POINTS):
        point = {}
        for place, letter in enumerate(letters):
            if whole:
                value = mpmath.mpf(1 + (number if not place else draw.randrange(12)))
            else:
                value = mpmath.mpf(draw.randrange(1, 10**9)) / 10**9 + (0 if number % 3 == 0 else draw.randrange(1, 4))
                # Signs tell |x| from x; logarithms and roots are compared where both sides are real.
                if number >= 6 and draw.random() < 0.7:
                    value = -value
            point[letter] = value
        points.append(point)
    return points


def _functions() -> dict[str, Callable[..., Any]]:
    m = _mpmath()

    return {
        "exp": m.exp,
        "sin": m.sin,
        "cos": m.cos,
        "tan": m.tan,
        "cot": m.cot,
        "sec": m.sec,
        "csc": m.csc,
        "asin": m.asin,
        "acos": m.acos,
        "atan": m.atan,
        "acot": m.acot,
        "sinh": m.sinh,
        "cosh": m.cosh,
        "tanh": m.tanh,
        "asinh": m.asinh,
        "acosh": m.acosh,
        "atanh": m.atanh,
        "Abs": abs,
        "floor": m.floor,
        "ceiling": m.ceil,
        "factorial": m.factorial,
        "gamma": m.gamma,
        "binomial": m.binomial,
        "log": lambda x, base=m.e: m.log(x) / m.log(base),
        "Max": max,
        "Min": min,
    }


def evaluate(formula: Any, point: dict[str, Any]) -> Any:
    """The value, an mpmath number.

    Raises:
        Unsupported: a part of the formula is none that this knows.
        ZeroDivisionError, ValueError: undefined at this point.
    """
    import sympy

    mpmath = _mpmath()

    if formula.is_Symbol:
        return mpmath.mpc(0, 1) if formula.name == "i" else point[formula.name]
    if formula.is_Rational:
        return mpmath.mpf(int(formula.p)) / int(formula.q)
    if formula.is_Float:
        # As written: a decimal of fifteen digits or fewer is exactly what it shows.
        return mpmath.mpf(str(sympy.Float(formula, 15)))
    constants = {sympy.pi: mpmath.pi, sympy.E: mpmath.e, sympy.I: mpmath.mpc(0, 1), sympy.GoldenRatio: mpmath.phi}
    if formula in constants:
        return +constants[formula]
    if not formula.args:
        raise Unsupported
    if formula.is_Pow or isinstance(formula, sympy.exp):
        base, exponent = formula.as_base_exp()
        return _power(evaluate(base, point), evaluate(exponent, point))
    if formula.is_Add or formula.is_Mul:
        parts = [evaluate(part, point) for part in formula.args]
        total = mpmath.mpf(0 if formula.is_Add else 1)
        for part in parts:
            total = total + part if formula.is_Add else total * part
        return total
    function = _functions().get(type(formula).__name__)
    if function is None:
        if isinstance(formula, sympy.UnevaluatedExpr):
            return evaluate(formula.args[0], point)
        raise Unsupported
    values = [evaluate(part, point) for part in formula.args]
    try:
        return function(*values)
    except (TypeError, NotImplementedError):
        raise Unsupported from None


def _power(base: Any, exponent: Any) -> Any:
    """A power; the odd root of a negative number is the real one, as in school."""
    mpmath = _mpmath()

    if isinstance(base, mpmath.mpf) and base < 0 and isinstance(exponent, mpmath.mpf) and abs(exponent) < 1000:
        fraction = Fraction(float(exponent)).limit_denominator(99)
        near = abs(exponent - mpmath.mpf(fraction.numerator) / fraction.denominator) < mpmath.mpf(10) ** (5 - _DIGITS)
        if near and fraction.denominator % 2 == 1 and fraction.denominator > 1:
            root = (-base) ** exponent
            return root if fraction.numerator % 2 == 0 else -root
    if base == 0 and mpmath.re(exponent) < 0:
        raise ZeroDivisionError
    if isinstance(exponent, mpmath.mpf) and abs(exponent) > 10**7:
        raise Unsupported
    return base**exponent
