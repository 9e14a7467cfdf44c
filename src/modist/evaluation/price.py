"""What a run will take: questions, tokens, hours; and what its numbers will be able to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modist.evaluation.generators.generator import Generator
from modist.evaluation.plan import Plan, Settings
from modist.evaluation.statistics import smallest_difference, wilson


@dataclass(frozen=True)
class Pace:
    """How fast answers came: so many answers and tokens in so many seconds."""

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, answers: int, tokens: int, seconds: float) -> Pace:
        return Pace(self.answers + answers, self.tokens + tokens, self.seconds + seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def seconds_for(self, answers: int) -> float | None:
        """How long so many more answers take; None where nothing was measured."""
        return self.seconds / self.answers * answers if self.answers else None


@dataclass(frozen=True)
class Part:
    """One benchmark of a run.

    Attributes:
        rows: in the benchmark; `questions` of them are asked.
        interval: half the width of the 95% interval of an accuracy of one half.
        shows: the smallest difference between two models that so many questions show: 80% power at the 5% level, about half of
            them right, two independent samples (a paired test shows less where models agree much).
    """

    benchmark: str
    title: str
    style: str
    rows: int
    questions: int
    max_new_tokens: int
    interval: float
    shows: float


@dataclass(frozen=True)
class Price:
    """What a run will take.

    Attributes:
        answers: all that are planned; `left` of them are still to be asked, in `batches` batches.
        batch_size: 0 where only the living model knows it.
        prompt_length: of the answers left, in `unit`.
        unit: `tokens`, or `characters` where the tokenizer is elsewhere.
        most_tokens: generated at most, by the answers left.
        pace: measured by a probe or an earlier run; None where nobody has.
    """

    name: str
    parts: tuple[Part, ...]
    samples: int
    answers: int
    left: int
    batches: int
    batch_size: int
    prompt_length: int
    unit: str
    most_tokens: int
    graders: int
    pace: Pace | None = None

    @property
    def seconds(self) -> float | None:
        """Of generating what is left; None where the pace is not known."""
        return self.pace.seconds_for(self.left) if self.pace else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds}

    def questions(self) -> list[str]:
        """For people: what is asked and what it can show, a line a benchmark; the same for every model."""
        found = []
        for part in self.parts:
            drawn = f"{part.questions:,} of {part.rows:,}" if part.questions < part.rows else f"{part.rows:,}"
            width = f"±{100 * part.interval:.1f} points at most"
            shows = f"can show differences of {100 * part.shows:.1f} points" if part.shows < 1 else "can show no difference"
            found.append(f"{part.benchmark}: {drawn} questions, {width}, {shows}; style {part.style}")
        return found

    def work(self) -> list[str]:
        """For people: what is left to do, and how long that takes where somebody knows."""
        done = f", {self.answers - self.left:,} of them done" if self.left < self.answers else ""
        batches = f"{self.batches:,} batches of {self.batch_size}; " if self.batch_size else ""
        samples = f" ({self.samples} a question)" if self.samples > 1 else ""
        found = [
            f"{self.answers:,} answers{samples}{done}; {batches}{self.prompt_length:,} {self.unit} of prompts,"
            f" at most {self.most_tokens:,} tokens of answers; {count(self.graders, 'grader')}"
        ]
        if self.pace and self.seconds is not None:
            found.append(f"about {duration(self.seconds)} at {self.pace.tokens_per_second:,.0f} tokens/s")
        return found


def price(plan: Plan, settings: Settings, todo: Sequence[int], pace: Pace | None = None, unit: str | None = None) -> Price:
    """The price of a plan's batches `todo`, of which prompts are measured in `unit` (seen from the plan's model by default)."""
    parts, most = [], {}
    for entry in plan.data["benchmarks"]:
        n = len(entry["ids"])
        low, high = wilson(n / 2, n)
        most[entry["name"]] = entry["max_new_tokens"]
        names = (entry["name"], entry["title"], entry["style"])
        shows = smallest_difference(n)
        parts.append(Part(*names, entry["rows"], n, entry["max_new_tokens"], (high - low) / 2, shows))
    left = [item for batch in todo for item, _ in plan.batches[batch]]
    return Price(
        name=plan.data["name"],
        parts=tuple(parts),
        samples=settings.samples,
        answers=plan.answers,
        left=len(left),
        batches=len(todo),
        batch_size=size if (size := plan.data["settings"]["batch_size"]) < 1 << 30 else 0,
        prompt_length=sum(plan.lengths[item.benchmark, item.id] for item in left),
        unit=unit or ("characters" if plan.data["model"].get("kind") == "openai" else "tokens"),
        most_tokens=sum(most[item.benchmark] for item in left),
        graders=settings.graders,
        pace=pace,
    )


def probe(generator: Generator, plan: Plan, settings: Settings) -> Pace:
    """The pace of one batch of middle length of each benchmark; nothing is kept of the answers."""
    import time

    pace = Pace()
    for entry in plan.data["benchmarks"]:
        batches = [number for number, batch in enumerate(plan.batches) if batch[0][0].benchmark == entry["name"]]
        began = time.monotonic()
        replies = generator.answer(plan.asks(batches[len(batches) // 2]), settings.sampling)
        pace = pace.plus(len(replies), sum(reply.tokens for reply in replies), time.monotonic() - began)
    return pace


def earlier_pace(folder: Path) -> Pace | None:
    """The pace of what a run's folder holds already; None where it holds nothing that can be read."""
    from modist.errors import ModistError
    from modist.evaluation.results import read_results

    try:
        found = read_results(folder, partial=True)
    except ModistError:
        return None
    return Pace(len(found.records), found.tokens, found.seconds) if found.records else None


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(number: int, what: str) -> str:
    """`1 grader`, `2 graders`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
