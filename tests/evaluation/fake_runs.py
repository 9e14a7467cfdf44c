"""A benchmark of sums, a model that answers them by rule, and graders in this process: runs that cost nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modist.evaluation.answers.grade import Grade
from modist.evaluation.benchmark import Benchmark, Item
from modist.evaluation.generators.generator import Ask, Prompt, Reply, Sampling


def sums(count: int = 20, name: str = "sums", kind: str = "math", **more: Any) -> Benchmark:
    """`count` sums of which every third is written out at length."""

    def read(path: Path, called: str) -> list[Item]:
        return [
            Item(called, f"{called}-{n:04d}", f"What is {n} + {n}?" + " Think well." * (n % 3), str(2 * n), domain="even")
            for n in range(count)
        ]

    return Benchmark(
        name, name.title(), count, "nowhere", kind, max_new_tokens=32, files=(str(Path(__file__)),), read=read, **more
    )


class FakeGenerator:
    """Answers n + n with 2n, wrongly where n is a multiple of `wrong`; what it says depends on its batch, as padding can.

    Attributes:
        asked: keys of every batch it was given.
    """

    def __init__(self, name: str = "fake", wrong: int = 4, batch_size: int = 3, pause: float = 0.0, **told: Any) -> None:
        self.name, self.batch_size = name, batch_size
        self.notes: list[str] = []
        self.asked: list[list[str]] = []
        self.fails: Callable[[Ask], str] = lambda ask: ""
        self.told = {"kind": "fake", "model": name, **told}
        self._wrong, self._pause = wrong, pause

    def describe(self) -> dict[str, Any]:
        return self.told

    def length(self, prompt: Prompt) -> int:
        return len(json.dumps(prompt))

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        self.asked.append([ask.key for ask in asks])
        time.sleep(self._pause)
        return [self._reply(ask, len(asks), sampling) for ask in asks]

    def _reply(self, ask: Ask, size: int, sampling: Sampling) -> Reply:
        if reason := self.fails(ask):
            return Reply.failed(ask.key, reason)
        prompt = ask.prompt if isinstance(ask.prompt, str) else ask.prompt[-1]["content"]
        number = int(prompt.split("What is ")[-1].split(" ")[0])
        right = 2 * number + (number % self._wrong == 0) + (ask.seed % 2 if sampling.temperature else 0)
        return Reply(ask.key, f"In a batch of {size}: \\boxed{{{right}}}", prompt, 5 + number, 9, "stop", 0.01)

    def close(self) -> None:
        """There is nothing to give back."""


class FakeGraders:
    """Right is what ends with the gold in a box; "hang" is what a time limit would be."""

    def __init__(self, workers: int = 1, seconds: float = 5.0) -> None:
        self.workers = workers

    def __enter__(self) -> FakeGraders:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def grade(self, jobs: Sequence[tuple[str, str, str, tuple[str, ...], str | None]]) -> list[Grade]:
        return [self._one(gold, answer) for gold, answer, *_ in jobs]

    @staticmethod
    def _one(gold: str, answer: str) -> Grade:
        said = answer.rsplit("\\boxed{")[-1].rstrip("}")
        if said == "hang":
            return Grade(False, False, "", "", "time limit")
        return Grade(said == gold, said == gold or said == gold + "0", said, said)


def rows(folder: Path) -> list[dict[str, Any]]:
    """What answers.jsonl holds, read with nothing of modist."""
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().split("\n") if line]


def told(folder: Path) -> list[dict[str, Any]]:
    """The same without times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]
