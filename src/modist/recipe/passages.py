"""Rows of a data file: texts, or chats that end with the assistant's message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modist.errors import UserError


@dataclass(frozen=True)
class Passage:
    """One row of a data file.

    Attributes:
        place: `file:line`, for messages.
        content: a text, or a chat's messages, the last one the assistant's.
        domain: what the row says it is, or None.
    """

    place: str
    content: str | list[dict[str, str]]
    domain: str | None = None


def read_passages(file: Path) -> list[Passage]:
    """The rows of a JSONL file: objects with `text` or `messages`, and perhaps `domain`.

    Raises:
        UserError: the file cannot be read, holds no rows, or a line is not as it must be (with its number).
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    # Only \n ends a row: a JSON string may hold the other separators that splitlines knows.
    found = [_passage(f"{file}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise UserError(f"{file}: holds no rows, so there are no tokens to score")
    return found


def _passage(place: str, line: str) -> Passage:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({str(error)[:100]})") from None
    if not isinstance(row, dict) or ("text" in row) == ("messages" in row):
        raise UserError(f"{place}: a row is an object with either 'text' or 'messages'")
    domain = row.get("domain")
    if domain is not None and not isinstance(domain, str):
        raise UserError(f"{place}: 'domain' must be a string, not {json.dumps(domain)[:40]}")
    content = row["text"] if "text" in row else row["messages"]
    if "text" in row:
        if not isinstance(content, str):
            raise UserError(f"{place}: 'text' must be a string, not {json.dumps(content)[:40]}")
        said = [content]
    else:
        if not isinstance(content, list) or len(content) < 2:
            raise UserError(f"{place}: 'messages' must be a list of at least two, the last one the assistant's")
        for number, message in enumerate(content):
            if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise UserError(f"{place}: messages[{number}] must have 'role' and 'content', both strings")
        if content[-1]["role"] != "assistant":
            raise UserError(f"{place}: the last message must be the assistant's, not the {content[-1]['role']}'s")
        said = [message["content"] for message in content]
    try:
        "".join(said).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place}: holds half a character (a lone surrogate), which no tokenizer can read") from None
    return Passage(place, content, domain)
