"""`modist score`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.cli.progress import counting
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.mixture import Experts
    from modist.mixture.score import Score

_JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Row:
    """One thing to score, and the line of the file it stands on."""

    line: int
    content: str | list[dict[str, str]]


def score_command(
    model: str = options.WHAT,
    file: Path = typer.Argument(help="JSON lines (.jsonl) with 'text' or 'messages'; any other file is one plain text."),
    gate: str = options.GATE,
    discount: float = options.DISCOUNT,
    stride: int = options.STRIDE,
    gate_prompt: bool = options.GATE_PROMPT,
    device: str = options.DEVICE,
    dtype: str = options.DTYPE,
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say how well the mixture, and each of its experts, predicts texts: nats a token and perplexity.

    Of a text the first token is context; of a chat the last message is scored, which must be the assistant's.
    """
    rows = read_rows(file)
    made_gate = options.make_gate(gate, discount, stride, gate_prompt)
    experts = options.load(model, device, dtype, trust_remote_code)
    from modist.mixture.score import score, together

    scores = []
    with counting("scoring", len(rows)) as advance:
        for index, row in enumerate(rows):
            try:
                scores.append(score(experts, row.content, made_gate, partial(_within, advance, index)))
            except UserError as error:
                raise UserError(f"{file}:{row.line}: {error}") from None
            advance(index + 1)
    total = together(scores)
    if as_json:
        found = _as_dict(experts, total)
        found["rows"] = [{"line": row.line, **_as_dict(experts, one)} for row, one in zip(rows, scores, strict=True)]
        print(json.dumps(options.finite(found)))
    else:
        _show(experts, total, len(rows), made_gate.kind)


def _within(advance: Any, done: int, share: float) -> None:
    advance(done + share)


def read_rows(file: Path) -> list[Row]:
    """What a file holds to score.

    Raises:
        UserError: it cannot be read, holds nothing, or a line is not as it must be (with its number).
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{file}: this is a folder; give a file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from None
    if file.suffix.lower() not in _JSON_LINES:
        if not text.strip():
            raise UserError(f"{file}: holds no text")
        return [Row(1, text)]
    # Not splitlines: a string of JSON may hold other line separators than \n.
    rows = [_row(file, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not rows:
        raise UserError(f"{file}: holds no rows")
    return rows


def _row(file: Path, number: int, line: str) -> Row:
    def wrong(what: str) -> UserError:
        return UserError(f"{file}:{number}: {what}")

    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise wrong(f"not JSON ({str(error)[:100]})") from None
    if not isinstance(data, dict):
        raise wrong(f"a row is an object with 'text' or 'messages', not {type(data).__name__}")
    given = [key for key in ("text", "messages") if key in data]
    if len(given) != 1:
        raise wrong(f"a row has either 'text' or 'messages'; found {' and '.join(given) or 'neither'}")
    if given == ["text"]:
        if not isinstance(data["text"], str):
            raise wrong(f"'text' must be a string, not {type(data['text']).__name__}")
        return Row(number, options.sound(data["text"], f"{file}:{number}: 'text'"))
    messages = data["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise wrong("'messages' must be a list of at least two messages, the last one the assistant's")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise wrong(f"messages[{place}] must have 'role' and 'content', both strings")
        options.sound(message["content"], f"{file}:{number}: messages[{place}]")
    if messages[-1]["role"] != "assistant":
        raise wrong(f"the last message must be the assistant's, not the {messages[-1]['role']}'s")
    return Row(number, messages)


def _as_dict(experts: Experts, one: Score) -> dict[str, Any]:
    columns: Sequence[Any] = (experts.names, experts.weights, one.experts, one.responsibilities)
    return {
        "tokens": one.tokens,
        "nats_per_token": one.nats_per_token,
        "perplexity": one.perplexity,
        "experts": [
            {"name": name, "weight": weight, "nats_per_token": nats, "responsibility": share}
            for name, weight, nats, share in zip(*columns, strict=True)
        ],
    }


def _show(experts: Experts, total: Score, rows: int, gate: str) -> None:
    import math

    from rich import box
    from rich.console import Console
    from rich.table import Table

    def perplexity(nats: float) -> str:
        return f"{math.exp(nats):.4g}" if nats < 700 else "inf"

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=box.SIMPLE)
    table.add_column("", overflow="fold")
    for heading in ("weight", "nats a token", "perplexity", "responsibility"):
        table.add_column(heading, justify="right")
    for name, weight, nats, share in zip(experts.names, experts.weights, total.experts, total.responsibilities, strict=True):
        table.add_row(name, f"{weight:g}", f"{nats:.4f}", perplexity(nats), f"{share:.1%}")
    if len(experts) > 1:
        table.add_section()
        mixture = "mixture" if gate == "static" else f"mixture, gate {gate}"
        table.add_row(mixture, "", f"{total.nats_per_token:.4f}", perplexity(total.nats_per_token), "")
    console.print(table)
    console.print(f"{total.tokens:,} tokens of {rows:,} text{'' if rows == 1 else 's'}")
    if len(experts) > 1:
        best = min(range(len(experts)), key=lambda index: total.experts[index])
        gain = total.experts[best] - total.nats_per_token
        what = "better" if gain >= 0 else "worse"
        console.print(f"the mixture is {abs(gain):.4f} nats a token {what} than its best expert, {experts.names[best]}")
