"""Where candidates run: in this process, or on workers that may be lost.

A candidate is a vector, a few numbers.  Who scores it holds the experts, makes the merged model of the vector in memory and
applies the metric.  A pool gets a generation of vectors and gives their scores back in the same order, however many workers
there are and whichever is done first.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modist.errors import ModistError, UserError
from modist.search.metric import Metric, finite

Vector = npt.NDArray[np.float64]
Told = Callable[[int, float], object]

# How long one wait may be, in seconds, before what has changed meanwhile is looked at.
_STEP_S = 5.0


class SearchError(ModistError):
    """A search could not go on; what is journalled is kept (exit status 1)."""


class Pool(Protocol):
    """Scores candidates."""

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        """One score for each vector, in order; higher is better.

        Args:
            told: called with a vector's place and its score as soon as there is one.

        Raises:
            ModistError: a candidate cannot be scored, or nobody is left to do it.
        """

    def close(self) -> None:
        """Gives back memory and workers; calling it twice does nothing more."""


class Merger(Protocol):
    """What a pool needs of a workshop."""

    tokenizer: Any

    def merge(self, vector: Vector) -> Any:
        """The merged model, alive; the same object may be given again with other numbers in it."""


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no score, as plain data that any process can read.

    Attributes:
        text: one line for people.
        exit_status: 2 where the user can mend it, else 1.
    """

    text: str
    exit_status: int

    @classmethod
    def of(cls, error: Exception) -> Failure:
        if isinstance(error, ModistError):
            return cls(str(error), error.exit_status)
        return cls(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1)

    def error(self, where: str = "") -> ModistError:
        return (UserError if self.exit_status == 2 else SearchError)(where + self.text)


class LocalPool:
    """Candidates one after the other, in this process."""

    def __init__(self, workshop: Merger, metric: Metric) -> None:
        self._workshop, self._metric = workshop, metric

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        """See `Pool.scores`."""
        found = []
        for place, vector in enumerate(vectors):
            found.append(score_one(self._workshop, self._metric, vector))
            if told is not None:
                told(place, found[-1])
        return found

    def close(self) -> None:
        """Ends what the workshop and the metric have started."""
        for part in (self._workshop, self._metric):
            close = getattr(part, "close", None)
            if close is not None:
                close()


def score_one(workshop: Merger, metric: Metric, vector: Vector) -> float:
    """A candidate's score.

    Raises:
        ModistError: it is no finite number, or the workshop or the metric raised.
    """
    return finite(metric, workshop.merge(np.asarray(vector, dtype=np.float64)), workshop.tokenizer)


class LaterPool:
    """A pool that is opened when the first candidate is asked for: a search whose scores are all there loads nothing."""

    def __init__(self, make: Callable[[], Pool]) -> None:
        self._make = make
        self._pool: Pool | None = None

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        """See `Pool.scores`."""
        if self._pool is None:
            self._pool = self._make()
        found = self._pool.scores(vectors, told)
        if len(found) != len(vectors):
            raise SearchError(f"{len(found)} scores for {len(vectors)} candidates")
        return found

    def close(self) -> None:
        """See `Pool.close`."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class LostError(Exception):
    """A worker is gone with what it was doing; says how."""


class Cluster(Protocol):
    """Workers elsewhere.  A task is a handle: hashable, and known by `wait` and `result`."""

    def start(self) -> Any:
        """A new worker, which need not be up yet."""

    def build(self, worker: Any) -> Any:
        """The task of loading the experts."""

    def score(self, worker: Any, vector: Vector) -> Any:
        """The task of scoring a candidate."""

    def wait(self, tasks: Sequence[Any], seconds: float) -> Any | None:
        """A task that is done, or None where none is after so many seconds."""

    def result(self, task: Any) -> float | Failure | None:
        """What came of a task: None of building, a score, or why there is none.

        Raises:
            LostError: its worker is gone.
        """

    def stop(self, worker: Any) -> None:
        """Ends a worker at once."""

    def close(self) -> None:
        """Ends all of them."""


class ClusterPool:
    """Candidates on workers that may be lost: a lost one costs its candidate's work, which another worker does again.

    Every worker loads the experts once.  A worker that is lost is replaced.  A candidate that loses `attempts` workers is
    given up, and so is the search: it would lose all of them (no memory, most likely).  A candidate that fails by itself is not
    tried again: it would fail again.
    """

    def __init__(
        self,
        cluster: Cluster,
        workers: int,
        *,
        attempts: int = 3,
        patience_s: float = 1800.0,
        note: Callable[[str], object] | None = None,
    ) -> None:
        """
        Args:
            workers: how many, at least 1.
            attempts: how often a candidate is begun, and workers are started in a row that never come up, at least 1.
            patience_s: how long to wait while no worker is up.
            note: told of every worker that is lost, in one line.

        Raises:
            UserError: no worker.
        """
        if workers < 1:
            raise UserError(f"{workers} workers: there must be at least 1")
        self._cluster, self._attempts, self._patience = cluster, attempts, patience_s
        self._note = note or (lambda line: None)
        # Task -> its worker, and the candidate of which call (None: it is loading the experts).
        self._busy: dict[Any, tuple[Any, tuple[int, int] | None]] = {}
        self._idle: deque[Any] = deque()
        self._call = 0
        self._never_up = 0
        self._most_never_up = attempts * workers
        self._closed = False
        for _ in range(workers):
            self._start()

    @property
    def workers(self) -> list[Any]:
        """Those there are, up or not."""
        return [*self._idle, *(worker for worker, _ in self._busy.values())]

    def scores(self, vectors: Sequence[Vector], told: Told | None = None) -> list[float]:
        """See `Pool.scores`.

        Raises:
            ModistError: a candidate failed, or lost its worker too often; no worker comes up.
        """
        if self._closed:
            raise SearchError("the workers were sent home; open a new pool")
        self._call += 1
        todo = deque(range(len(vectors)))
        found: dict[int, float] = {}
        losses: Counter[int] = Counter()
        since = time.monotonic()
        while len(found) < len(vectors):
            while todo and self._idle:
                place, worker = todo.popleft(), self._idle.popleft()
                task = self._cluster.score(worker, np.asarray(vectors[place], dtype=np.float64))
                self._busy[task] = worker, (self._call, place)
            if not self._busy:
                raise SearchError("no worker is left; open a new pool")
            done = self._cluster.wait(list(self._busy), _STEP_S)
            if done is None:
                # A candidate may take as long as it likes; only for workers is there a limit.
                if any(job is not None for _, job in self._busy.values()):
                    since = time.monotonic()
                elif time.monotonic() - since > self._patience:
                    raise SearchError(f"no worker came up in {self._patience:g} s; has the cluster enough free CPUs or GPUs?")
                continue
            since = time.monotonic()
            worker, job = self._busy.pop(done)
            try:
                answer = self._cluster.result(done)
            except LostError as error:
                self._lost(worker, job, str(error), losses)
                if job is not None and job[0] == self._call:
                    todo.appendleft(job[1])
                continue
            if job is None and isinstance(answer, Failure):
                self._cluster.stop(worker)
                raise answer.error()
            self._idle.append(worker)
            # What is left of a call that failed is nobody's any more.
            if job is None or job[0] != self._call:
                continue
            self._never_up = 0
            if isinstance(answer, Failure):
                raise answer.error()
            assert answer is not None
            found[job[1]] = answer
            if told is not None:
                told(job[1], answer)
        return [found[place] for place in range(len(vectors))]

    def close(self) -> None:
        """Ends all workers at once."""
        if not self._closed:
            self._closed = True
            for worker in self.workers:
                self._cluster.stop(worker)
            self._cluster.close()

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        worker = self._cluster.start()
        self._busy[self._cluster.build(worker)] = worker, None

    def _lost(self, worker: Any, job: tuple[int, int] | None, how: str, losses: Counter[int]) -> None:
        self._cluster.stop(worker)
        if job is None:
            self._never_up += 1
            if self._never_up >= self._most_never_up:
                raise SearchError(f"{self._never_up} workers in a row were lost before they came up: {how}")
        elif job[0] == self._call:
            losses[job[1]] += 1
            if losses[job[1]] >= self._attempts:
                raise SearchError(
                    f"candidate {job[1] + 1} of its generation lost its worker {self._attempts} times (out of memory?): {how}"
                )
        self._note(f"a worker was lost ({how}); another one takes its place")
        self._start()
