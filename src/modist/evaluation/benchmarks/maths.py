"""The paper's twelve benchmarks (arXiv 2411.00406, Table 1): question and gold of each, as the published harness reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark, Item
from modist.evaluation.benchmarks.rows import Row, read_lines
from modist.evaluation.shots import STEM

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_QWEN = "QwenLM/Qwen2.5-Math a45202b, evaluation/data/{}/test.jsonl"

Part = Callable[[Row], str]


def mathematics() -> list[Benchmark]:
    """The twelve in Table 1's order, and GSM8K's training rows as a development split."""
    return [
        _declare("gsm8k", "GSM8K", 1319, _key("question"), _after_hashes),
        _declare(
            "math",
            "MATH",
            5000,
            _key("problem"),
            _boxed_solution,
            domain=_key("type"),
            source="ZubinGou/math-evaluation-harness db77bc6, data/math/test.jsonl",
        ),
        _declare("college_math", "College Math", 2818, _key("question"), _no_dollars, domain=_key("data_topic")),
        _declare("svamp", "SVAMP", 1000, _svamp_question, _key("Answer"), domain=_key("Type")),
        _declare("asdiv", "ASDiv", 2215, _asdiv_question, _no_unit, domain=_key("solution_type")),
        _declare("mawps", "MAWPS", 2065, _key("input"), _key("target"), domain=_key("type")),
        _declare("carp_en", "CARP En", 976, _key("content"), _key("answer")),
        _declare("gaokao2023en", "GaoKao 2023 En", 385, _key("question"), _no_dollars),
        _declare("olympiadbench", "OlympiadBench", 675, _key("question"), _first_final_answer, domain=_key("subfield")),
        _declare("mmlu_stem", "MMLU STEM", 3018, _stem_question, _stem_letter, domain=_key("type"), kind="choice"),
        _declare("aime24", "AIME24", 30, _key("question"), _key("answer")),
        _declare("amc23", "AMC23", 40, _key("question"), _key("answer")),
        _declare(
            "gsm8k-train",
            "GSM8K train",
            7473,
            _key("question"),
            _after_hashes,
            source="openai/grade-school-math, data/train.jsonl",
            files=("gsm8k/train.jsonl", "math/gsm8k/train.jsonl"),
            development=True,
        ),
    ]


def last_boxed(text: str) -> str | None:
    """What the last `boxed` of a text holds: to the matching brace (or the text's end), or up to a `$` where none opens."""
    _, found, rest = text.rpartition("boxed")
    if not found:
        return None
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:place]
    return rest[1:]


def stem_question(question: str, choices: tuple[str, ...]) -> str:
    """A question with its choices written out as the harness writes those of MMLU."""
    written = " ".join(f"({letter}) {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question.strip()}\nAnswer Choices: {written}"


def _declare(
    name: str,
    title: str,
    expected: int,
    question: Part,
    gold: Part,
    *,
    domain: Part | None = None,
    kind: str = "math",
    source: str | None = None,
    files: tuple[str, ...] | None = None,
    development: bool = False,
) -> Benchmark:
    def read(file: Path, name: str) -> list[Item]:
        return [
            Item(
                name,
                f"{name}-{row.index:04d}",
                question(row).strip(),
                gold(row).strip(),
                choices=row.texts("choices") if kind == "choice" else (),
                domain=domain(row) if domain else "",
            )
            for row in read_lines(file)
        ]

    return Benchmark(
        name,
        title,
        expected,
        source or _QWEN.format(name),
        kind,
        shots=len(STEM) if kind == "choice" else 0,
        examples=STEM if kind == "choice" else (),
        instruction=INSTRUCTION,
        split="development" if development else "test",
        files=files or (f"{name}/test.jsonl", f"math/{name}/test.jsonl"),
        read=read,
    )


def _key(key: str) -> Part:
    return lambda row: row.text(key)


def _after_hashes(row: Row) -> str:
    _, found, gold = row.text("answer").rpartition("####")
    if not found:
        raise row.error("'answer' has no ####")
    return gold


def _boxed_solution(row: Row) -> str:
    gold = last_boxed(row.text("solution"))
    if gold is None:
        raise row.error("'solution' has no \\boxed")
    return gold


def _no_dollars(row: Row) -> str:
    return row.text("answer").replace("$", "")


def _no_unit(row: Row) -> str:
    return re.sub(r"\(.*?\)", "", row.text("answer"))


def _first_final_answer(row: Row) -> str:
    answers = row.texts("final_answer")
    if not answers:
        raise row.error("'final_answer' is empty")
    return answers[0].strip("$")


def _svamp_question(row: Row) -> str:
    body = row.text("Body").strip()
    return f"{body if body.endswith('.') else body + '.'} {row.text('Question').strip()}"


def _asdiv_question(row: Row) -> str:
    return f"{row.text('body').strip()} {row.text('question').strip()}"


def _stem_question(row: Row) -> str:
    return stem_question(row.text("question"), row.texts("choices"))


def _stem_letter(row: Row) -> str:
    place, choices = row.get("answer"), row.texts("choices")
    if not isinstance(place, int) or not 0 <= place < len(choices):
        raise UserError(f"{row.where}: 'answer' must be a place among the {len(choices)} choices, not {place!r}")
    return LETTERS[place]
