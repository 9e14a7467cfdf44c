r"""LaTeX read by math-verify's parser, the fast way round.

The parser's grammar starts with a choice between relations, lists and sets, and looks ahead over the whole text to make it; a
single formula needs none of that.  And with the short lookahead (SLL) it takes a tenth of the time, but stumbles over a letter
with an index or an exponent alone: so indexed letters are read as unused ones, and x^2 as {x}^2.  What then still fails is read
the slow way.
"""

from __future__ import annotations

import re
import string
import warnings
from typing import Any

from modist.errors import UserError

_TOKEN = re.compile(r"(\\[A-Za-z]+)|([A-Za-z])(\s*_\s*(?:\{\s*[A-Za-z0-9]+\s*\}|[A-Za-z0-9]))?(?=(\s*\^)?)(?=(\s*\()?)")
_GREEK_POWER = re.compile(r"\\(pi|alpha|beta|gamma|delta|theta|lambda|mu|omega|sigma|rho|tau|phi)(?=\s*\^)")
# Letters that mean something of their own, or open a differential.
_TAKEN = frozenset("eidfghEICUNS")


def read(text: str, tidying: bool = True) -> Any:
    """A sympy expression, or a matrix; symbols keep their case.

    Args:
        text: one formula: no relation, no list.
        tidying: let the parser mend what is commonly written wrongly (\frac12, \\sqrt3).

    Raises:
        ValueError: it is none that the parser knows.
        RecursionError, MemoryError: it is a monster.
        UserError: math-verify is not installed.
    """
    try:
        from antlr4 import PredictionMode  # type: ignore[import-untyped]
        from latex2sympy2_extended import latex2sympy2 as reader
    except ImportError:
        raise UserError("grading formulas needs math-verify, which is not here: pip install 'modist[eval]'") from None
    if tidying:
        rules = reader.NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        )
        text = reader.normalize_latex(text, rules)
    simple, names = _simplified(text)
    try:
        found = _read(reader, simple, PredictionMode.SLL)
        return _renamed(found, names) if names else found
    except (RecursionError, MemoryError):
        raise
    except Exception:
        # The parser fails in as many ways as there are texts that are no formula.
        pass
    try:
        return _read(reader, text, PredictionMode.LL)
    except (RecursionError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(type(error).__name__) from None


def _read(reader: Any, text: str, mode: Any) -> Any:
    from antlr4 import Token

    config = reader.ConversionConfig(
        interpret_simple_eq_as_assignment=False, interpret_contains_as_eq=False, lowercase_symbols=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = reader._Latex2Sympy(config=config)
        parser = converter.create_parser(text)
        parser._interp.predictionMode = mode
        tree = parser.expr()
        if parser.getCurrentToken().type != Token.EOF:
            raise ValueError("not one formula")
        return converter.convert_expr(tree)


def _simplified(text: str) -> tuple[str, dict[str, str]]:
    """The text with unused letters for indexed ones and braces around the base of a power; letter -> what it stands for."""
    unused = [letter for letter in string.ascii_letters if letter not in text and letter not in _TAKEN]
    names: dict[str, str] = {}
    given: dict[str, str] = {}

    def put(found: re.Match[str]) -> str:
        command, letter, index, power, applied = found.groups()
        # p_Z(1) is the value of a function, whose name stays.
        if command or (index and applied):
            return str(found[0])
        if index:
            name = letter + "_" + re.sub(r"[\s_{}]", "", index)
            if name not in given:
                if not unused:
                    return str(found[0])
                given[name] = unused.pop()
                names[given[name]] = name
            letter = f" {given[name]} "
        # In braces, not brackets: \\pi (r)^2 would be the value of a function.
        return f"{{{letter}}}" if power and letter != "e" else letter

    return _GREEK_POWER.sub(r"{\\\1}", _TOKEN.sub(put, text)), names


def _renamed(found: Any, names: dict[str, str]) -> Any:
    from sympy import Symbol

    return found.xreplace({Symbol(letter): Symbol(name) for letter, name in names.items()})
