"""Worker processes that grade, each answer under a time limit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import IO

from modist.errors import UserError
from modist.evaluation.answers.judge import Case, Grade, Question, prepare

# gold, answer, kind, choices, pattern
Job = tuple[str, str, str, tuple[str, ...], str | None]
Verdict = tuple[bool, str]

_CHUNK = 16
_MOST_CACHED = 500_000
_PATIENCE_S = 120.0
_MOST_FAILED_STARTS = 3


class Worker:
    """One grading process and what it has been asked."""

    def __init__(self, seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        with theirs:
            self.process = subprocess.Popen(
                command(theirs.fileno(), seconds),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=_environment(),
            )
        self.channel = Connection(ours.detach())
        self.asked: deque[tuple[Question, ...]] = deque()
        self.heard: list[Verdict] = []
        self.ready = False
        self.since = time.monotonic()

    def ask(self, tasks: Sequence[tuple[Question, ...]]) -> None:
        self.asked.extend(tasks)
        self.since = time.monotonic()
        self.channel.send(list(tasks))

    def end(self) -> None:
        """Kill the process; nothing it does can prevent that."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self._said.close()

    def last_words(self) -> str:
        """Why it has ended: the last line it wrote to stderr, or its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit status {self.process.poll()}"


def command(descriptor: int, seconds: float) -> list[str]:
    return [sys.executable, "-m", "modist.evaluation.answers.worker", str(descriptor), str(seconds)]


def _environment() -> dict[str, str]:
    """The worker finds the packages that this process found, and uses one processor core."""
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}


class Graders:
    """Grades answers, each under a time limit.  A context manager.

    Plain answers (numbers, words, equal strings) are graded in this process, in time linear in their length.  Formulas go to
    worker processes; one that is longer than `seconds` over an answer is killed and replaced, and that answer is not equal,
    with a note.  What was asked before is remembered.  Workers start with the first formula.
    """

    def __init__(self, workers: int = 1, seconds: float = 5.0) -> None:
        """`workers` >= 1 processes; `seconds` > 0 for an answer, both graders together.

        Raises:
            UserError: one of them is out of range.
        """
        if workers < 1:
            raise UserError(f"{workers} grading processes: there must be at least 1")
        if not 0 < seconds < float("inf"):
            raise UserError(f"a time limit of {seconds:g} seconds for an answer: it must be more than 0, and finite")
        self.workers = workers
        self.seconds = seconds
        self._crew: list[Worker] = []
        self._known: dict[Question, Verdict] = {}
        self._done = 0
        self._alone = threading.Lock()

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; grading again starts new ones."""
        for worker in self._crew:
            worker.end()
        self._crew = []

    def grade(self, jobs: Sequence[Job], watch: Callable[[int], None] | None = None) -> list[Grade]:
        """The grades, in the order of the jobs, each (gold, answer, kind, choices, pattern).

        Args:
            watch: told how many of the jobs are done, now and then.

        Raises:
            UserError: a kind that there is none of.
            EvaluationError: the workers cannot start.
        """
        with self._alone:
            cases = [prepare(*job) for job in jobs]
            if len(self._known) > _MOST_CACHED:
                self._known.clear()
            tasks = list(dict.fromkeys(filter(None, map(self._open, cases))))
            self._settle(tasks, (lambda done: watch(len(jobs) - len(tasks) + done)) if watch else None)
            grades = [self._grade(case) for case in cases]
            if watch:
                watch(len(jobs))
            return grades

    def _open(self, case: Case) -> tuple[Question, ...]:
        return tuple(question for question in case.questions if question not in self._known)

    def _grade(self, case: Case) -> Grade:
        verdicts: dict[str, bool] = {}
        notes = []
        for question in case.questions:
            same, note = self._known[question]
            verdicts[question[0]] = same
            if note and note not in notes:
                notes.append(note)
        return case.grade(verdicts.get("default"), verdicts.get("compatible"), "; ".join(notes))

    def _settle(self, tasks: list[tuple[Question, ...]], watch: Callable[[int], None] | None) -> None:
        """Have every question answered, into `_known`."""
        waiting = deque(tasks)
        self._done = failed = 0
        # One process for a handful: starting takes longer than it saves.
        wanted = min(self.workers, 1 + len(tasks) // 8)
        try:
            while self._done < len(tasks):
                while len(self._crew) < wanted:
                    self._crew.append(Worker(self.seconds))
                for worker in self._crew:
                    if worker.ready and not worker.asked and waiting:
                        share = max(1, min(_CHUNK, len(waiting) // (2 * len(self._crew)) + 1))
                        self._ask(worker, [waiting.popleft() for _ in range(min(share, len(waiting)))])
                now = time.monotonic()
                left = min(
                    worker.since + self._patience(worker) - now for worker in self._crew if worker.asked or not worker.ready
                )
                wait([worker.channel for worker in self._crew], max(0.0, left))
                for worker in list(self._crew):
                    said = self._listen(worker)
                    if said == "late":
                        self._give_up(worker, waiting, f"time limit of {self.seconds:g} s")
                    elif said == "gone" and worker.ready:
                        self._give_up(worker, waiting, "the grading process died")
                    elif said in ("gone", "slow"):
                        failed += 1
                        words = worker.last_words() if said == "gone" else f"not ready after {_PATIENCE_S:g} s"
                        self._replace(worker)
                        if failed >= _MOST_FAILED_STARTS:
                            from modist.evaluation.benchmark import EvaluationError

                            raise EvaluationError(f"the grading processes do not start: {words}")
                if watch:
                    watch(self._done)
        except BaseException:
            # Whatever they still work on is nobody's now.
            self.close()
            raise

    def _ask(self, worker: Worker, tasks: list[tuple[Question, ...]]) -> None:
        # One that died idle is heard of by `_listen`.
        with contextlib.suppress(OSError):
            worker.ask(tasks)

    def _patience(self, worker: Worker) -> float:
        return self.seconds if worker.ready else _PATIENCE_S

    def _listen(self, worker: Worker) -> str:
        """Take what a worker has said; "late", "gone", "slow" (to start), or an empty string."""
        try:
            while worker.channel.poll():
                message = worker.channel.recv()
                if message == "ready":
                    worker.ready = True
                    worker.since = time.monotonic()
                    continue
                last, same, note = message
                questions = worker.asked[0]
                worker.heard.append((same, note))
                if last:
                    self._keep(questions, worker.heard)
                    worker.asked.popleft()
                    worker.heard = []
                    worker.since = time.monotonic()
        except (EOFError, OSError):
            return "gone"
        if time.monotonic() - worker.since <= self._patience(worker):
            return ""
        if not worker.ready:
            return "slow"
        return "late" if worker.asked else ""

    def _keep(self, questions: tuple[Question, ...], heard: Sequence[Verdict]) -> None:
        self._known.update(zip(questions, heard, strict=True))
        self._done += 1

    def _give_up(self, worker: Worker, waiting: deque[tuple[Question, ...]], why: str) -> None:
        """The answer a worker was on is lost; those behind it wait for another worker."""
        if worker.asked:
            questions = worker.asked.popleft()
            missing = questions[len(worker.heard) :]
            heard = [*worker.heard, *((False, f"{why} ({question[0]} grader)") for question in missing)]
            self._keep(questions, heard)
            waiting.extendleft(reversed(worker.asked))
        self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        worker.end()
        self._crew.remove(worker)
