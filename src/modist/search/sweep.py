"""Accuracy along the weights: the mixture answers development questions at several weights, beside its parents.

Weights of largest likelihood predict given text best; whether more answers come out right with them is another question, which
only answering tells.  Development splits alone are asked: a weight chosen on a test set would leave no result to report.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.errors import UserError
from modist.evaluation.statistics import sign_flip, square_and_add, wilson
from modist.search.solved import rounded

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark
    from modist.search.gate_gain import GateGain

GRID = tuple(step / 10 for step in range(11))
LIKELIHOOD, RECIPE, GATED = "likelihood", "recipe", "gate"
_LONGEST_GRID = 1001


@dataclass(frozen=True)
class Place:
    """Weights at which to ask.

    Attributes:
        weights: a_i, summing to 1.
        labels: why: `likelihood`, `recipe`, `gate`, a parent's name; none for a point of the grid.
        gate: discount and stride of a bayes gate, or None.
    """

    weights: tuple[float, ...]
    labels: tuple[str, ...] = ()
    gate: tuple[float, int] | None = None


@dataclass(frozen=True)
class Point:
    """A place and its answers.

    Attributes:
        place: where.
        right: of each benchmark, question by question, whether the answer is right.
    """

    place: Place
    right: tuple[tuple[bool, ...], ...]

    @cached_property
    def accuracy(self) -> tuple[float, float, float]:
        """The unweighted mean over benchmarks, and its 95% interval: (value, low, high), fractions."""
        each = [self.of(number) for number in range(len(self.right))]
        return square_and_add(*zip(*each, strict=True))

    def of(self, benchmark: int) -> tuple[float, float, float]:
        """The same of one benchmark."""
        count, right = len(self.right[benchmark]), sum(self.right[benchmark])
        return right / count, *wilson(right, count)


@dataclass(frozen=True)
class Sweep:
    """Accuracies on development benchmarks.

    Attributes:
        names: of the experts.
        benchmarks: names.
        points: in the order of the first expert's weight for two experts; the gated one, if any, last.
    """

    names: tuple[str, ...]
    benchmarks: tuple[str, ...]
    points: tuple[Point, ...]

    def labelled(self, label: str) -> Point | None:
        """The point that was asked for under this label."""
        return next((point for point in self.points if label in point.place.labels), None)

    @property
    def parents(self) -> tuple[Point, ...]:
        """Each expert alone, in the recipe's order."""
        found = [next((point for point in self.points if point.place.weights[i] == 1), None) for i in range(len(self.names))]
        return tuple(point for point in found if point is not None)

    @property
    def best(self) -> Point:
        """The first of the highest without a gate.  It was chosen on these questions, which flatters it."""
        return max((point for point in self.points if not point.place.gate), key=lambda point: point.accuracy[0])

    @property
    def questions(self) -> int:
        return sum(map(len, self.points[0].right))

    def findings(self) -> list[str]:
        """What came out, in sentences."""
        parent = max(self.parents, key=lambda point: point.accuracy[0])
        lines = []
        for label, what in ((LIKELIHOOD, "the likeliest weights answer"), (GATED, "the gate with its weights answers")):
            if (point := self.labelled(label)) is None:
                continue
            lines.append(
                f"{what} {_percent(point)} of {self.questions:,} development questions right (the better parent,"
                f" {self._name(parent)}, {_percent(parent)}; p = {paired(point, parent):.2g}){self._lost(point)}"
            )
        best, chosen = self.best, self.labelled(LIKELIHOOD)
        if chosen is not None and best is not chosen:
            shown = ", ".join(f"{weight:.4g}" for weight in best.place.weights)
            lines.append(
                f"the highest of the {len(self.points)} places is {_percent(best)} at weights [{shown}], chosen on these very"
                f" questions (against the likeliest weights p = {paired(best, chosen):.2g})"
            )
        return lines

    def _name(self, parent: Point) -> str:
        return self.names[parent.place.weights.index(1)]

    def _lost(self, point: Point) -> str:
        """Benchmarks on which a parent alone is plainly better: their intervals do not meet."""
        found = []
        for number, name in enumerate(self.benchmarks):
            parent = max(self.parents, key=lambda one, at=number: one.of(at)[0])  # type: ignore[misc]
            if point.of(number)[2] < parent.of(number)[1]:
                there, here = (100 * one.of(number)[0] for one in (parent, point))
                found.append(f"{here:.1f}% of {name}, where {self._name(parent)} alone has {there:.1f}%")
        return f", but {' and '.join(found)}" if found else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; accuracies are fractions."""
        return {
            "metric": "accuracy",
            "benchmarks": list(self.benchmarks),
            "questions": self.questions,
            "points": [self._point(point) for point in self.points],
            "best": self._point(self.best),
        }

    def _point(self, point: Point) -> dict[str, Any]:
        value, low, high = point.accuracy
        gate = point.place.gate
        return {
            "weights": list(point.place.weights),
            "labels": list(point.place.labels),
            "gate": None if gate is None else {"kind": "bayes", "discount": gate[0], "stride": gate[1]},
            "accuracy": value,
            "interval": [low, high],
            "benchmarks": [
                {"name": name, "right": sum(right), "total": len(right)}
                for name, right in zip(self.benchmarks, point.right, strict=True)
            ],
        }


def paired(one: Point, other: Point) -> float:
    """p of a two-sided paired test that both answer as many right, question by question."""
    strata = [
        [float(a) - float(b) for a, b in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(one.right, other.right, strict=True)
    ]
    return sign_flip(strata)


def _percent(point: Point) -> str:
    value, low, high = point.accuracy
    return f"{100 * value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def parse_grid(text: str) -> tuple[float, ...]:
    """Weights of the first expert: `0,0.25,0.5` or, with equal steps, `0,0.1,...,1`.

    Raises:
        UserError: something in it is no weight from 0 to 1, or the steps do not end.
    """
    words = [word.strip() for word in text.split(",")]
    if "..." in words:
        place = words.index("...")
        if place < 2 or len(words) != place + 2:
            raise UserError(f"--grid {text}: write first,second,...,last")
        first, second, last = (_weight(words[at], text) for at in (place - 2, place - 1, place + 1))
        step = second - first
        if step <= 0 or last < second or (last - first) / step > _LONGEST_GRID:
            raise UserError(f"--grid {text}: steps of {step:g} do not lead from {first:g} to {last:g}")
        count = math.floor((last - first) / step)
        found = [_weight(word, text) for word in words[: place - 2]]
        found += [round(first + number * step, 9) for number in range(count + 1)]
        if found[-1] < last - 1e-9:
            found.append(last)
    else:
        found = [_weight(word, text) for word in words]
    return tuple(sorted(set(found)))


def _weight(word: str, text: str) -> float:
    try:
        found = float(word)
    except ValueError:
        raise UserError(f"--grid {text}: {word!r} is no number") from None
    if not 0 <= found <= 1:
        raise UserError(f"--grid {text}: {word} is no weight; weights lie between 0 and 1")
    return found


def check_grid(grid: Sequence[float] | None, experts: int) -> None:
    """UserError for a grid where there are not two experts."""
    if grid is not None and experts != 2:
        raise UserError(f"--grid is of the first of two experts' weights; these are {experts}")


def places(
    names: Sequence[str],
    weights: Sequence[float],
    given: Sequence[float],
    grid: Sequence[float] | None = None,
    gate: GateGain | None = None,
) -> list[Place]:
    """Where to ask: each parent, the likeliest weights and the recipe's; for two experts a grid of the first weight; for more,
    equal weights and, for each expert, half way from the likeliest weights to that expert alone.

    Args:
        names: of the experts.
        weights: of largest likelihood.
        given: the recipe's.
        grid: of the first expert's weight; for two experts only.
        gate: a bayes gate to try, with its own weights.

    Raises:
        UserError: a grid for other than two experts.
    """
    count = len(names)
    check_grid(grid, count)
    found: dict[tuple[float, ...], list[str]] = {}

    def add(at: Sequence[float], *labels: str) -> None:
        found.setdefault(rounded(at), []).extend(labels)

    for place, name in enumerate(names):
        add([float(place == other) for other in range(count)], name)
    add(weights, LIKELIHOOD)
    add(given, RECIPE)
    if count == 2:
        for first in GRID if grid is None else grid:
            add((first, 1 - first))
    else:
        add([1 / count] * count)
        for place in range(count):
            add([weight / 2 + (place == other) / 2 for other, weight in enumerate(weights)])
    chosen = [Place(at, tuple(labels)) for at, labels in found.items()]
    if count == 2:
        chosen.sort(key=lambda place: place.weights)
    if gate is not None:
        chosen.append(Place(rounded(gate.weights), (GATED,), (gate.discount, gate.stride)))
    return chosen


def read_development(benchmarks: Sequence[str], data: Path | None = None) -> list[Benchmark]:
    """Development benchmarks by name or YAML file.

    Args:
        data: folder of the benchmarks' rows; None for the usual one.

    Raises:
        UserError: none, one that is a test set by its name, its split or its questions, or one whose rows are not there.
    """
    from modist.evaluation.benchmarks import find
    from modist.evaluation.plan import Settings, check_run
    from modist.search.disjoint import benchmark_samples, held_out, refuse_name

    if not benchmarks:
        raise UserError("--metric accuracy needs at least one --benchmark with development questions")
    found = [find(name) for name in benchmarks]
    for benchmark in found:
        refuse_name(benchmark.name)
        if benchmark.split != "development":
            raise UserError(
                f"{benchmark.name}: is a test set, and weights chosen on one have no result left to report;"
                " take a development split, or say 'split: development' in its YAML if it is one"
            )
    check_run(found, data, Settings())
    tests = held_out(data, [file for benchmark in found if (file := benchmark.where(data)) is not None])
    for benchmark in found:
        tests.refuse(benchmark_samples(benchmark, data))
    return found


def sweep_accuracy(
    recipe: Path,
    names: Sequence[str],
    wanted: Sequence[Place],
    benchmarks: Sequence[Benchmark],
    cache: Path,
    *,
    data: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    advance: Callable[[float], object] | None = None,
) -> Sweep:
    """Have the mixture answer every question at every place; what was answered before is only read.

    Args:
        recipe: a mixture's file.
        names: of its experts.
        wanted: from `places`.
        benchmarks: from `read_development`.
        cache: folder of the answers.
        data: folder of the benchmarks' rows.
        limit: so many questions of each benchmark, drawn by `seed`.
        device, dtype, trust_remote_code: see `MixtureGenerator`.
        say: told remarks.
        advance: told which share of the answers is there.

    Raises:
        UserError, EvaluationError, ModistError: as `modist.evaluation.run.evaluate`.
    """
    from modist.evaluation.generators import open_generator
    from modist.evaluation.plan import Settings
    from modist.evaluation.run import Watch, evaluate

    settings = Settings(limit=limit, seed=seed)
    generator: Any = open_generator(
        "mixture", str(recipe), device=device, dtype=dtype, trust_remote_code=trust_remote_code or None
    )
    points = []
    try:
        for number, place in enumerate(wanted):

            def told(done: int, total: int, number: int = number) -> None:
                if advance is not None:
                    advance((number + done / max(1, total)) / len(wanted))

            here = weighed(generator, place)
            watch = Watch(advance=told, note=say or (lambda line: None))
            folder = _folder(here, benchmarks, cache, data, settings)
            results = evaluate(here, benchmarks, folder, data, settings, watch, "mixture")
            right = tuple(tuple(record.equal for record in results.of(one.name)) for one in benchmarks)
            points.append(Point(place, right))
            told(1, 1)
    finally:
        generator.close()
    return Sweep(tuple(names), tuple(one.name for one in benchmarks), tuple(points))


def weighed(generator: Any, place: Place) -> Any:
    """The same living experts at other weights, perhaps under a gate; the generator itself stays as it is."""
    from modist.mixture.gate import Gate

    found = copy.copy(generator)
    found._experts = replace(generator._experts, weights=place.weights)
    found._gate = Gate() if place.gate is None else Gate("bayes", *place.gate)
    return found


def _folder(generator: Any, benchmarks: Sequence[Benchmark], cache: Path, data: Path | None, settings: Any) -> Path:
    """A run's own folder, named by all that decides its answers."""
    from modist.evaluation.plan import make_plan

    plan = make_plan(generator, benchmarks, data, settings, "mixture").data
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return cache / "answers" / digest[:32]
