"""A run: one model answers benchmarks, batch by batch, and every answer is graded and kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from modist.evaluation.answers.grade import Grade, Graders
from modist.evaluation.benchmark import Benchmark, EvaluationError, Item
from modist.evaluation.generators.generator import Generator, Reply
from modist.evaluation.journal import Journal
from modist.evaluation.plan import Plan, Settings, make_plan
from modist.evaluation.price import Pace, Price, count, price
from modist.evaluation.record import Record
from modist.evaluation.results import ANSWERS, Results, in_order, read_results

__all__ = ["Results", "Settings", "Watch", "evaluate", "read_results"]

# So many batches that fail whole, one after the other, and so many answers in them, and nobody is there to ask.
_HOPELESS_BATCHES = 3
_HOPELESS_ANSWERS = 12
# Remarks of the graders that are told one by one.
_TOLD = 5


@dataclass
class Watch:
    """Where a run says what it is doing; every hook may be left alone.

    Attributes:
        priced: what it will take, before the first answer; of what an earlier run left to do.
        advance: answers done of all, each time a batch is on disk; called from another thread.
        measured: the pace so far, after each batch.
        note: one remark for the user.
    """

    priced: Callable[[Price], object] = lambda price: None
    advance: Callable[[int, int], object] = lambda done, total: None
    measured: Callable[[Pace], object] = lambda pace: None
    note: Callable[[str], object] = lambda line: None


def evaluate(
    generator: Generator,
    benchmarks: Sequence[Benchmark],
    folder: Path,
    data: Path | None,
    settings: Settings,
    watch: Watch | None = None,
    name: str | None = None,
) -> Results:
    """Ask a model every question, or go on with a run that was stopped; a finished run is only read.

    Args:
        generator: stays open.
        benchmarks: no two of one name.
        folder: of this run alone; made where it is not there.
        data: where benchmarks' rows are; None is the usual place.
        settings: how to ask.
        watch: told how it goes.
        name: the model's, for tables; the generator's own by default.

    Raises:
        UserError: settings that cannot be, data that is not there, another run in the folder, or the same one still running.
        EvaluationError: damaged data, a full disk, or nothing but failures; what is finished is kept.
        ModistError: as the generator raises.
    """
    watch = watch or Watch()
    plan = make_plan(generator, benchmarks, data, settings, name)
    with Journal(Path(folder), plan.data) as journal:
        if journal.dropped:
            watch.note(f"{journal.folder}: {journal.dropped} lines of a batch that was not finished are asked again")
        already = sum(map(len, journal.finished.values()))
        again = _failed(journal) if settings.retry_errors else []
        todo = sorted([*journal.missing, *again])
        if todo:
            watch.priced(price(plan, settings, todo))
            watch.advance(plan.answers - sum(len(plan.batches[batch]) for batch in todo), plan.answers)
            _Run(generator, plan, journal, settings, watch, todo).answer()
            journal.tidy()
        records = [record for batch in sorted(journal.finished) for record in journal.finished[batch]]
        results = Results(plan.data["name"], journal.folder, plan.data, in_order(plan.data, records), already)
    for line in dict.fromkeys(getattr(generator, "notes", ())):
        watch.note(line)
    _tell(results, watch)
    return results


def _failed(journal: Journal) -> list[int]:
    return [batch for batch, records in journal.finished.items() if any(record.failed for record in records)]


def _tell(results: Results, watch: Watch) -> None:
    """What a table does not say."""
    errors = results.errors
    if errors:
        watch.note(
            f"{results.name}: {len(errors):,} of {len(results.records):,} answers failed and count as wrong"
            f" (the first: {errors[0].id}: {errors[0].note[:200]}); --retry-errors asks them again"
        )
    remarks: Counter[str] = Counter()
    for name in results.benchmarks:
        code = next(entry["kind"] for entry in results.plan["benchmarks"] if entry["name"] == name) == "code"
        # Why a program failed its tests is each program's own matter.
        found = [record for record in results.of(name) if not record.failed and (record.equal or not code)]
        remarks.update(record.note for record in found if record.note)
    for note, number in remarks.most_common(_TOLD):
        watch.note(f"{results.name}: grading {count(number, 'answer')}: {note[:200]}")
    if len(remarks) > _TOLD:
        watch.note(f"{results.name}: {len(remarks) - _TOLD} more remarks; every answer's is in {results.folder / ANSWERS}")


class _Run:
    """Batches answered here, in order, while a second thread grades the one before and puts it on disk."""

    def __init__(
        self, generator: Generator, plan: Plan, journal: Journal, settings: Settings, watch: Watch, todo: Sequence[int]
    ) -> None:
        self._generator, self._plan, self._journal = generator, plan, journal
        self._settings, self._watch, self._todo = settings, watch, todo
        self._done = plan.answers - sum(len(plan.batches[batch]) for batch in todo)
        self._pace = Pace()
        self._silent: list[tuple[int, list[Reply]]] = []
        self._writing: Future[None] | None = None

    def answer(self) -> None:
        kinds = {self._plan.benchmarks[self._plan.batches[batch][0][0].benchmark].kind for batch in self._todo}
        with ExitStack() as stack:
            # The pool is older than the thread, so that a run that is stopped still grades what was answered.
            self._graders = (
                stack.enter_context(Graders(self._settings.graders, self._settings.seconds_per_grade))
                if kinds - {"code"}
                else None
            )
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "grading"))
            for batch in self._todo:
                began = time.monotonic()
                replies = self._ask(batch)
                self._measure(replies, time.monotonic() - began)
                if all(reply.finish_reason == "error" for reply in replies):
                    self._silent.append((batch, replies))
                    self._give_up()
                    continue
                self._flush()
                self._write(batch, replies)
            self._flush()
            self._wait()

    def _ask(self, batch: int) -> list[Reply]:
        """One reply for every question still to be answered, in order, whatever the generator makes of it."""
        asks = self._plan.asks(batch)
        kept = self._kept(batch)
        asks = [ask for ask, record in zip(asks, kept, strict=True) if record is None]
        found: dict[str, Reply] = {}
        for reply in self._generator.answer(asks, self._settings.sampling):
            found.setdefault(reply.key, reply)
        return [found.get(ask.key) or Reply.failed(ask.key, "the generator gave no reply") for ask in asks]

    def _kept(self, batch: int) -> list[Record | None]:
        """What need not be asked again: an endpoint's good answers.  Elsewhere the rest of a batch may change an answer."""
        there = self._journal.finished.get(batch)
        if there is None or self._plan.data["model"].get("kind") != "openai":
            return [None] * len(self._plan.batches[batch])
        return [None if record.failed else record for record in there]

    def _measure(self, replies: Sequence[Reply], seconds: float) -> None:
        self._pace = self._pace.plus(len(replies), sum(reply.tokens for reply in replies), seconds)
        self._watch.measured(self._pace)

    def _give_up(self) -> None:
        """Stop where nobody answers; what failed is left to be asked again by the next run."""
        failed = [reply for _, replies in self._silent for reply in replies]
        if self._settings.keep_going or len(self._silent) < _HOPELESS_BATCHES or len(failed) < _HOPELESS_ANSWERS:
            return
        self._wait()
        raise EvaluationError(
            f"{self._plan.data['name']}: the last {len(failed)} questions got no answer ({failed[-1].error[:200]}); what was"
            " answered before is kept, and the same command goes on from there (--keep-going counts failures as wrong instead)"
        )

    def _flush(self) -> None:
        for batch, replies in self._silent:
            self._write(batch, replies)
        self._silent = []

    def _write(self, batch: int, replies: list[Reply]) -> None:
        # At most one batch is on its way to disk.
        self._wait()
        self._writing = self._writer.submit(self._finish, batch, replies)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _finish(self, batch: int, replies: Sequence[Reply]) -> None:
        kept = self._kept(batch)
        asked = [pair for pair, record in zip(self._plan.batches[batch], kept, strict=True) if record is None]
        grades = self._grade([(item, reply) for (item, _), reply in zip(asked, replies, strict=True)])
        fresh = []
        for (item, sample), reply, grade in zip(asked, replies, grades, strict=True):
            fresh.append(
                Record(
                    benchmark=item.benchmark,
                    id=item.id,
                    sample=sample,
                    batch=batch,
                    prompt=reply.prompt,
                    output=reply.text,
                    finish_reason=reply.finish_reason,
                    tokens=reply.tokens,
                    prompt_tokens=reply.prompt_tokens,
                    seconds=reply.seconds,
                    gold=item.gold,
                    extracted=grade.extracted,
                    extracted_compatible=grade.extracted_compatible,
                    equal=grade.equal,
                    equal_compatible=grade.equal_compatible,
                    note=grade.note,
                    domain=item.domain,
                )
            )
        new = iter(fresh)
        records = [record or next(new) for record in kept]
        self._journal.add(records)
        self._done += len(records)
        self._watch.advance(self._done, self._plan.answers)

    def _grade(self, answered: Sequence[tuple[Item, Reply]]) -> list[Grade]:
        """Failures are wrong; code is run, and the rest goes to the graders' processes."""
        grades: list[Grade | None] = [
            Grade(False, False, "", "", reply.error or "no answer") if reply.finish_reason == "error" else None
            for _, reply in answered
        ]
        left = [place for place, grade in enumerate(grades) if grade is None]
        benchmark = self._plan.benchmarks[answered[0][0].benchmark]
        if benchmark.kind == "code":
            found: Sequence[Grade] = self._run_code([answered[place] for place in left])
        else:
            assert self._graders is not None
            jobs = []
            for place in left:
                item, reply = answered[place]
                jobs.append((item.gold, reply.text, benchmark.kind, tuple(item.choices), benchmark.pattern))
            found = self._graders.grade(jobs) if jobs else []
        for place, grade in zip(left, found, strict=True):
            grades[place] = grade
        return [grade for grade in grades if grade is not None]

    def _run_code(self, answered: Sequence[tuple[Item, Reply]]) -> list[Grade]:
        from modist.evaluation.answers.code import run_code

        with ThreadPoolExecutor(self._settings.graders) as pool:
            return list(pool.map(lambda pair: run_code(pair[0], pair[1].text), answered))
