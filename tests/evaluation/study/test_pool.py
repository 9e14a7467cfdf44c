"""Pieces of work in spawned processes: what they find, how they fail, and that none outlives its study."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from modist.errors import ModistError, UserError
from modist.evaluation.study.pool import Crew


def ignore(name: str, number: int, total: int) -> None:
    pass


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_is_done_and_told(workers: int) -> None:
    told: list[tuple[int, int]] = []
    with Crew(workers, 1) as crew:
        work = {f"{base}": partial(pow, base, 2) for base in range(5)}
        assert crew.do(work, lambda name, number, total: told.append((number, total))) == {str(n): n * n for n in range(5)}
        assert crew.do({"threads": partial(os.getenv, "OMP_NUM_THREADS", "")}, ignore)["threads"] in (
            "1",
            *[""] * (not workers),
        )
        assert crew.do({}, ignore) == {}
    assert told == [(number, 5) for number in range(1, 6)]


class Failing:
    def __call__(self) -> int:
        raise UserError("cannot be")


class Done:
    def done(self) -> bool:
        return True

    def __call__(self) -> int:
        return os.getpid()


def test_one_s_failure_waits_for_the_others() -> None:
    told: list[str] = []
    with Crew(0, None) as crew, pytest.raises(UserError, match=r"^bad: cannot be \(and 1 more failed\)$"):
        work = {"bad": Failing(), "good": partial(operator.add, 1, 1), "worse": Failing()}
        crew.do(work, lambda name, number, total: told.append(name))
    assert told == ["bad", "good", "worse"]


def test_a_process_that_dies_is_one_line() -> None:
    with Crew(1, None) as crew, pytest.raises(ModistError, match=r"^dies: its process died \(out of memory\?\)"):
        crew.do({"dies": partial(os._exit, 3)}, ignore)


def test_what_is_done_already_needs_no_process() -> None:
    with Crew(2, None) as crew:
        assert crew.do({"here": Done()}, ignore) == {"here": os.getpid()}
        assert crew.do({"there": partial(os.getpid)}, ignore) != {"there": os.getpid()}


_MAIN = """
import os, sys, time
from functools import partial
from modist.evaluation.study.pool import Crew

def told(name, number, total):
    pass

if __name__ == "__main__":
    with Crew(1, None) as crew:
        print(crew.do({"pid": partial(os.getpid)}, told)["pid"], flush=True)
        crew.do({"long": partial(time.sleep, 600)}, told)
"""


def test_no_process_outlives_a_killed_study(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(_MAIN)
    running = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    worker = int(running.stdout.readline())
    os.kill(worker, 0)
    running.kill()
    running.wait()
    running.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the worker is still there after 10 seconds")
