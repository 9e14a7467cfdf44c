"""A benchmark: questions with known answers, how they are asked and how the replies are graded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modist.errors import ModistError, UserError

Kind = Literal["math", "choice", "text", "code"]
KINDS: tuple[str, ...] = ("math", "choice", "text", "code")


class EvaluationError(ModistError):
    """An evaluation could not be finished, or what it left is damaged (exit status 1)."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        benchmark: the name of the benchmark it belongs to.
        id: unique in its benchmark and stable: the benchmark's name and the line in the file, counted from 0
            (`gsm8k-0007`); in a benchmark of several files the file too (`bbh-navigate-0007`).
        question: as asked, choices written out; the instruction how to answer is the prompt's, not the question's.
        gold: the right answer by the benchmark's rule, not yet normalised; of a code question, a solution.
        choices: the texts of (A), (B), ... where the answer is one of them.
        domain: the task or subject, where the rows say one.
        extra: of a code question, strings all three: `prompt` (the code a completion continues, or ""), `tests` (a script that
            raises when the solution above it is wrong) and `entry_point` (the function asked for, or "").
    """

    benchmark: str
    id: str
    question: str
    gold: str
    choices: tuple[str, ...] = ()
    domain: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shot:
    """A worked example shown before the question."""

    question: str
    answer: str


@dataclass(frozen=True)
class Benchmark:
    """Where questions come from, how they are asked, and how replies are graded.

    Attributes:
        name: the folder its rows lie in, or what a user called it.
        title: as tables print it.
        expected: how many items there must be; None where nobody said.
        source: where the rows come from, for people.
        kind: how replies are graded: `math`, `choice` (a letter), `text` (words) or `code` (tests are run).
        shots: how many worked examples go before the question.
        max_new_tokens: the most tokens of a reply.
        stop: strings that end a reply, beside those of the prompt style.
        completion_stop: in the `plain` style the same, where the prompt is code to go on with.
        prompt: the prompt style this benchmark wants, whatever the run's; None leaves it to the run.
        pattern: a regular expression (multi-line); group 1 of its last match is the answer.
        instruction: how to answer, as the `chat` and `plain` styles tell it; "" says nothing.
        examples: the worked examples, `shots` of them.
        split: `test`, or `development` for what may be tuned on and never goes in a table.
        files: where the rows are, relative to the data folder, first found; absolute for a user's own.
        read: the items of the file or folder found.
    """

    name: str
    title: str
    expected: int | None
    source: str
    kind: str
    shots: int = 0
    max_new_tokens: int = 2048
    stop: tuple[str, ...] = ()
    prompt: str | None = None
    pattern: str | None = None
    instruction: str = ""
    completion_stop: tuple[str, ...] = ()
    examples: tuple[Shot, ...] = field(default=(), repr=False)
    split: Literal["test", "development"] = "test"
    files: tuple[str, ...] = ()
    read: Callable[[Path, str], list[Item]] | None = field(default=None, repr=False, compare=False)

    def where(self, data: Path | None) -> Path | None:
        """The file or folder the rows are read from, or None where the data folder does not have them."""
        folder = data_folder(data)
        return next((folder / name for name in self.files if (folder / name).exists()), None)

    def items(self, data: Path | None) -> list[Item]:
        """All questions, in the order of the file.

        Args:
            data: a folder with `<name>/test.jsonl`, or with `math/<name>/test.jsonl`, `reasoning/bbh`, `code/humaneval`;
                None for the default, where `modist benchmarks download` puts them.  A user's own benchmark ignores it.

        Raises:
            UserError: the rows are not there (the message says how to get them), or a row is damaged (its line).
        """
        found = self.where(data)
        if found is None or self.read is None:
            raise UserError(self.missing(data))
        return self.read(found, self.name)

    def missing(self, data: Path | None) -> str:
        """What to tell a person whose data folder lacks this benchmark."""
        folder = data_folder(data)
        if any(Path(name).is_absolute() for name in self.files):
            return f"{self.name}: its rows are not there: {' or '.join(self.files)}"
        flag = f" --data {data}" if data is not None else ""
        return (
            f"{self.name}: its rows are not in {folder} (looked for {' and '.join(self.files)}); "
            f"get them with: modist benchmarks download {self.name}{flag}"
        )

    def digest(self, items: Sequence[Item]) -> str:
        """SHA-256 over ids, questions and golds, in order: what was asked, whatever file it came from."""
        found = hashlib.sha256()
        for item in items:
            found.update(json.dumps([item.id, item.question, item.gold]).encode() + b"\n")
        return found.hexdigest()

    def prompt_for(self, item: Item, style: str) -> str | list[dict[str, str]]:
        """What the model is asked: a text, or messages for its own chat template (`prompt.build`)."""
        from modist.evaluation.prompt import build

        return build(item, self, style)


def data_folder(data: Path | None = None) -> Path:
    """`data`, else $MODIST_DATA, else ~/.cache/modist/data."""
    if data is not None:
        return data
    named = os.environ.get("MODIST_DATA")
    return Path(named) if named else Path.home() / ".cache" / "modist" / "data"
