"""Plain formulas (`sqrt(2)/2`, `2**3`, `x*y`) read without running anything.

Python's parser makes a tree, which is walked by hand; sympy's own `parse_expr` would evaluate the text as Python.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "ln", "exp")
_CONSTANTS = {"pi": "pi", "E": "E", "I": "I", "oo": "oo"}


def read_plain(text: str) -> Any:
    """The sympy object of a formula whose size the caller has bounded; ValueError or SyntaxError where it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 2x is an "invalid decimal literal"
        tree = ast.parse(text, mode="eval")
    return _build(tree.body)


def _build(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return sympy.Integer(value) if isinstance(value, int) else sympy.Float(value)
        case ast.Name(id=name):
            return getattr(sympy, _CONSTANTS[name]) if name in _CONSTANTS else sympy.Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_build(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _build(inner)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combine(operator, _build(left), _build(right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return getattr(sympy, name)(_build(argument))
        case _:
            raise ValueError(f"no formula: {type(node).__name__}")


def _combine(operator: ast.operator, left: Any, right: Any) -> Any:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            return left**right
        case _:
            raise ValueError(f"no operator: {type(operator).__name__}")
