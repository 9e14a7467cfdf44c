"""What a run will ask, and in which batches: fixed before the first answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark, EvaluationError, Item
from modist.evaluation.generators.generator import Ask, Generator, Prompt, Sampling
from modist.evaluation.prompt import DEFAULT, check, stop_strings
from modist.evaluation.results import FORMAT
from modist.version import VERSION


@dataclass(frozen=True)
class Settings:
    """How a run asks and grades.

    Attributes:
        style: of prompts, where a benchmark has none of its own; None is qwen25-math-cot.
        limit: so many questions of each benchmark, drawn by `seed`; None is all.
        seed: of that draw and of the samples.
        samples: answers a question.
        sampling: how tokens are drawn; greedy by default.
        batch_size: None is the generator's own.
        execute_code: run the code that a model wrote, for benchmarks that need it.
        graders: processes that grade.
        seconds_per_grade: a time limit.
        max_new_tokens: in place of each benchmark's own.
        retry_errors: ask again what failed in an earlier run.
        keep_going: go on however many answers fail.
    """

    style: str | None = None
    limit: int | None = None
    seed: int = 0
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None
    execute_code: bool = False
    graders: int = 1
    seconds_per_grade: float = 5.0
    max_new_tokens: int | None = None
    retry_errors: bool = False
    keep_going: bool = False

    def check(self) -> None:
        """UserError where a value cannot be, by the name of its flag."""
        least = {
            "--limit": self.limit,
            "--samples": self.samples,
            "--batch-size": self.batch_size,
            "--graders": self.graders,
            "--max-new-tokens": self.max_new_tokens,
        }
        for flag, value in least.items():
            if value is not None and value < 1:
                raise UserError(f"{flag} {value}: must be at least 1")
        if not self.seconds_per_grade > 0:
            raise UserError(f"a grade's time limit must be more than 0 seconds, not {self.seconds_per_grade:g}")
        if self.samples > 1 and self.sampling.temperature is None:
            raise UserError(f"--samples {self.samples}: greedy answers are all the same; give --temperature too")


@dataclass(frozen=True)
class Plan:
    """A run that is decided.

    Attributes:
        data: what `plan.json` holds; two runs are the same run where this is equal.
        batches: the asks of each batch, as (item, sample).
        benchmarks: by name.
        prompts: by benchmark and id.
        lengths: of those prompts, as the generator counts them.
    """

    data: dict[str, Any]
    batches: tuple[tuple[tuple[Item, int], ...], ...]
    benchmarks: Mapping[str, Benchmark]
    prompts: Mapping[tuple[str, str], Prompt]
    lengths: Mapping[tuple[str, str], int]

    @property
    def answers(self) -> int:
        return sum(map(len, self.batches))

    def asks(self, batch: int) -> list[Ask]:
        """What a batch asks."""
        seed = self.data["settings"]["seed"]
        entries = {entry["name"]: entry for entry in self.data["benchmarks"]}
        found = []
        for item, sample in self.batches[batch]:
            entry = entries[item.benchmark]
            prompt = self.prompts[item.benchmark, item.id]
            drawn = sample_seed(seed, item.benchmark, item.id, sample)
            found.append(
                Ask(f"{item.benchmark}/{item.id}/{sample}", prompt, entry["max_new_tokens"], tuple(entry["stop"]), drawn)
            )
        return found


def make_plan(
    generator: Generator, benchmarks: Sequence[Benchmark], data: Path | None, settings: Settings, name: str | None = None
) -> Plan:
    """Read the questions, draw from them, sort them by length and cut them into batches.

    Args:
        name: the model's, for tables; the generator's own by default.

    Raises:
        UserError: settings that cannot be, data that is not there, code that may not be run.
        EvaluationError: damaged data.
    """
    _check(benchmarks, settings)
    # Of a stand-in that only measures, one batch: it has no size.
    size = settings.batch_size or generator.batch_size or 1 << 30
    entries: list[dict[str, Any]] = []
    batches: list[tuple[tuple[Item, int], ...]] = []
    prompts: dict[tuple[str, str], Prompt] = {}
    lengths: dict[tuple[str, str], int] = {}
    for benchmark in benchmarks:
        everything = benchmark.items(data)
        chosen = draw(everything, settings.limit, settings.seed)
        entry = _entry(benchmark, everything, chosen, settings)
        for item in chosen:
            prompt = benchmark.prompt_for(item, entry["style"])
            prompts[item.benchmark, item.id] = prompt
            lengths[item.benchmark, item.id] = generator.length(prompt)
        entry["prompts"] = _digest([prompts[item.benchmark, item.id] for item in chosen])
        entries.append(entry)
        # The longest first: what does not fit in memory is known at once, and the time left is never told too short.
        ranked = sorted(chosen, key=lambda item: -lengths[item.benchmark, item.id])
        asks = [(item, sample) for item in ranked for sample in range(settings.samples)]
        batches += [tuple(asks[start : start + size]) for start in range(0, len(asks), size)]
    planned = {
        "format": FORMAT,
        "name": name or generator.name,
        "versions": _versions(),
        "model": generator.describe(),
        "settings": {
            "limit": settings.limit,
            "seed": settings.seed,
            "samples": settings.samples,
            **asdict(settings.sampling),
            "batch_size": size,
            "seconds_per_grade": settings.seconds_per_grade,
        },
        "benchmarks": entries,
        "batches": [
            {"benchmark": batch[0][0].benchmark, "asks": [[item.id, sample] for item, sample in batch]} for batch in batches
        ],
    }
    # As it will be read back.
    planned = json.loads(json.dumps(planned))
    return Plan(planned, tuple(batches), {benchmark.name: benchmark for benchmark in benchmarks}, prompts, lengths)


def check_run(benchmarks: Sequence[Benchmark], data: Path | None, settings: Settings) -> None:
    """What can be known of a run before there is a model; raises as `make_plan`."""
    _check(benchmarks, settings)
    for benchmark in benchmarks:
        _entry(benchmark, (items := benchmark.items(data)), items, settings)


def _check(benchmarks: Sequence[Benchmark], settings: Settings) -> None:
    settings.check()
    if settings.style is not None:
        check(settings.style)
    if not benchmarks:
        raise UserError("no benchmark: give at least one with --benchmark NAME")
    names = [benchmark.name for benchmark in benchmarks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--benchmark {name}: is there twice")
    for benchmark in benchmarks:
        if benchmark.kind == "code" and not settings.execute_code:
            raise UserError(f"{benchmark.name}: grading it runs code that the model wrote; allow that with --execute-code")


def _entry(benchmark: Benchmark, everything: Sequence[Item], chosen: Sequence[Item], settings: Settings) -> dict[str, Any]:
    """What identifies one benchmark of a run."""
    ids = [item.id for item in everything]
    if not ids:
        raise EvaluationError(f"{benchmark.name}: has no questions")
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise EvaluationError(f"{benchmark.name}: the id {twice!r} is there twice")
    style = benchmark.prompt or settings.style or DEFAULT
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "kind": benchmark.kind,
        "style": style,
        "max_new_tokens": settings.max_new_tokens or benchmark.max_new_tokens,
        "stop": list(stop_strings(style, benchmark)),
        "pattern": benchmark.pattern,
        "digest": benchmark.digest(everything),
        "rows": len(everything),
        "ids": [item.id for item in chosen],
    }


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """`limit` of the items without replacement, in their order; the same for every model.

    Each item's place in the permutation is a hash of the seed and its own id, so that a larger limit keeps every item of a
    smaller one, and rows added to a file move no other.
    """
    if limit is None or limit >= len(items):
        return list(items)
    places = range(len(items))
    first = sorted(places, key=lambda place: _hash("draw", seed, items[place].benchmark, items[place].id))[:limit]
    return [items[place] for place in sorted(first)]


def sample_seed(seed: int, benchmark: str, id: str, sample: int) -> int:
    """The seed of one answer, from 0 to 2^31 - 1, which every server takes."""
    return int.from_bytes(_hash("sample", seed, benchmark, id, sample)[:4]) >> 1


def _hash(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _digest(prompts: Sequence[Prompt]) -> str:
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(json.dumps(prompt).encode() + b"\n")
    return found.hexdigest()


def _versions() -> dict[str, str]:
    """Of what grades."""
    found = {"modist": VERSION}
    try:
        found["math-verify"] = version("math-verify")
    except PackageNotFoundError:
        found["math-verify"] = "none"
    return found


_TOLD = 4


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what two plans differ, for people: `settings: limit: 50 there, 100 here`; empty where they are one plan."""
    found: list[str] = []
    for key in ("name", "versions", "model", "settings"):
        found += _compare(key, there.get(key), here.get(key))
    old, new = ({entry["name"]: entry for entry in plan["benchmarks"]} for plan in (there, here))
    if list(old) != list(new):
        found.append(f"benchmarks: {', '.join(old)} there, {', '.join(new)} here")
    for name in [name for name in old if name in new]:
        one, two = dict(old[name]), dict(new[name])
        # These follow from what else is compared.
        one.pop("ids", None), two.pop("ids", None)
        prompts = one.pop("prompts", None), two.pop("prompts", None)
        if one.pop("digest", None) != two.pop("digest", None):
            found.append(f"{name}: the data are not the same")
        found += _compare(name, one, two)
        if prompts[0] != prompts[1] and not found:
            found.append(f"{name}: the prompts are not the same")
    if not found and dict(there) != dict(here):
        found.append("the batches, since prompts have other lengths")
    return found if len(found) <= _TOLD else [*found[:_TOLD], f"{len(found) - _TOLD} more"]


def _compare(name: str, there: Any, here: Any) -> list[str]:
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        keys = {**there, **here}
        return [line for key in keys for line in _compare(f"{name}: {key}", there.get(key), here.get(key))]
    one, two = (json.dumps(value) if not isinstance(value, str) else value for value in (there, here))
    return [f"{name}: {one[:80]} there, {two[:80]} here"]
