"""A generator by its kind's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from modist.errors import UserError, nearest
from modist.evaluation.generators.generator import Generator

_KINDS = {
    "transformers": "TransformersGenerator",
    "mixture": "MixtureGenerator",
    "openai": "OpenAIGenerator",
    "vllm": "VllmGenerator",
}
KINDS = tuple(_KINDS)


def options_of(kind: str) -> tuple[str, ...]:
    """The options a kind of generator takes; UserError where there is no such kind."""
    return tuple(name for name in inspect.signature(_maker(kind)).parameters if name != "model")


def open_generator(kind: str, model: str, **options: Any) -> Generator:
    """A generator ready to answer.

    Args:
        kind: "transformers", "mixture", "openai" or "vllm".
        model: A folder, hub id, recipe, or an endpoint's name for it.
        **options: Of that kind (`options_of`); those that are None are taken as left out.

    Raises:
        UserError: no such kind, an option it does not take, and what the kind itself raises.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = options_of(kind)
    for name in given:
        if name in known:
            continue
        others = [other for other in KINDS if other != kind and name in options_of(other)]
        if others:
            raise UserError(f"{name} is an option of the {' and the '.join(others)} generator, not of {kind}")
        raise UserError(f"the {kind} generator has no option {name!r}{nearest(name, known)}; it takes {', '.join(known)}")
    found: Generator = _maker(kind)(model, **given)
    return found


def _maker(kind: str) -> Callable[..., Any]:
    if kind not in _KINDS:
        raise UserError(f"there is no generator {kind!r}{nearest(kind, KINDS)}; one of {', '.join(KINDS)}")
    found: Callable[..., Any] = getattr(import_module(f"modist.evaluation.generators.{kind}"), _KINDS[kind])
    return found
