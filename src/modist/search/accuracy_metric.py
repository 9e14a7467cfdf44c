"""Accuracy as fitness: the share of a benchmark's development questions that a model answers right, greedily."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modist.errors import ModistError, UserError
from modist.search.disjoint import Sample, refuse_name
from modist.search.part import Part, drawn

_BROKEN = "logits are not finite"


class Accuracy:
    """Right answers of all, 0 to 1, asked and graded as `modist eval` does: greedy, one answer a question, the default grader.

    Attributes:
        name: for messages and reports.
        files: what it reads.
    """

    def __init__(
        self,
        what: str,
        *,
        data: Path | None = None,
        limit: int | None = None,
        seed: int = 0,
        part: Part | None = None,
        style: str | None = None,
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        seconds_per_grade: float = 5.0,
    ) -> None:
        """Read the questions.

        Args:
            what: a benchmark's name, or the YAML file of a user's own.
            data: the folder of the benchmarks' rows; None is the usual one.
            limit: so many questions, drawn by `seed`; None is all.
            part: which of several parts that share no question.
            style: of prompts, where the benchmark has none of its own; None is qwen25-math-cot.
            batch_size: answers at once; None suits the model's size.
            max_new_tokens: in place of the benchmark's own.
            seconds_per_grade: a time limit.

        Raises:
            UserError: a test set, no such benchmark or style, rows that are not there or wrong.
        """
        from modist.evaluation.benchmarks import find, known
        from modist.evaluation.prompt import DEFAULT, check, stop_strings

        if what in known() or not _is_file(what):
            refuse_name(what)
        benchmark = find(what)
        self.name = f"accuracy:{what}"
        if what not in known():
            refuse_name(benchmark.name)
        if benchmark.split != "development":
            raise UserError(
                f"{what}: declares a test set, and a search that is scored on one has no result left to report; "
                "take other questions, and write 'split: development' into their YAML"
            )
        if benchmark.kind == "code":
            raise UserError(f"{what}: is graded by running code that a model wrote, which a search does not do")
        for flag, value in (("batch size", batch_size), ("limit of new tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{self.name}: a {flag} of {value}: must be at least 1")
        where = benchmark.where(data)
        self.files: tuple[Path, ...] = (where,) if where is not None and where.is_file() else ()
        items = benchmark.items(data)
        if not items:
            raise UserError(f"{what}: has no questions")
        places = _places(self.files[0] if self.files else None, [item.id for item in items])
        pairs = list(zip(items, places, strict=True))
        self._pairs = drawn(self.name, pairs, [item.question for item in items], limit, seed, part)
        self._benchmark = benchmark
        self._style = check(benchmark.prompt or style or DEFAULT)
        self._stop = stop_strings(self._style, benchmark)
        self._batch_size, self._tokens = batch_size, max_new_tokens or benchmark.max_new_tokens
        self._seconds = seconds_per_grade
        self._graders: Any = None

    def samples(self) -> list[Sample]:
        """The questions, for comparing with test sets."""
        return [Sample(place, item.question, (item.question,)) for item, place in self._pairs]

    def digest(self) -> str:
        """SHA-256 over what is asked and how, hexadecimal: two searches with another one are not the same search."""
        import hashlib

        how = repr((self._style, self._stop, self._tokens, self._benchmark.kind, self._benchmark.pattern))
        asked = self._benchmark.digest([item for item, _ in self._pairs])
        prompts = repr([self._benchmark.prompt_for(item, self._style) for item, _ in self._pairs])
        return hashlib.sha256(f"accuracy\n{how}\n{asked}\n{prompts}".encode("utf-8", "surrogatepass")).hexdigest()

    def close(self) -> None:
        """End the processes that grade, if there are any."""
        if self._graders is not None:
            self._graders.close()
            self._graders = None

    def __call__(self, model: Any, tokenizer: Any) -> float:
        """Right answers of all, 0 to 1.

        A question that fails for itself, such as a prompt longer than the context, counts as wrong.

        Args:
            model: a living causal LM of transformers.
            tokenizer: its own.

        Raises:
            UserError: the model cannot be asked at all: no chat template, no prompt that fits.
            ModistError: its logits are no numbers, or there is no memory.
        """
        from modist.evaluation.answers.grade import Graders
        from modist.evaluation.generators.generator import Ask, Sampling
        from modist.evaluation.generators.transformers import TransformersGenerator

        if tokenizer is None:
            raise UserError(f"{self.name}: the model has no tokenizer to read a question with")
        name = str(getattr(tokenizer, "name_or_path", "") or "the model")
        generator = TransformersGenerator.of(model, tokenizer, name)
        if self._graders is None:
            self._graders = Graders(1, self._seconds)
        asks = [
            Ask(str(place), self._benchmark.prompt_for(item, self._style), self._tokens, self._stop)
            for place, (item, _) in enumerate(self._pairs)
        ]
        # The longest first, and always in the same company: padding may change the last bits of an answer's logits.
        asks.sort(key=lambda ask: -generator.length(ask.prompt))
        size = self._batch_size or generator.batch_size
        replies = [
            reply for start in range(0, len(asks), size) for reply in generator.answer(asks[start : start + size], Sampling())
        ]
        failed = [reply for reply in replies if reply.finish_reason == "error"]
        for reply in failed:
            if _BROKEN in reply.error or len(failed) == len(replies):
                place = self._pairs[int(reply.key)][1]
                kind = ModistError if _BROKEN in reply.error else UserError
                raise kind(f"{self.name}: {place}: {reply.error}")
        jobs = []
        for reply in replies:
            if reply.finish_reason != "error":
                item = self._pairs[int(reply.key)][0]
                jobs.append((item.gold, reply.text, self._benchmark.kind, tuple(item.choices), self._benchmark.pattern))
        right = sum(bool(grade.equal) for grade in self._graders.grade(jobs))
        return right / len(self._pairs)


def _is_file(what: str) -> bool:
    return Path(what).suffix.lower() in (".yml", ".yaml") or "/" in what or Path(what).is_file()


def _places(file: Path | None, ids: list[str]) -> list[str]:
    """`file:line` of each question where its file has a line for each, else its id."""
    from modist.evaluation.benchmarks.rows import read_lines

    if file is None or file.suffix != ".jsonl":
        return ids
    rows = read_lines(file)
    return [row.where for row in rows] if len(rows) == len(ids) else ids
