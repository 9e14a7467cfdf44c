"""`modist grade`."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer

from modist.cli.progress import counting
from modist.errors import UserError, nearest

_KINDS = ("math", "choice", "text")
_BATCH = 512
_MOST_LISTED = 20
_ADDED = ("equal", "equal_compatible", "extracted", "extracted_compatible", "note")


@dataclass
class Totals:
    """What the last lines on stderr say."""

    rows: int = 0
    equal: int = 0
    compatible: int = 0
    disagreements: list[str] | None = None
    differ: int = 0
    notes: int = 0


def grade_command(
    file: Path = typer.Argument(
        metavar="FILE", help="JSON lines with 'gold' and 'answer' (a whole output or a bare answer); - reads from stdin."
    ),
    kind: str = typer.Option("math", "--kind", help="How rows without a 'kind' are graded: math, choice or text."),
    workers: int = typer.Option(1, "--workers", min=1, help="Grading processes."),
    seconds: float = typer.Option(5.0, "--seconds", help="Time limit for an answer; past it, the answer is not equal."),
) -> None:
    """Grade answers against golds, by two graders: ours, and the published harness's rules.

    Each row is printed again, in order, with `equal`, `equal_compatible`, `extracted` and `extracted_compatible` (and `note`
    where something went wrong); totals, and the rows the graders disagree about, are on stderr. A row may also have `kind`,
    `choices` (a list of texts) and `pattern`.
    """
    from modist.evaluation.answers.grade import Graders

    _known_kind(kind, "--kind")
    totals = Totals(disagreements=[])
    with _opened(file) as (lines, name):
        count = sum(1 for _ in _rows(lines, name, kind))
        if not count:
            raise UserError(f"{name}: holds no rows")
        lines.seek(0)
        with Graders(workers, seconds) as graders, counting("grading", count, printing=True) as advance:
            batch: list[tuple[int, dict[str, Any]]] = []
            for row in _rows(lines, name, kind):
                batch.append(row)
                if len(batch) == _BATCH:
                    _grade(graders, batch, kind, totals, advance)
                    batch = []
            _grade(graders, batch, kind, totals, advance)
    _tell(totals)


def _grade(graders: Any, batch: list[tuple[int, dict[str, Any]]], kind: str, totals: Totals, advance: Any) -> None:
    jobs = [
        (_text(row["gold"]), _text(row["answer"]), row.get("kind") or kind, tuple(row.get("choices") or ()), row.get("pattern"))
        for _, row in batch
    ]
    before = totals.rows
    for (line, row), found in zip(batch, graders.grade(jobs, lambda done: advance(before + done)), strict=True):
        # What an earlier run of this command added is not carried along.
        row = {key: value for key, value in row.items() if key not in _ADDED}
        row |= {
            "equal": found.equal,
            "equal_compatible": found.equal_compatible,
            "extracted": found.extracted,
            "extracted_compatible": found.extracted_compatible,
        }
        if found.note:
            row["note"] = found.note
        print(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8"))
        totals.rows += 1
        totals.equal += found.equal
        totals.compatible += found.equal_compatible
        totals.notes += bool(found.note)
        if found.equal != found.equal_compatible:
            totals.differ += 1
            if totals.disagreements is not None and len(totals.disagreements) < _MOST_LISTED:
                words = ("equal" if found.equal else "not equal", "equal" if found.equal_compatible else "not equal")
                gold, said = _shown(_text(row["gold"])), _shown(found.extracted)
                totals.disagreements.append(f"  line {line}: gold {gold}, answer {said}: {words[0]}, compatible {words[1]}")
    sys.stdout.flush()


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _tell(totals: Totals) -> None:
    share = 100 / totals.rows
    say = sys.stderr.write
    say(f"rows              {totals.rows:,}\n")
    say(f"equal             {totals.equal:,} ({totals.equal * share:.1f}%)\n")
    say(f"equal_compatible  {totals.compatible:,} ({totals.compatible * share:.1f}%)\n")
    say(f"disagreements     {totals.differ:,}\n")
    for line in totals.disagreements or ():
        say(line + "\n")
    if totals.differ > _MOST_LISTED:
        say(f"  and {totals.differ - _MOST_LISTED:,} more\n")
    if totals.notes:
        say(f"with a note       {totals.notes:,}\n")


@contextmanager
def _opened(file: Path) -> Iterator[tuple[IO[bytes], str]]:
    """The file, which is read twice; stdin is kept in a temporary file for that."""
    if str(file) == "-":
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as kept:
            while block := sys.stdin.buffer.read(1 << 20):
                kept.write(block)
            kept.seek(0)
            yield kept, "stdin"
        return
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{file}: this is a folder; give a file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    with opened:
        if opened.seekable():
            yield opened, str(file)
            return
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as kept:
            while block := opened.read(1 << 20):
                kept.write(block)
            kept.seek(0)
            yield kept, str(file)


def _rows(lines: IO[bytes], name: str, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, _row(f"{name}:{number}", line, kind)


def _row(place: str, line: bytes, kind: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({str(error)[:100]})") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row is an object with 'gold' and 'answer', not {type(row).__name__}")
    for key in ("gold", "answer"):
        if key not in row:
            raise UserError(f"{place}: there is no {key!r}{nearest(key, row)}")
        if not isinstance(row[key], (str, int, float)) or isinstance(row[key], bool):
            raise UserError(f"{place}: {key!r} must be a string, not {type(row[key]).__name__}")
    if row.get("kind") is not None:
        _known_kind(row["kind"], f"{place}: 'kind'")
    choices = row.get("choices")
    if choices is not None and (not isinstance(choices, list) or not all(isinstance(one, str) for one in choices)):
        raise UserError(f"{place}: 'choices' must be a list of strings")
    if choices and len(choices) > 10:
        raise UserError(f"{place}: {len(choices)} choices: at most 10, (A) to (J)")
    pattern = row.get("pattern")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise UserError(f"{place}: 'pattern' must be a string, not {type(pattern).__name__}")
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise UserError(f"{place}: 'pattern': {error}") from None
        if groups < 1:
            raise UserError(f"{place}: 'pattern': {pattern!r} has no group; the answer is the last match's group 1")
    return row


def _known_kind(kind: Any, place: str) -> None:
    if kind == "code":
        raise UserError(f"{place}: code is graded by running it: modist eval --execute-code")
    if kind not in _KINDS:
        raise UserError(f"{place}: there is no kind {kind!r}; one of {', '.join(_KINDS)}{nearest(str(kind), _KINDS)}")


def _text(value: str | int | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)
