"""A YAML file with the line of every key, so that an error can say where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modist.errors import RecipeError

Key = str | int
MAX_BYTES = 1 << 20
MAX_NODES = 100_000


@dataclass(frozen=True)
class Document:
    """Plain data read from YAML, and where each part of it stands.

    Attributes:
        name: the file as the user named it.
        text: the file, verbatim.
        data: mappings, lists and scalars only.
        lines: path of keys -> line, counted from 1.
    """

    name: str
    text: str
    data: Any
    lines: dict[tuple[Key, ...], int] = field(repr=False)

    def where(self, *path: Key) -> str:
        """`file:line: a.b[0]` for a path of keys; the nearest enclosing line where the path itself has none."""
        known = path
        while known not in self.lines and known:
            known = known[:-1]
        dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        return f"{self.name}:{self.lines.get(known, 1)}:" + (f" {dotted}:" if dotted else "")

    def error(self, message: str, *path: Key) -> RecipeError:
        return RecipeError(f"{self.where(*path)} {message}")


def short(value: object) -> str:
    """A value as an error quotes it: at most some 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:56]} ..."


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        RecipeError: the file is missing, not text, not YAML, too large, or repeats a key.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{name}: there is no such recipe") from None
    except IsADirectoryError:
        raise RecipeError(f"{name}: this is a folder; a recipe is a YAML file") from None
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES >> 20} MiB, which no recipe is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: not UTF-8 text (byte {error.start})") from None
    return parse_document(text, name)


def parse_document(text: str, name: str = "recipe") -> Document:
    """The same for YAML that is already in memory; `name` stands for the file in errors."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise RecipeError(f"{name}: empty; a recipe names models and a merge_method, or experts and weights")
        lines: dict[tuple[Key, ...], int] = {}
        _walk(root, (), lines, name)
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{name}:{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise RecipeError(f"{name}: nested too deeply") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's constructors raise nearly anything for a tag that its value does not fit (`!!int ''`, `!!timestamp x`).
        raise RecipeError(f"{name}: not a value YAML can hold: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return Document(name, text, data, lines)


def _walk(node: yaml.Node, path: tuple[Key, ...], lines: dict[tuple[Key, ...], int], name: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MAX_NODES:
        raise RecipeError(f"{name}: more than {MAX_NODES} values once its aliases are followed")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{name}:{line}: a key must be a word, not a list or a mapping")
            if key.value in seen:
                raise RecipeError(f"{name}:{line}: {key.value!r} is given twice")
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _walk(value, (*path, key.value), lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, name)
