"""HumanEval and sanitized MBPP: a reply is a program, and the benchmark's own tests say whether it is right.

`Item.extra["tests"]` is a whole script to run below the program; it raises where the program is wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

from modist.evaluation.benchmark import Benchmark, Item
from modist.evaluation.benchmarks.rows import read_lines, read_list

HUMANEVAL = "Complete the Python function below. Reply with the whole function, its imports included, in one ```python block."
MBPP = "Write the Python function that is asked for, and nothing that runs by itself. Reply with one ```python block."
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def programs() -> list[Benchmark]:
    return [
        Benchmark(
            "humaneval",
            "HumanEval",
            164,
            "openai/human-eval, data/HumanEval.jsonl.gz (unpacked)",
            "code",
            max_new_tokens=1024,
            instruction=HUMANEVAL,
            # Where the function that is completed has ended.
            completion_stop=("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\nassert "),
            files=("humaneval/test.jsonl", "code/humaneval/test.jsonl"),
            read=_humaneval,
        ),
        Benchmark(
            "mbpp",
            "MBPP",
            427,
            "google-research/google-research, mbpp/sanitized-mbpp.json",
            "code",
            max_new_tokens=1024,
            instruction=MBPP,
            files=("mbpp/sanitized-mbpp.json", "code/mbpp/sanitized-mbpp.json"),
            read=_mbpp,
        ),
    ]


def _humaneval(file: Path, name: str) -> list[Item]:
    found = []
    for row in read_lines(file):
        prompt, entry = row.text("prompt"), row.text("entry_point")
        extra = {"prompt": prompt, "tests": f"{row.text('test')}\ncheck({entry})\n", "entry_point": entry}
        gold = prompt + row.text("canonical_solution")
        found.append(Item(name, f"{name}-{row.index:04d}", f"```python\n{prompt.strip()}\n```", gold, extra=extra))
    return found


def _mbpp(file: Path, name: str) -> list[Item]:
    found = []
    for row in read_list(file):
        tests = row.texts("test_list")
        script = "\n".join((*row.texts("test_imports"), *tests)) + "\n"
        # The question alone does not say what the function is called; the first test does, as the set's authors meant.
        question = f"{row.text('prompt').strip()}\nIt must pass these tests:\n```python\n{chr(10).join(tests)}\n```"
        gold = row.text("code")
        extra = {"prompt": "", "tests": script, "entry_point": _entry(gold, tests)}
        found.append(Item(name, f"{name}-{row.index:04d}", question, gold, extra=extra))
    return found


def _entry(gold: str, tests: tuple[str, ...]) -> str:
    """The function of the solution that the first test calls."""
    defined = set(re.findall(r"^def\s+(\w+)", gold, re.MULTILINE))
    return next((name for name in _CALLED.findall(" ".join(tests)) if name in defined), "")
