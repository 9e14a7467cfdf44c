"""One answer as a run keeps it: a line of `answers.jsonl`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

FINISHED = ("stop", "length", "error")


@dataclass(frozen=True)
class Record:
    """What a model answered to one question, and what the graders made of it.

    Attributes:
        benchmark: its name.
        id: the question's, unique in its benchmark.
        sample: 0 to samples - 1.
        batch: which of the plan's batches it was answered in.
        prompt: what the model saw.
        output: what it answered, whole.
        finish_reason: "stop", "length" (the token limit ended it) or "error" (there is no answer; the reason is in `note`).
        tokens: generated ones.
        prompt_tokens: of the prompt.
        seconds: this answer's share of its batch's time.
        gold: the right answer.
        extracted: the span that the default grader judged.
        extracted_compatible: the same of the published rules.
        equal: whether the default grader calls it right; an error never is.
        equal_compatible: whether the published rules do.
        note: "", or what went wrong: "time limit", "too long", an endpoint's words.
        domain: the question's task or subject, where its rows say one.
    """

    benchmark: str
    id: str
    sample: int
    batch: int
    prompt: str
    output: str
    finish_reason: str
    tokens: int
    prompt_tokens: int
    seconds: float
    gold: str
    extracted: str
    extracted_compatible: str
    equal: bool
    equal_compatible: bool
    note: str = ""
    domain: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What a plan calls it: benchmark, id, sample."""
        return self.benchmark, self.id, self.sample

    @property
    def failed(self) -> bool:
        """Whether there is no answer at all."""
        return self.finish_reason == "error"

    def line(self) -> bytes:
        """One line of JSON, ASCII (an output may hold half a character, and any line separator), with its newline."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


_TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}
_FIELDS = {field.name: _TYPES[str(field.type)] for field in fields(Record)}


def read_record(line: bytes) -> Record:
    """The record of a line.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:100]})") from None
    if not isinstance(data, dict):
        raise ValueError(f"an answer is an object, not {type(data).__name__}")
    missing, strange = sorted(set(_FIELDS) - set(data)), sorted(set(data) - set(_FIELDS))
    if missing or strange:
        raise ValueError(f"no {missing[0]!r} in it" if missing else f"{strange[0]!r} does not belong in it")
    for name, kind in _FIELDS.items():
        value = data[name]
        # A bool is an int to Python.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name!r} is {str(value)[:40]!r}, which it cannot be")
    if data["finish_reason"] not in FINISHED:
        raise ValueError(f"'finish_reason' is {data['finish_reason'][:40]!r}; known are {', '.join(FINISHED)}")
    if min(data["sample"], data["batch"], data["tokens"], data["prompt_tokens"]) < 0:
        raise ValueError("a count in it is negative")
    return Record(**data)
