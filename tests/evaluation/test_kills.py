"""A run killed anywhere and resumed is the run that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation import journal, run
from modist.evaluation.journal import Journal
from modist.evaluation.run import Settings, evaluate, read_results
from modist.evaluation.table import build
from tests.evaluation.fake_runs import FakeGenerator, FakeGraders, sums, told

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """What no handler of the code under test may catch."""


@pytest.fixture(autouse=True)
def fake_graders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Graders", FakeGraders)


def go(folder: Path) -> FakeGenerator:
    generator = FakeGenerator()
    evaluate(generator, [sums(20), sums(4, "few")], folder, None, Settings())
    return generator


@pytest.fixture
def whole(tmp_path: Path) -> list[dict[str, Any]]:
    go(tmp_path / "whole")
    return told(tmp_path / "whole")


class Faulty:
    """`os` of the journal, that dies at the nth call of one of its functions: before it, after it, or after one byte."""

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


# The plan is synced first, then its folder, then the folder again, then each of the nine batches.
FAULTS = [
    ("write", 0, "torn"),
    ("write", 4, "torn"),
    ("write", 4, "half"),
    ("write", 4, "before"),
    ("write", 8, "after"),
    ("fsync", 0, "before"),
    ("fsync", 0, "after"),
    ("fsync", 1, "before"),
    ("fsync", 2, "after"),
    ("fsync", 5, "before"),
    ("fsync", 11, "after"),
]


@pytest.mark.parametrize(("name", "calls", "when"), FAULTS)
def test_killed_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[dict[str, Any]], name: str, calls: int, when: str
) -> None:
    folder = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", Faulty(name, calls, when))
        with pytest.raises(Killed):
            go(folder)
    left = len(told_so_far(folder))
    generator = go(folder)
    assert told(folder) == whole
    # Nothing that was whole is asked again.
    assert len(generator.asked) == 9 - left // 3 if left < 20 else 9 - 7 - (left - 20) // 3
    assert sorted(path.name for path in folder.iterdir()) == ["answers.jsonl", "lock", "plan.json"]


def told_so_far(folder: Path) -> list[Any]:
    if not (folder / "plan.json").exists():
        return []
    return list(read_results(folder, partial=True).records)


def test_killed_before_the_plan_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[dict[str, Any]]) -> None:
    def die(self: Path, to: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(Killed):
            go(tmp_path / "a")
    assert not (tmp_path / "a" / "plan.json").exists()
    go(tmp_path / "a")
    assert told(tmp_path / "a") == whole


def test_cut_anywhere(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    """Whatever part of the file a crash of the machine left, at most that batch is asked again."""
    folder = tmp_path / "a"
    go(folder)
    path = folder / "answers.jsonl"
    data = path.read_bytes()
    ends = [0]
    for line in data.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    batches = [ends[3 * n] for n in range(7)] + [ends[20], ends[23], ends[24]]
    cuts = {*random.Random(1).sample(range(len(data)), 12), *(end + by for end in ends[2:6] for by in (-1, 0, 1)), len(data)}
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        generator = go(folder)
        kept = sum(end <= cut for end in batches[1:])
        assert len(generator.asked) == 9 - kept, cut
        assert told(folder) == whole, cut


@pytest.mark.parametrize("damage", ["zeros", "swapped", "lost", "doubled", "edited"])
def test_damaged_batches_are_asked_again_whole(tmp_path: Path, whole: list[dict[str, Any]], damage: str) -> None:
    folder = tmp_path / "a"
    go(folder)
    path = folder / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "zeros":
        lines[4] = b"\x00" * len(lines[4])
    elif damage == "swapped":
        lines[3], lines[4] = lines[4], lines[3]
    elif damage == "lost":
        del lines[4]
    elif damage == "doubled":
        lines.insert(4, lines[4])
    else:
        lines[4] = lines[4].replace(b'"tokens": ', b'"tokens": -')
    path.write_bytes(b"".join(lines))
    generator = go(folder)
    assert len(generator.asked) == 1 and len(generator.asked[0]) == 3 and told(folder) == whole


def test_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a"

    class Nosy(FakeGenerator):
        def answer(self, asks: Any, sampling: Any) -> Any:
            with pytest.raises(UserError, match="another process is running this evaluation"):
                go(folder)
            return super().answer(asks, sampling)

    evaluate(Nosy(), [sums(6)], folder, None, Settings())
    assert len(told(folder)) == 6


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[dict[str, Any]]) -> None:
    class Full(Faulty):
        def _faulty(self, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(descriptor: int, data: bytes) -> int:
                self._left -= 1
                if self._left < 0:
                    real(descriptor, data[:7])
                    raise OSError(28, "No space left on device")
                return int(real(descriptor, data))

            return call

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", Full("write", 3, ""))
        with pytest.raises(journal.EvaluationError, match=r"answers\.jsonl: cannot be written \(No space left"):
            go(tmp_path / "a")
    # Nothing torn stays: the file can be read as it is.
    assert len(told(tmp_path / "a")) == 9
    go(tmp_path / "a")
    assert told(tmp_path / "a") == whole


def test_strange_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for name, said in (("file", "is a file"), ("mine", "was not made by modist eval")):
        with pytest.raises(UserError, match=said):
            go(tmp_path / name)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    plan = {"batches": [], "benchmarks": []}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "lock").touch()
    (tmp_path / "old" / "answers.jsonl").write_text("{}\n")
    with pytest.raises(journal.EvaluationError, match=r"has answers.jsonl and no plan.json"):
        Journal(tmp_path / "old", plan)


def driver(folder: Path, **wanted: Any) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.evaluation.eval_driver", json.dumps({"folder": str(folder), **wanted})]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


def _killed_and_resumed(tmp_path: Path, times: int, **more: Any) -> None:
    assert driver(tmp_path / "whole", **more).wait(120) == 0
    draw = random.Random(7)
    folder = tmp_path / "a"
    killed = 0
    while killed < times:
        process = driver(folder, pause=0.04, **more)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(draw.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        if b"batches" in process.stdout.read():
            # It came to its end first: begin anew.
            for path in folder.iterdir():
                path.unlink()
            continue
        killed += 1
    assert driver(folder, **more).wait(120) == 0
    assert told(folder) == told(tmp_path / "whole")
    keys = [(row["benchmark"], row["id"], row["sample"]) for row in told(folder)]
    assert len(keys) == len(set(keys)) == 180
    one, other = (build([read_results(path)], [], {}) for path in (folder, tmp_path / "whole"))
    assert one.as_dict() == other.as_dict()


def test_killed_and_resumed(tmp_path: Path) -> None:
    _killed_and_resumed(tmp_path, 2)


@pytest.mark.full
def test_killed_twenty_times(tmp_path: Path) -> None:
    _killed_and_resumed(tmp_path, 20)


@pytest.mark.full
def test_killed_twenty_times_with_real_graders(tmp_path: Path) -> None:
    _killed_and_resumed(tmp_path, 20, real=True)
