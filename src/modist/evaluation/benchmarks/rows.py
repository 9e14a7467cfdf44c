"""Rows of benchmark files, with the line each stands on, so that an error can say where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import UserError, nearest


@dataclass(frozen=True)
class Row:
    """One object of a file.

    Attributes:
        data: its keys and values.
        index: which row it is, counted from 0.
        where: `file:line`, for errors.
    """

    data: Mapping[str, Any]
    index: int
    where: str

    def error(self, message: str) -> UserError:
        return UserError(f"{self.where}: {message}")

    def get(self, key: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.data:
            raise self.error(f"no key {key!r}{nearest(key, self.data) or '; there are ' + ', '.join(map(repr, self.data))}")
        return self.data[key]

    def text(self, key: str) -> str:
        """The value as text: a string as it is, a number as people write it (`145.0` is 145), true and false as Python does."""
        value = self.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, (str, int, float)):
            raise self.error(f"{key!r} must be a text or a number, not {_named(value)}")
        return str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """The value as a list of texts."""
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(one, (str, int, float)) for one in value):
            raise self.error(f"{key!r} must be a list of texts, not {_named(value)}")
        return tuple(str(one) for one in value)


def _named(value: object) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), type(value).__name__)


def read_lines(file: Path) -> list[Row]:
    """The rows of a file of JSON lines.

    Raises:
        UserError: it cannot be read, holds no rows, or a line is not a JSON object (with its number).
    """
    found: list[Row] = []
    # Not splitlines: a string of JSON may hold other line separators than \n.
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            found.append(_row(_json(line, f"{file}:{number}"), len(found), f"{file}:{number}"))
    if not found:
        raise UserError(f"{file}: holds no rows")
    return found


def read_list(file: Path, key: str | None = None) -> list[Row]:
    """The rows of a file that is one JSON list, or an object with such a list under `key`."""
    data = _json(_text(file), str(file))
    if key is not None:
        data = _row(data, 0, str(file)).get(key)
    if not isinstance(data, list) or not data:
        raise UserError(f"{file}: must hold a list of rows" + (f" under {key!r}" if key else ""))
    return [_row(row, index, f"{file}: row {index}") for index, row in enumerate(data)]


def _row(data: object, index: int, where: str) -> Row:
    if not isinstance(data, dict):
        raise UserError(f"{where}: a row is an object, not {_named(data)}")
    return Row(data, index, where)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({str(error)[:100]})") from None


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{file}: this is a folder; give a file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from None
