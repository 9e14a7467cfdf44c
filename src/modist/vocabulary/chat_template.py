"""Chat templates: those of a model's folder, those known by name, and whether one is a template at all.

The named ones are written anew from the published formats: ChatML (OpenAI), Llama 3 (Meta's model card), Mistral 7B Instruct's
card, Stanford Alpaca's prompt, EXAONE 3's card.  Nothing here renders a template; a recipe's is only parsed, in the sandboxed
environment that transformers renders it in.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import read_json
from modist.errors import CheckpointError, UserError, nearest

FILE = "chat_template.jinja"
AUTO = "auto"
NAMES = ("alpaca", "chatml", "exaone", "llama3", "mistral")
# Shorter texts without a brace are a name, misspelt.
_LONGEST_NAME = 40
_CONTROL = re.compile(r"<\|[A-Za-z0-9_]+\|>|\[\|[a-z]+\|\]|\[/?INST\]")


def folder_template(folder: Path) -> str | None:
    """A folder's chat template, from chat_template.jinja or tokenizer_config.json; of several, the default one.

    None where there is none that can be read.
    """
    path = folder / FILE
    try:
        if path.exists():
            return path.read_text(encoding="utf-8")
        config = folder / "tokenizer_config.json"
        template: Any = read_json(config).get("chat_template") if config.exists() else None
    except (OSError, UnicodeDecodeError, CheckpointError):
        return None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", next(iter(named.values()), None))
    return template if isinstance(template, str) else json.dumps(template) if template else None


def named_template(name: str) -> str:
    """One of NAMES."""
    return (files("modist.vocabulary") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def most_common(templates: Iterable[str | None]) -> str | None:
    """The template most models have, the first of equals; white space at either end does not count."""
    counted = Counter(text.strip() for text in templates if text and text.strip())
    return max(counted, key=counted.__getitem__) if counted else None


def check_template(text: str) -> None:
    """Whether a recipe's own text is a template.

    Raises:
        UserError: it is a name nobody knows, or does not parse (with the nearest name, or the line of the template); or jinja2,
            which parses it, is not installed.
    """
    if "{" not in text and len(text.strip()) <= _LONGEST_NAME:
        known = (AUTO, *NAMES)
        raise UserError(f"{text!r} is no template{nearest(text.strip().lower(), known)} (known: {', '.join(known)}, or Jinja)")
    if "{" not in text:
        raise UserError("the template has no {{ ... }}, so every chat would be the same text")
    try:
        from jinja2 import TemplateSyntaxError
    except ImportError:
        raise ImportError(
            "a chat template of the recipe's own is checked with jinja2: pip install 'modist[template]'"
        ) from None
    try:
        _environment().compile(text, raw=True)
    except TemplateSyntaxError as error:
        raise UserError(f"the template does not parse: {error.message} (line {error.lineno} of it)") from None
    except (RecursionError, ValueError, MemoryError) as error:
        raise UserError(f"the template does not parse: {str(error).splitlines()[0]}") from None


def control_tokens(template: str) -> list[str]:
    """What a template writes that looks like a special token (`<|im_start|>`, `[INST]`), each once."""
    return list(dict.fromkeys(_CONTROL.findall(template)))


def _environment() -> Any:
    """transformers' environment for chat templates, as far as parsing goes."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: marks what the assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
