"""Speed of grading: answers a second of one processor core, both graders together.  Prints one JSON object.

    python benchmarks/evaluate_grading.py [--data ../shared/data/math] [--answers 2000] [--seed 0]

Plain: golds of GSM8K and MATH that are numbers, at the end of a worked solution.  Symbolic: golds of MATH, College Math,
OlympiadBench, CARP En and GaoKao 2023 En that are no plain numbers; three in five answers are the gold (half of them written
another way), one is the gold with a sign or digit changed, one the gold of another question.  Without the data, both are made
of a few golds written here.  A second is one of processor time, of this process and the workers', so that other work on the
machine does not count; `wall_s` is the clock's.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from modist.evaluation.answers.grade import Graders
from modist.evaluation.answers.graders import Job
from modist.evaluation.answers.quantity import quantity

PLAIN = ("gsm8k", "math")
SYMBOLIC = ("math", "college_math", "olympiadbench", "carp_en", "gaokao2023en")
FEW = (
    *(
        r"\frac{1}{2}x+\sqrt{3}",
        r"(-\infty,1)\cup(2,\infty)",
        r"x^2-1",
        r"\left\{1,2,3\right\}",
        r"\frac{\sqrt{6}}{3}",
        "y=2x+1",
    ),
    *(r"3 \log_{5}(z)-6", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "2, -2", r"\frac{k-8}{k+4}", r"e^{-x}", r"x \ge 3"),
)
WORKING = "First we add the two parts, 3 + 4 = 7, and then multiply by 2 to get 14. " * 8


def golds(data: Path, names: tuple[str, ...]) -> list[str]:
    if not data.is_dir():
        return []
    from modist.evaluation.benchmarks import find

    return [item.gold for name in names for item in find(name).items(data) if item.gold and not item.choices]


def rewritten(gold: str) -> str:
    """The same, in another hand."""
    gold = gold.replace(r"\frac", r"\dfrac").replace("+", " + ").replace("=", " = ")
    return gold.replace("(", r"\left( ").replace(")", r" \right)") if r"\left" not in gold else gold


def changed(gold: str) -> str:
    """Nearly the same."""
    digit = re.search(r"\d", gold)
    if digit:
        return gold[: digit.start()] + str((int(digit[0]) + 1) % 10) + gold[digit.end() :]
    return gold.replace("-", "+", 1) if "-" in gold else f"-{gold}"


def plain_jobs(data: Path, count: int, draw: random.Random) -> list[Job]:
    numbers = [gold for gold in golds(data, PLAIN) if re.fullmatch(r"-?[\d,.]+", gold)] or [str(n) for n in range(1, 5000)]
    jobs: list[Job] = []
    for number in range(count):
        gold = draw.choice(numbers)
        answer = gold if number % 5 < 3 else str(draw.randrange(2000))
        ending = rf"So it is $\boxed{{{answer}}}$." if number % 2 else f"The answer is {answer}."
        jobs.append((gold, WORKING + ending, "math", (), None))
    return jobs


def symbolic_jobs(data: Path, count: int, draw: random.Random) -> list[Job]:
    formulas = [gold for gold in golds(data, SYMBOLIC) if quantity(gold) is None] or list(FEW)
    jobs: list[Job] = []
    for number in range(count):
        gold = draw.choice(formulas)
        answer = (gold, rewritten(gold), rewritten(gold) if number % 2 else gold, changed(gold), draw.choice(formulas))[
            number % 5
        ]
        jobs.append((gold, WORKING + rf"So it is $\boxed{{{answer}}}$.", "math", (), None))
    return jobs


def processor() -> float:
    mine, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime


def measure(jobs: list[Job], seconds: float) -> dict[str, Any]:
    # The cost of starting a worker is told apart: it is paid once.
    began = processor()
    with Graders(1, seconds) as graders:
        graders.grade([("x+1", r"\boxed{1+x}", "math", (), None)])
    starting = processor() - began
    began, clock = processor(), time.perf_counter()
    with Graders(1, seconds) as graders:
        found = []
        for at in range(0, len(jobs), 500):
            found += graders.grade(jobs[at : at + 500])
        wall = time.perf_counter() - clock
    used = processor() - began
    formulas = bool(graders._known)
    used -= starting if formulas else 0.0
    return {
        "answers": len(jobs),
        "answers_per_second_per_core": round(len(jobs) / max(used, 1e-9), 1),
        "processor_s": round(used, 3),
        "wall_s": round(wall, 3),
        "starting_s": round(starting, 3) if formulas else 0.0,
        "equal": sum(one.equal for one in found),
        "equal_compatible": sum(one.equal_compatible for one in found),
        "over_time_limit": sum("time limit" in one.note for one in found),
        "notes": sum(bool(one.note) for one in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of grading.")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[1].parent / "shared" / "data" / "math")
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    found = {
        "plain": measure(plain_jobs(given.data, 5 * given.answers, draw), given.seconds),
        "symbolic": measure(symbolic_jobs(given.data, given.answers, draw), given.seconds),
        "targets": {"plain": 1000, "symbolic": 100},
        "data": given.data.is_dir(),
    }
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
