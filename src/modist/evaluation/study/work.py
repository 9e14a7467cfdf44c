"""What a study's processes do: one model answering benchmarks, one candidate scored, one parent reading prompts.

A piece of work is plain data, so it can go to a spawned process; whatever it finds lies in its folder, so a piece that is done
is done, and one that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.evaluation.plan import Settings
from modist.evaluation.study.tune import Candidate


@dataclass(frozen=True)
class Answering:
    """A run: one model (or mixture) and what it is asked.

    Attributes:
        name: of the row, for progress and errors.
        folder: the run's.
        kind, model, options: as `open_generator` takes them.
        digests: of what the benchmarks hold.
        identity: of the model's tensors where its folder's name does not say (a merge's fingerprint).
    """

    name: str
    folder: Path
    kind: str
    model: str
    options: Mapping[str, Any]
    benchmarks: tuple[str, ...]
    data: Path | None
    settings: Settings
    digests: tuple[str, ...] = ()
    identity: str = ""

    def __call__(self) -> None:
        """Ask what is not answered yet.

        Raises:
            UserError: the folder's answers are another model's, or a run's with other settings.
        """
        if self.done():
            return
        noted = _read(self.note)
        if self.folder.exists() and noted.get("identity", self.identity) != self.identity:
            raise UserError(
                f"{self.folder}: holds the answers of another merge (its recipe, seed or inputs changed since);"
                " remove it to ask again, or take another --out"
            )
        _write(self.note, {"identity": self.identity})
        answer(self)
        _write(self.note, {"identity": self.identity, "finished": self.key})

    @property
    def note(self) -> Path:
        """Beside the run's folder: of which model it is, and whether it is finished, to know without loading the model."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def key(self) -> str:
        """What the answers depend on."""
        parts = (self.kind, self.model, sorted(self.options.items()), self.benchmarks, self.digests, self.settings)
        return repr((*parts, self.identity))

    def done(self) -> bool:
        from modist.evaluation.results import PLAN

        return _read(self.note).get("finished") == self.key and (self.folder / PLAN).is_file()


@dataclass(frozen=True)
class Reading:
    """A parent reads the prompts of its run, for routing."""

    name: str
    folder: Path
    run: Path
    model: str
    data: Path | None
    benchmarks: tuple[str, ...]
    device: str | None
    dtype: str | None

    def __call__(self) -> None:
        from modist.evaluation.benchmarks import find
        from modist.evaluation.run import read_results
        from modist.evaluation.study.route import score_prompts

        found = [find(name) for name in self.benchmarks]
        questions = {one.name: {item.id: item.question for item in one.items(self.data)} for one in found}
        score_prompts(self.model, read_results(self.run), questions, self.folder, self.device, self.dtype)

    def done(self) -> bool:
        from modist.evaluation.run import read_results
        from modist.evaluation.study.route import scored

        return scored(self.model, read_results(self.run), self.folder, self.dtype)


@dataclass(frozen=True)
class Merging:
    """One merge; a recipe travels as its text, which reads the same everywhere.

    Attributes:
        recipe: the YAML.
        document: the file its relative paths are beside.
    """

    name: str
    recipe: str
    document: str
    folder: Path
    seed: int
    allow: tuple[str, ...]
    threads: int | None = None

    def __call__(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Returns the result's fingerprint, what each parent gave in words, and remarks."""
        from modist.checkpoint.staging import building_place
        from modist.merge import merge
        from modist.merge.manifest import read_manifest
        from modist.recipe import parse_recipe

        recipe = parse_recipe(self.recipe, self.document)
        # What a killed run left of another recipe cannot be gone on with.
        begun = building_place(self.folder)
        note = self.folder.with_name(self.folder.name + ".recipe.json")
        parts = {"recipe": self.recipe, "seed": self.seed, "allow": list(self.allow)}
        if begun.is_dir() and _read(note) != parts:
            shutil.rmtree(begun)
        _write(note, parts)
        # A finished merge of the same recipe, seed and inputs is left as it is; of a killed one the finished tensors are.
        report = merge(recipe, self.folder, seed=self.seed, resume=True, allow=self.allow, threads=self.threads)
        manifest = read_manifest(self.folder) or {}
        given = tuple(f"{parent.name}: {parent.phrase}" for parent in report.parents)
        return str(manifest.get("fingerprint", "")), given, tuple(report.warnings)


@dataclass(frozen=True)
class Trying:
    """One candidate of a tuned parameter: merged, asked the development questions, and thrown away.

    Attributes:
        merging: writes the candidate into a folder.
        asking: the run, whose `model` is that folder.
    """

    name: str
    value: float
    merging: Merging
    asking: Answering
    file: Path

    def __call__(self) -> Candidate:
        if (found := self.done()) is not None:
            return found
        self.merging()
        # Scores are kept; answers of a candidate that changed since are not.
        if _read(self.asking.note).get("key") != self.key:
            shutil.rmtree(self.asking.folder, ignore_errors=True)
            _write(self.asking.note, {"key": self.key})
        answer(self.asking)
        from modist.evaluation.run import read_results

        results = read_results(self.asking.folder)
        right = tuple(results.right(benchmark) for benchmark in results.benchmarks)
        total = tuple(len(results.of(benchmark)) for benchmark in results.benchmarks)
        candidate = Candidate(self.value, right, total)
        _write(self.file, {"key": self.key, "value": self.value, "right": list(right), "total": list(total)})
        shutil.rmtree(self.merging.folder, ignore_errors=True)
        return candidate

    @property
    def key(self) -> str:
        """What the score depends on."""
        asking = self.asking
        options = sorted(asking.options.items())
        return repr((self.merging.recipe, self.merging.seed, asking.benchmarks, asking.digests, asking.settings, options))

    def done(self) -> Candidate | None:
        """The score an earlier run found for the same candidate."""
        found = _read(self.file)
        if found.get("key") != self.key:
            return None
        return Candidate(float(found["value"]), tuple(found["right"]), tuple(found["total"]))


def answer(work: Answering) -> None:
    """Ask one model everything, into its run folder."""
    from modist.evaluation.benchmarks import find
    from modist.evaluation.generators import open_generator
    from modist.evaluation.run import evaluate

    generator = open_generator(work.kind, work.model, **work.options)
    try:
        evaluate(generator, [find(name) for name in work.benchmarks], work.folder, work.data, work.settings)
    finally:
        generator.close()


def _read(file: Path) -> dict[str, Any]:
    """A note, or nothing where there is none that can be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, data: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(data) + "\n", encoding="utf-8")
    os.replace(partial, file)
