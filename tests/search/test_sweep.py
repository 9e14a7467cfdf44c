"""Accuracy along the weights: where it is asked, what is refused, what is read again and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from modist.errors import UserError
from modist.evaluation.generators.generator import Ask, Reply, Sampling
from modist.search import sweep as module
from modist.search.gate_gain import GateGain
from modist.search.mixture_drawing import accuracies, gated
from modist.search.sweep import GRID, Place, Point, Sweep, paired, parse_grid, places, read_development, sweep_accuracy

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "examples" / "experts" / "questions"
NAMES = ("left", "right")
GATE = GateGain(0.9, 4, np.array([0.5, 0.5]), 1.0, 1.1, (0.2, 0.05))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,0.1,...,1", GRID),
        ("0,0.25,0.5", (0, 0.25, 0.5)),
        (" 0.2, 0.4, ..., 0.9", (0.2, 0.4, 0.6, 0.8, 0.9)),
        ("0,0.1,0.2,...,0.4", (0, 0.1, 0.2, 0.3, 0.4)),
        ("1,0,1", (0, 1)),
        ("0.5", (0.5,)),
    ],
)
def test_a_grid_is_read(text: str, expected: Sequence[float]) -> None:
    assert parse_grid(text) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1.5", "1.5 is no weight"),
        ("0,-0.1", "-0.1 is no weight"),
        ("0,half", "'half' is no number"),
        ("", "'' is no number"),
        ("0,...,1", "write first,second,...,last"),
        ("0,0.1,...", "write first,second,...,last"),
        ("0.5,0.5,...,1", "steps of 0 do not lead"),
        ("0,0.5,...,0.2", "steps of 0.5 do not lead"),
        ("0,1e-9,...,1", "do not lead"),
        ("nan", "nan is no weight"),
    ],
)
def test_a_grid_that_is_none(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"--grid {text}".replace(".", r"\.") + ".*" + says):
        parse_grid(text)


def test_the_parents_are_at_the_ends_and_every_place_is_asked_once() -> None:
    found = places(NAMES, (0.3, 0.7), (0.9, 0.1), None, GATE)
    assert found[0] == Place((0.0, 1.0), ("right",))
    assert found[-2] == Place((1.0, 0.0), ("left",))
    assert found[-1] == Place((0.5, 0.5), ("gate",), (0.9, 4))
    curve = found[:-1]
    assert [place.weights[0] for place in curve] == pytest.approx(list(GRID))
    assert [place.labels for place in curve if place.weights[0] in (0.3, 0.9)] == [("likelihood",), ("recipe",)]
    # A grid without them still has the ends, the likeliest and the recipe's.
    few = places(NAMES, (0.3333333, 0.6666667), (1, 0), (0.5,))
    assert [place.weights[0] for place in few] == [0, 0.333333, 0.5, 1]
    assert few[-1].labels == ("left", "recipe")


def test_places_of_three() -> None:
    found = places(("a", "b", "c"), (0.5, 0.3, 0.2), (0.5, 0.3, 0.2))
    assert [place.labels for place in found[:4]] == [("a",), ("b",), ("c",), ("likelihood", "recipe")]
    assert [place.weights for place in found[4:]] == [
        (0.333334, 0.333333, 0.333333),
        (0.75, 0.15, 0.1),
        (0.25, 0.65, 0.1),
        (0.25, 0.15, 0.6),
    ]
    with pytest.raises(UserError, match="--grid is of the first of two experts' weights; these are 3"):
        places(("a", "b", "c"), (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), (0.5,))


# Answering


def benchmark(folder: Path, name: str = "mine-dev", count: int = 10, split: str = "development", word: str = "what") -> Path:
    rows = [{"question": f"{word} is number {place} of {name}?", "answer": str(place)} for place in range(count)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [f"name: {name}", f"file: {name}.jsonl", "question: question", "gold: answer", "kind: text", "prompt: plain"]
    path = folder / f"{name}.yml"
    path.write_text("\n".join([*lines, f"split: {split}", "max_new_tokens: 8", ""]), encoding="utf-8")
    return path


class Fake:
    """Answers a question rightly where its number is below ten times the first weight; under a gate all."""

    name, batch_size = "fake", 4
    asked: ClassVar[list[str]] = []
    closed = 0

    def __init__(self, place: Place | None = None) -> None:
        self.place, self.notes = place, []

    def describe(self) -> dict[str, Any]:
        assert self.place is not None
        return {"kind": "mixture", "weights": list(self.place.weights), "gate": self.place.gate}

    def length(self, prompt: Any) -> int:
        return len(str(prompt))

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        assert self.place is not None
        Fake.asked += [ask.key for ask in asks]
        found = []
        for ask in asks:
            number = str(ask.prompt).split("number ")[1].split(" ")[0]
            right = self.place.gate is not None or int(number) < 10 * self.place.weights[0]
            found.append(Reply(ask.key, number if right else "none", str(ask.prompt), 1, 1, "stop", 0.0))
        return found

    def close(self) -> None:
        Fake.closed += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    Fake.asked, Fake.closed = [], 0
    monkeypatch.setattr("modist.evaluation.generators.open_generator", lambda *_, **__: Fake())
    monkeypatch.setattr(module, "weighed", lambda generator, place: Fake(place))
    return Fake


def test_every_place_is_answered_once_and_then_read(tmp_path: Path, fake: type[Fake]) -> None:
    asked = read_development([str(benchmark(tmp_path))])
    wanted = places(NAMES, (0.3, 0.7), (0.9, 0.1), (0.5,), GATE)
    shares: list[float] = []
    one = sweep_accuracy(tmp_path / "r.yml", NAMES, wanted, asked, tmp_path / "c", advance=shares.append)
    assert [point.place for point in one.points] == wanted
    assert [sum(point.right[0]) for point in one.points] == [0, 3, 5, 9, 10, 10]
    assert len(fake.asked) == 60
    assert fake.closed == 1
    assert shares == sorted(shares)
    assert shares[-1] == 1
    # Added places are answered, the others are on disk.
    more = places(NAMES, (0.3, 0.7), (0.9, 0.1), (0.5, 0.7), GATE)
    two = sweep_accuracy(tmp_path / "r.yml", NAMES, more, asked, tmp_path / "c")
    assert len(fake.asked) == 70
    assert {point.place: point.right for point in two.points}.items() >= {p.place: p.right for p in one.points}.items()


def test_a_killed_sweep_goes_on(tmp_path: Path, fake: type[Fake]) -> None:
    asked = read_development([str(benchmark(tmp_path))])
    wanted = places(NAMES, (0.3, 0.7), (0.9, 0.1), (0.5,))

    class Killed(BaseException):
        pass

    def kill(share: float) -> None:
        if share > 0.5:
            raise Killed

    with pytest.raises(Killed):
        sweep_accuracy(tmp_path / "r.yml", NAMES, wanted, asked, tmp_path / "c", advance=kill)
    before = len(fake.asked)
    found = sweep_accuracy(tmp_path / "r.yml", NAMES, wanted, asked, tmp_path / "c")
    assert 20 <= before < 50
    # What was in the killed batch is asked again, and nothing else is.
    assert len(fake.asked) <= 50 + fake.batch_size
    assert [sum(point.right[0]) for point in found.points] == [0, 3, 5, 9, 10]


def test_test_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gsm8k: is a test set"):
        read_development(["gsm8k"])
    with pytest.raises(UserError, match="demo-math: is a test set"):
        read_development([str(QUESTIONS / "math.yml")])
    with pytest.raises(UserError, match="mmlu-mine: is a test set"):
        read_development([str(benchmark(tmp_path, "mmlu-mine"))])
    with pytest.raises(UserError, match="at least one --benchmark"):
        read_development([])
    # A test set's questions under another name, declared a development split beside it.
    test = benchmark(tmp_path, "exam", split="test")
    (tmp_path / "mine-dev.jsonl").write_text((tmp_path / "exam.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    copied = tmp_path / "mine-dev.yml"
    copied.write_text(test.read_text(encoding="utf-8").replace("exam", "mine-dev").replace("split: test", "split: development"))
    with pytest.raises(UserError, match="of the test set exam; what a search is scored on"):
        read_development([str(copied)])
    assert [one.name for one in read_development([str(QUESTIONS / "math.dev.yml")])] == ["demo-math-dev"]


# What is said


def swept(*columns: tuple[tuple[float, ...], str, int, int], total: int = 100) -> Sweep:
    """Points of two benchmarks: (weights, label, right of the first, right of the second)."""
    points = [
        Point(
            Place(weights, (label,) if label else (), (0.9, 4) if label == "gate" else None),
            tuple(tuple(place < right for place in range(total)) for right in rights),
        )
        for weights, label, *rights in columns
    ]
    return Sweep(NAMES, ("words", "sums"), tuple(points))


def test_accuracies_and_their_intervals() -> None:
    found = swept(((0, 1), "right", 10, 90), ((0.5, 0.5), "likelihood", 60, 80), ((1, 0), "left", 95, 3))
    assert [point.accuracy[0] for point in found.points] == pytest.approx([0.5, 0.7, 0.49])
    value, low, high = found.points[1].of(0)
    assert value == 0.6
    assert (low, high) == pytest.approx((0.5020, 0.6906), abs=1e-3)
    assert found.best is found.points[1]
    assert [point.place.labels for point in found.parents] == [("left",), ("right",)]
    assert found.questions == 200
    told = found.as_dict()
    assert told["best"]["weights"] == [0.5, 0.5]
    assert told["points"][0]["benchmarks"] == [
        {"name": "words", "right": 10, "total": 100},
        {"name": "sums", "right": 90, "total": 100},
    ]
    assert told["points"][1]["labels"] == ["likelihood"]
    json.dumps(told, allow_nan=False)


def test_the_likeliest_is_held_against_the_better_parent_and_what_it_loses_is_said() -> None:
    found = swept(
        ((0, 1), "right", 0, 90), ((0.3, 0.7), "likelihood", 0, 90), ((0.5, 0.5), "", 60, 80), ((1, 0), "left", 95, 0),
        ((0.5, 0.5), "gate", 93, 89),
    )  # fmt: skip
    likeliest, gate, best = found.findings()
    assert "answer 45.0%" in likeliest
    assert "the better parent, left, 47.5%" in likeliest
    assert "but 0.0% of words, where left alone has 95.0%" in likeliest
    assert "sums" not in likeliest
    assert "answers 91.0%" in gate
    assert "but" not in gate
    assert "the highest of the 5 places is 70.0%" in best
    assert "weights [0.5, 0.5], chosen on these very questions" in best
    # The gated point is on no curve, and never the best weights of a plain mixture.
    assert [curve.name for curve in accuracies(found)] == ["words", "sums", "mean"]
    assert accuracies(found)[2].at == (0, 0.3, 0.5, 1)
    star = gated(found)
    assert star is not None
    assert (star.at, star.value) == (0.5, 0.91)


def test_where_the_likeliest_are_best_nothing_is_said_of_another() -> None:
    found = swept(((0, 1), "right", 0, 90), ((0.5, 0.5), "likelihood", 90, 90), ((1, 0), "left", 90, 0))
    (line,) = found.findings()
    assert "p = " in line
    assert paired(found.points[1], found.points[0]) < 1e-6
    assert paired(found.points[0], found.points[0]) == 1
    assert gated(found) is None
