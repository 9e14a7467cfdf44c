"""Worker processes: order, limits, and every way in which one may fail."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from modist.errors import ModistError, UserError
from modist.evaluation.answers import graders as module
from modist.evaluation.answers.graders import Graders, Job

# A worker whose grader misbehaves at certain answers; the rest is as it is.
FAULTY = textwrap.dedent("""
    import os, sys, time
    from modist.evaluation.answers import judge, worker
    right = judge.settle
    def settle(question):
        which, gold, span = question
        if "hang" in gold and which == "default":
            time.sleep(1000)
        if "crash" in gold:
            os._exit(3)
        if "deep" in gold:
            return settle(question)
        if "memory" in gold:
            return len(bytearray(6 << 30)) > 0
        if ("late" in gold or "lag" in gold) and which == "compatible":
            while True: pass
        return right(question)
    judge.settle = settle
    worker.main(int(sys.argv[1]), float(sys.argv[2]))
""")


def job(gold: str, answer: str) -> Job:
    return gold, rf"\boxed{{{answer}}}", "math", (), None


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "command", lambda fd, seconds: [sys.executable, "-c", FAULTY, str(fd), str(seconds)])
    yield


def test_a_bad_answer_costs_itself_only(faulty: None) -> None:
    jobs = [job(rf"\frac{{x}}{{{n}}}+y", rf"y+x/{n if n % 2 else n + 1}") for n in range(1, 15)]
    bad = {3: "x_{hang}+1", 5: "x_{crash}+1", 8: "x_{deep}+1", 9: "x_{memory}+1", 11: "x_{late}+1"}
    for place, gold in bad.items():
        jobs[place] = job(gold, "1+x")
    jobs[13] = job("x_{lag}+1", "1+x_{lag}")
    with Graders(1, 1.5) as graders:
        found = graders.grade(jobs)
    # n is odd in even places.
    expected = [place % 2 == 0 and place not in bad for place in range(13)] + [True]
    assert [one.equal for one in found] == expected
    assert "time limit of 1.5 s (default grader)" in found[3].note
    assert "died" in found[5].note
    assert "RecursionError" in found[8].note
    assert "MemoryError" in found[9].note
    # What the default grader had said before the other one hung is kept.
    assert found[13].note == "time limit of 1.5 s (compatible grader)"
    assert not found[13].equal_compatible
    assert all(not one.note for place, one in enumerate(found) if place not in (*bad, 13))
    assert [one.extracted for one in found] == [answer[len(r"\boxed{") : -1] for _, answer, *_ in jobs]


def test_two_workers_give_the_same(faulty: None) -> None:
    jobs = [job(rf"\frac{{x}}{{{n}}}+z", rf"z+x/{n if n % 3 else n + 1}") for n in range(1, 13)]
    with Graders(2, 5) as two, Graders(1, 5) as one:
        assert two.grade(jobs) == one.grade(jobs)


def test_plain_answers_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "command", lambda fd, seconds: pytest.fail("a process was started"))
    with Graders() as graders:
        found = graders.grade(
            [job("1,000", "1000"), job("5", "6"), job("Tom", "tom"), ("7", "x" * 100_000 + " 7", "math", (), None)]
        )
    assert [one.equal for one in found] == [True, False, True, True]
    assert found[3].note == "cut to its last 20,000 characters"


def test_what_was_asked_is_remembered() -> None:
    jobs = [job("x+1", "1+x"), job("x+1", "1+x"), job("x+1", "x+2")]
    with Graders() as graders:
        first = graders.grade(jobs)
        for worker in graders._crew:
            worker.end()
        graders._crew = []
        began = time.monotonic()
        assert graders.grade(jobs) == first
        assert not graders._crew
        assert time.monotonic() - began < 1
    assert [one.equal for one in first] == [True, True, False]


def test_a_worker_killed_while_idle_is_replaced() -> None:
    with Graders() as graders:
        assert graders.grade([job("a+1", "1+a")])[0].equal
        os.kill(graders._crew[0].process.pid, signal.SIGKILL)
        graders._crew[0].process.wait()
        found = graders.grade([job("b+1", "1+b"), job("c+1", "1+c")])
    assert found[1].equal
    # It may take one answer along, which then says so.
    assert found[0].equal or "died" in found[0].note


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise RuntimeError('no such luck')", "no such luck"), ("import os; os._exit(7)", "exit status 7")],
)
def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    monkeypatch.setattr(module, "command", lambda fd, seconds: [sys.executable, "-c", code])
    with Graders(2) as graders, pytest.raises(ModistError, match=f"do not start: .*{words}"):
        graders.grade([job("x+1", "1+x")])


def test_a_worker_that_never_gets_ready_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "command", lambda fd, seconds: [sys.executable, "-c", "import time; time.sleep(1000)"])
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    with Graders() as graders, pytest.raises(ModistError, match=r"not ready after 0\.2 s"):
        graders.grade([job("x+1", "1+x")])


def test_from_a_thread() -> None:
    found = []
    with Graders() as graders:
        thread = threading.Thread(target=lambda: found.extend(graders.grade([job("x+1", "1+x")])))
        thread.start()
        thread.join()
    assert found[0].equal


def test_nothing_to_do() -> None:
    with Graders() as graders:
        assert graders.grade([]) == []


@pytest.mark.parametrize(
    ("workers", "seconds", "words"), [(0, 5.0, "at least 1"), (1, 0.0, "more than 0"), (1, float("nan"), "more")]
)
def test_ranges(workers: int, seconds: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Graders(workers, seconds)


@pytest.mark.full
def test_a_formula_that_never_ends() -> None:
    monsters = [
        job("1", r"7^{7^{7^7}}"),
        job("x", r"\binom{1000000000}{500000000}"),
        job("5", r"\frac{9^{9^{9^9}}}{9^{9^{9}}}"),
    ]
    with Graders(1, 2) as graders:
        began = time.monotonic()
        found = graders.grade([*monsters, job("x+1", "1+x")])
        assert time.monotonic() - began < 60
    assert [one.equal for one in found] == [False, False, False, True]
