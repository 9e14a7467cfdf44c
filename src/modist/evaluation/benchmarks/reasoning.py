"""BIG-Bench Hard: 27 tasks, whose answers are a letter, a word, a number or a line of words."""

from __future__ import annotations

import re
from pathlib import Path

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark, Item
from modist.evaluation.benchmarks.rows import read_list

# Ours: the published three-shot prompts are not in the data, and zero-shot is how the rest of the table is asked.
INSTRUCTION = (
    "Think step by step. Then end with one line of the form: The answer is X. "
    'Where options are listed with letters, X is the letter in brackets, as in "The answer is (A)."; '
    "otherwise X is the bare answer, in the words the question uses."
)
TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
_OPTION = re.compile(r"^\([A-Z]\) (.*)$", re.MULTILINE)


def reasoning() -> list[Benchmark]:
    return [
        Benchmark(
            "bbh",
            "BIG-Bench Hard",
            6511,
            "suzgunmirac/BIG-Bench-Hard, bbh/*.json",
            "text",
            instruction=INSTRUCTION,
            max_new_tokens=1024,
            files=("bbh", "reasoning/bbh"),
            read=_read,
        )
    ]


def _read(folder: Path, name: str) -> list[Item]:
    lacking = [task for task in TASKS if not (folder / f"{task}.json").is_file()]
    if lacking:
        raise UserError(f"{folder}: {len(lacking)} of the {len(TASKS)} tasks are not there, among them {lacking[0]}.json")
    return [item for task in TASKS for item in _read_task(folder / f"{task}.json", name, task)]


def _read_task(file: Path, name: str, task: str) -> list[Item]:
    found = []
    for row in read_list(file, "examples"):
        question = row.text("input").strip()
        options = tuple(text.strip() for text in _OPTION.findall(question))
        found.append(Item(name, f"{name}-{task}-{row.index:04d}", question, row.text("target").strip(), options, task))
    return found
