"""A search killed anywhere and given again is the search that was never killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from modist.search import journal
from tests.search.evolve_driver import FakePool, Killed, go

pytest.importorskip("cma")
ROOT = Path(__file__).parents[2]
Told = list[list[tuple[tuple[float, ...], float, int]]]


def told(folder: Path, pool: FakePool | None = None) -> Told:
    """Every candidate of both searches."""
    return [
        [(entry.vector, entry.score, entry.generation) for entry in one.candidates] for one in go(folder, pool or FakePool())
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told(tmp_path_factory.mktemp("whole") / "a")


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("after", sorted(random.Random(5).sample(range(1, 119), 10)))
def test_killed_while_a_candidate_is_scored(tmp_path: Path, whole: Told, after: int, shuffled: bool) -> None:
    with pytest.raises(Killed):
        go(tmp_path / "a", FakePool(after=after, shuffled=shuffled))
    pool = FakePool(shuffled=shuffled)
    assert told(tmp_path / "a", pool) == whole
    # Nothing is scored twice.
    assert len(pool.asked) == 119 - after


def test_killed_again_and_again(tmp_path: Path, whole: Told) -> None:
    left = 119
    while left > 0:
        pool = FakePool(after=min(left, 7), shuffled=True)
        with suppress(Killed):
            assert told(tmp_path / "a", pool) == whole
        left -= len(pool.asked)
    assert told(tmp_path / "a", FakePool(after=0)) == whole


class Faulty:
    """`os` of the journal, that dies at the nth call of one of its functions: before it, after it, or after part of it."""

    def __init__(self, name: str, left: int, when: str) -> None:
        self._name, self._left, self._when = name, left, when

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._faulty(real) if name == self._name else real

    def _faulty(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left >= 0:
                return real(*args)
            if self._when == "torn":
                real(args[0], args[1][:1])
            elif self._when == "half":
                real(args[0], args[1][: len(args[1]) // 2])
            elif self._when == "after":
                real(*args)
            raise Killed

        return call


FAULTS = [
    ("write", 0, "torn"),
    ("write", 20, "half"),
    ("write", 20, "before"),
    ("write", 21, "after"),
    ("write", 90, "torn"),
    ("fsync", 0, "before"),
    ("fsync", 1, "after"),
    ("fsync", 2, "before"),
    ("fsync", 30, "after"),
]


@pytest.mark.parametrize(("name", "calls", "when"), FAULTS)
def test_killed_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Told, name: str, calls: int, when: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", Faulty(name, calls, when))
        with pytest.raises(Killed):
            go(tmp_path / "a", FakePool())
    assert told(tmp_path / "a") == whole
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["lock", "search.jsonl"]


def test_cut_anywhere(tmp_path: Path, whole: Told) -> None:
    """Whatever part of the file a crash of the machine left, only what is lost is scored again."""
    go(tmp_path / "a", FakePool())
    path = tmp_path / "a" / "search.jsonl"
    data = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    cuts = {*random.Random(1).sample(range(len(data)), 6), 0, ends[0] - 1, *(ends[4] + by for by in (-1, 0, 1)), len(data)}
    for cut in sorted(cuts):
        for rest in (b"",) if cut % 2 else (b"\x00" * 40,):
            path.write_bytes(data[:cut] + rest)
            pool = FakePool()
            assert told(tmp_path / "a", pool) == whole, cut
            assert len(pool.asked) == 119 - max(0, sum(end <= cut for end in ends) - 1), cut
            # What was torn is gone, so that nothing is written behind it.
            assert told(tmp_path / "a", FakePool(after=0)) == whole, cut


@pytest.mark.parametrize("damage", ["zeros", "lost", "doubled", "swapped", "nan"])
def test_damaged_lines_are_scored_again(tmp_path: Path, whole: Told, damage: str) -> None:
    go(tmp_path / "a", FakePool())
    path = tmp_path / "a" / "search.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    again = 1
    if damage == "zeros":
        lines[9] = b"\x00" * (len(lines[9]) - 1) + b"\n"
    elif damage == "lost":
        del lines[9]
    elif damage == "doubled":
        lines.insert(9, lines[9])
        again = 0
    elif damage == "swapped":
        lines[9], lines[30] = lines[30], lines[9]
        again = 0
    else:
        lines[9] = json.dumps({**json.loads(lines[9]), "score": float("nan")}).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    pool = FakePool()
    assert told(tmp_path / "a", pool) == whole and len(pool.asked) == again


def spawn(wanted: dict[str, Any]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "tests.search.evolve_driver", json.dumps(wanted)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def answer(process: subprocess.Popen[str]) -> list[Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return list(json.loads(out.splitlines()[-1]))


def scored(folder: Path) -> int:
    """How many whole lines of scores there are."""
    path = folder / "search.jsonl"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def killed_and_resumed(folder: Path, after: int, seconds: float, wanted: dict[str, Any], **once: Any) -> tuple[list[Any], int]:
    """What a search says that was killed some time after so many scores, and how many it had by then.

    Args:
        once: more for the process that is killed.
    """
    process = spawn({**wanted, **once, "folder": str(folder)})
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    while scored(folder) < after and process.poll() is None:
        time.sleep(0.001)
    time.sleep(seconds)
    # Not os.kill: on a busy machine the search may have ended meanwhile, and been waited for by `poll`.
    process.kill()
    process.communicate()
    done = scored(folder)
    return answer(spawn({**wanted, "folder": str(folder)})), done


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    wanted = {"budget": 20}
    best, random_best = (list(one.best.vector) for one in go(tmp_path / "whole", FakePool(), budget=20))
    found, done = killed_and_resumed(tmp_path / "a", 9, 0.005, wanted, hang=9)
    assert (found[:2], done, found[2]) == ([best, random_best], 9, 39 - 9)


# A minute where the machine is free; forty processes are started, and every score is synced to disk.
@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_killed_at_twenty_random_moments(tmp_path: Path, order: str) -> None:
    """From before the first score to the last one, in its file's writing or between two."""
    wanted = {"pause": 0.01, "budget": 60, "genes": 6, "told": order}
    whole = answer(spawn({**wanted, "folder": str(tmp_path / "whole")}))
    drawn, counts = random.Random(11 if order == "shuffled" else 7), []
    for number in range(20):
        found, done = killed_and_resumed(tmp_path / f"{number}", drawn.randrange(118), drawn.uniform(0, 0.03), wanted)
        assert found[:2] == whole[:2], number
        counts.append(done)
    print(f"killed after {sorted(counts)} of 119 candidates")
    assert len({count for count in counts if 0 < count < 119}) >= 10
