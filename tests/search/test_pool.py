"""Pools: scores in order whoever is done first, and every way of losing a worker, with workers played by a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from modist.errors import ModistError, UserError
from modist.search import pool as pools
from modist.search.pool import ClusterPool, Failure, LocalPool, LostError, SearchError

VECTORS = [np.array([float(number)]) for number in range(7)]


class Workshop:
    """The merged model is the vector."""

    tokenizer = "its tokenizer"

    def __init__(self) -> None:
        self.closed = 0

    def merge(self, vector: np.ndarray) -> np.ndarray:
        return vector

    def close(self) -> None:
        self.closed += 1


class Square:
    name = "square"

    def __call__(self, model: Any, tokenizer: Any) -> Any:
        assert tokenizer == "its tokenizer"
        return {5.0: float("nan"), 6.0: float("-inf"), 7.0: "seven"}.get(model[0], -(model[0] ** 2))


def test_local_scores_are_in_order() -> None:
    told: list[tuple[int, float]] = []
    pool = LocalPool(Workshop(), Square())
    assert pool.scores(VECTORS[:4], lambda *one: told.append(one)) == [0.0, -1.0, -4.0, -9.0]
    assert told == [(0, 0.0), (1, -1.0), (2, -4.0), (3, -9.0)]
    assert pool.scores([]) == []


@pytest.mark.parametrize(("number", "shown"), [(5.0, "nan"), (6.0, "-inf"), (7.0, "'seven'")])
def test_a_score_that_is_no_number_names_the_metric(number: float, shown: str) -> None:
    with pytest.raises(ModistError, match=f"^square: gives {shown}, which is no number to search by$"):
        LocalPool(Workshop(), Square()).scores([np.array([number])])


def test_local_close() -> None:
    workshop = Workshop()
    LocalPool(workshop, Square()).close()
    assert workshop.closed == 1


@dataclass(eq=False)
class Task:
    worker: int
    vector: float | None


class Played:
    """Workers of which one does one thing at each wait: it comes up, or the newest task is done as `fate` says."""

    def __init__(self, fate: Callable[[Task], Any] = lambda task: None, newest: bool = True) -> None:
        self.fate = fate
        self.order = 1 if newest else -1
        self.started = 0
        self.stopped: list[int] = []
        self.tasks: list[Task] = []
        self.log: list[tuple[int, float]] = []
        self.closed = 0

    def start(self) -> int:
        self.started += 1
        return self.started

    def build(self, worker: int) -> Task:
        return self._task(worker, None)

    def score(self, worker: int, vector: np.ndarray) -> Task:
        self.log.append((worker, float(vector[0])))
        return self._task(worker, float(vector[0]))

    def _task(self, worker: int, vector: float | None) -> Task:
        assert worker not in self.stopped
        self.tasks.append(Task(worker, vector))
        return self.tasks[-1]

    def wait(self, tasks: Sequence[Task], seconds: float) -> Task | None:
        assert tasks
        ready = [task for task in tasks if self.fate(task) != "never"]
        return max(ready, key=lambda task: (task.vector is None, self.order * self.tasks.index(task))) if ready else None

    def result(self, task: Task) -> Any:
        fate = self.fate(task)
        if isinstance(fate, Exception):
            raise fate
        if fate is not None:
            return fate
        return None if task.vector is None else -(task.vector**2)

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_scores_are_in_order_for_any_number_of_workers(workers: int) -> None:
    played, told = Played(), {}
    with ClusterPool(played, workers) as pool:
        found = pool.scores(VECTORS, told.__setitem__)
        again = pool.scores(VECTORS[::-1])
    assert found == [-float(number**2) for number in range(7)] and again == found[::-1]
    assert told == dict(enumerate(found))
    assert played.started == workers and sorted(played.stopped) == list(range(1, workers + 1)) and played.closed == 1
    assert len(played.log) == 14


def lose(vector: float | None, times: int) -> Callable[[Task], Any]:
    """The first so many workers that are at this candidate are lost with it."""
    victims: list[int] = []

    def fate(task: Task) -> Any:
        if task.vector == vector and (task.worker in victims or len(victims) < times):
            victims.append(task.worker) if task.worker not in victims else None
            return LostError("killed")
        return None

    return fate


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_worker_costs_its_candidate_alone(workers: int, times: int) -> None:
    played, notes = Played(lose(3.0, times)), []
    with ClusterPool(played, workers, note=notes.append) as pool:
        assert pool.scores(VECTORS) == [-float(number**2) for number in range(7)]
    done = [vector for _, vector in played.log]
    assert sorted(done) == sorted([*map(float, range(7)), *[3.0] * times])
    assert played.started == workers + times
    assert notes == ["a worker was lost (killed); another one takes its place"] * times


def test_a_candidate_that_loses_every_worker_is_given_up() -> None:
    played = Played(lose(3.0, 99))
    pool = ClusterPool(played, 2, attempts=3)
    with pytest.raises(
        SearchError, match=r"^candidate 4 of its generation lost its worker 3 times \(out of memory\?\): killed$"
    ):
        pool.scores(VECTORS)
    assert [vector for _, vector in played.log].count(3.0) == 3
    pool.close()


def test_losses_of_different_candidates_are_not_added_up() -> None:
    lost: set[float] = set()

    def fate(task: Task) -> Any:
        if task.vector is None or (
            task.vector in lost and task.worker not in {worker for worker, v in first if v == task.vector}
        ):
            return None
        lost.add(task.vector)
        first.append((task.worker, task.vector))
        return LostError("killed")

    first: list[tuple[int, float]] = []
    played = Played(fate)
    assert ClusterPool(played, 2, attempts=2).scores(VECTORS) == [-float(number**2) for number in range(7)]
    assert played.started == 2 + 7


def test_workers_that_never_come_up() -> None:
    played = Played(lambda task: LostError("no memory") if task.vector is None else None)
    with pytest.raises(SearchError, match=r"^6 workers in a row were lost before they came up: no memory$"):
        ClusterPool(played, 2, attempts=3).scores(VECTORS)
    assert played.started == 2 + 5


def test_workers_that_come_up_now_and_then() -> None:
    """Every second worker is lost before it is up, and every candidate costs one; never are two lost in a row."""
    seen: dict[float, int] = {}

    def fate(task: Task) -> Any:
        if task.vector is None:
            return LostError("no memory") if task.worker % 2 == 0 else None
        return LostError("killed") if seen.setdefault(task.vector, task.worker) == task.worker else None

    played = Played(fate)
    assert ClusterPool(played, 1, attempts=2).scores(VECTORS) == [-float(number**2) for number in range(7)]
    assert played.started == 15


def test_one_worker_that_comes_up_is_enough() -> None:
    played = Played(lambda task: "never" if task.vector is None and task.worker > 1 else None)
    assert ClusterPool(played, 3).scores(VECTORS) == [-float(number**2) for number in range(7)]


def test_nobody_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_STEP_S", 0.01)
    with pytest.raises(SearchError, match=r"^no worker came up in 0\.05 s; has the cluster enough free CPUs or GPUs\?$"):
        ClusterPool(Played(lambda task: "never"), 2, patience_s=0.05).scores(VECTORS)


@pytest.mark.parametrize(("status", "kind"), [(2, UserError), (1, SearchError)])
@pytest.mark.parametrize("lost", [False, True])
def test_a_failing_candidate_is_not_tried_again(status: int, kind: type[ModistError], lost: bool) -> None:
    fates: dict[float | None, Any] = {3.0: Failure("nobody can merge that", status), 4.0: LostError("killed") if lost else None}
    played = Played(lambda task: fates.get(task.vector), newest=False)
    pool = ClusterPool(played, 2)
    with pytest.raises(kind, match=r"^nobody can merge that$"):
        pool.scores(VECTORS)
    assert [vector for _, vector in played.log] == [0.0, 1.0, 2.0, 3.0, 4.0]
    # What the other worker was at is nobody's: its score, or its loss, does not turn up among the next ones.
    assert pool.scores([np.array([10.0]), np.array([11.0])]) == [-100.0, -121.0]
    assert [vector for _, vector in played.log][5:] == [10.0, 11.0]
    assert played.started == 2 + lost


def test_a_workshop_that_cannot_be_made_is_an_error_at_once() -> None:
    played = Played(lambda task: Failure("there is no such expert", 2) if task.vector is None else None)
    pool = ClusterPool(played, 1)
    with pytest.raises(UserError, match=r"^there is no such expert$"):
        pool.scores(VECTORS)
    assert played.started == 1 and played.stopped == [1]
    with pytest.raises(SearchError, match=r"^no worker is left; open a new pool$"):
        pool.scores(VECTORS)


def test_a_closed_pool() -> None:
    played = Played()
    pool = ClusterPool(played, 2)
    pool.close()
    pool.close()
    assert played.closed == 1 and played.stopped == [1, 2]
    with pytest.raises(SearchError, match=r"sent home"):
        pool.scores(VECTORS)
    with pytest.raises(UserError, match=r"^0 workers: there must be at least 1$"):
        ClusterPool(played, 0)


def test_failures_as_text() -> None:
    assert Failure.of(UserError("a: b")) == Failure("a: b", 2)
    assert Failure.of(ModistError("a: b")) == Failure("a: b", 1)
    assert Failure.of(ValueError("two\nlines")) == Failure("ValueError: two lines", 1)
