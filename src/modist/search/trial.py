"""Trying experts and their cheap merges on data: each is run once, and what it says is kept unit by unit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modist.errors import ModistError, UserError
from modist.recipe import Recipe, parse_recipe
from modist.search.evidence import Values
from modist.search.likelihoods import Passage, score_passages
from modist.search.shortlist import CheapMerge, absolute

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark
    from modist.mixture import Experts
    from modist.search.data import Scored
    from modist.search.sweep import Place

Advance = Callable[[str, float], object]


def mixture_data(models: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """A mixture's recipe as plain data."""
    return {"experts": [{"source_model": model} for model in models], "weights": list(weights)}


def by_row(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of the rows' tokens: [tokens] -> [rows]."""
    return np.asarray(np.add.reduceat(values, np.cumsum(lengths) - lengths))


@dataclass(frozen=True)
class Trial:
    """How models are run, and on what.

    Attributes:
        passages: rows to score.
        benchmarks: development questions to answer; none for likelihood alone.
        benchmark_data: folder of known benchmarks' rows.
        limit: so many questions of each benchmark, drawn by `seed`.
        cache: folder of scores and answers.
        scratch: folder for what is thrown away.
        device, dtype: None for the best device there is, and the stored dtype, float32 on a CPU.
        trust_remote_code: run the Python files that come with a model.
        seed: of the questions drawn.
        say, advance: told remarks; what is being done and which share of it.
    """

    passages: Sequence[Passage]
    benchmarks: Sequence[Benchmark]
    benchmark_data: Path | None
    limit: int | None
    cache: Path
    scratch: Path
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    say: Callable[[str], None] = lambda line: None
    advance: Advance = lambda what, share: None

    def run_on(self) -> dict[str, Any]:
        """Device, dtype and trust, as loaders take them."""
        from modist.mixture.placement import choose_device

        device = choose_device(self.device or "cuda", self.say if self.device else lambda line: None)
        dtype = self.dtype or ("float32" if device == "cpu" else "auto")
        return {"device": device, "dtype": dtype, "trust_remote_code": self.trust_remote_code}

    def experts(self, models: Sequence[str]) -> Scored:
        """What each expert says of every row's tokens; the experts are let go again.

        Raises:
            UserError: as `modist.search.data.score_data`.
        """
        from modist.search.data import score_data

        recipe = parse_recipe(json.dumps(mixture_data(models, [1 / len(models)] * len(models))), "the experts")
        return score_data(
            recipe,
            self.passages,
            self.cache,
            say=self.say,
            advance=lambda share: self.advance("scoring the experts", share),
            **self.run_on(),
        )

    def answers(self, models: Sequence[str], names: Sequence[str], places: Sequence[Place]) -> list[Values]:
        """Right answers of mixtures of the experts, question by question, at each place."""
        from modist.search.sweep import sweep_accuracy

        file = self.scratch / "mixture.yml"
        file.write_text(json.dumps(mixture_data([absolute(model) for model in models], [1 / len(models)] * len(models))))
        found = sweep_accuracy(
            file,
            names,
            places,
            self.benchmarks,
            self.cache,
            data=self.benchmark_data,
            limit=self.limit,
            seed=self.seed,
            say=self.say,
            advance=lambda share: self.advance("answering", share),
            **self.run_on(),
        )
        return [tuple(np.array(right, dtype=np.float64) for right in point.right) for point in found.points]

    def merge(self, merge: CheapMerge, lengths: np.ndarray) -> tuple[Values, Values]:
        """A merge's log-likelihood of each row, and its right answers (empty without benchmarks).

        It lives in memory; only where transformers holds a model in another form than its file does, it is written to scratch.

        Args:
            lengths: the experts' tokens of each row, [rows].

        Raises:
            UserError: the models cannot be merged so.
        """
        from modist.merge import prepare
        from modist.merge.compare import refuse

        recipe = merge.recipe()
        refuse(prepare(recipe, allow_code=self.trust_remote_code).aspects)
        self.advance(f"merging: {merge.name}", 0.0)
        living = self._living(recipe, merge.name)
        found = score_passages(living, self.passages, self.cache, lambda share: self.advance(f"scoring: {merge.name}", share))
        if not np.array_equal(found.lengths, lengths):
            raise UserError(f"its tokenizer ({recipe.donor}'s) cuts the data into other tokens than the experts' do")
        said = found.log_probs[:, 0].astype(np.float64)
        if found.log_masses is not None:
            said = said - found.log_masses[:, 0]
        return (by_row(said, lengths),), self._right(living, merge) if self.benchmarks else ()

    def _living(self, recipe: Recipe, name: str) -> Experts:
        from modist.mixture import assemble
        from modist.search.candidate import Workshop

        try:
            shop = Workshop(recipe, **self.run_on())
            model = shop.merge(shop.genome.start)
            shop.close()
        except UserError:
            return self._written(recipe, name)
        return assemble([model], [1.0], tokenizers=[shop.tokenizer], names=[name])

    def _written(self, recipe: Recipe, name: str) -> Experts:
        from modist.merge import merge
        from modist.mixture import load_experts

        out = self.scratch / re.sub(r"\W+", "-", name)
        merge(recipe, out, trust_remote_code=self.trust_remote_code)
        found = load_experts(parse_recipe(json.dumps(mixture_data([str(out)], [1.0])), name), **self.run_on())
        # Known by its numbers and not by a folder that is gone tomorrow, its scores can be found again.
        return replace(found, folders=(None,))

    def _right(self, living: Experts, merge: CheapMerge) -> Values:
        from modist.evaluation.generators.transformers import TransformersGenerator
        from modist.evaluation.plan import Settings
        from modist.evaluation.run import Watch, evaluate

        generator = TransformersGenerator.of(living.models[0], living.tokenizer, merge.name)
        watch = Watch(advance=lambda done, total: self.advance(f"answering: {merge.name}", done / max(1, total)), note=self.say)
        settings = Settings(limit=self.limit, seed=self.seed)
        try:
            found = evaluate(
                generator, self.benchmarks, self.scratch / f"answers-{merge.name}", self.benchmark_data, settings, watch
            )
        finally:
            generator.close()
        return tuple(
            np.array([bool(record.equal) for record in found.of(one.name)], dtype=np.float64) for one in self.benchmarks
        )


def try_merges(
    trial: Trial, merges: Sequence[CheapMerge], lengths: np.ndarray
) -> tuple[dict[str, Values], dict[str, Values], dict[str, str]]:
    """All merges that can be made: log-likelihoods and right answers by name; and why the others cannot."""
    rows: dict[str, Values] = {}
    right: dict[str, Values] = {}
    refused: dict[str, str] = {}
    for merge in merges:
        try:
            rows[merge.name], right[merge.name] = trial.merge(merge, lengths)
        except ModistError as error:
            # One that cannot be made or overflows is no reason to say nothing of the others.
            refused[merge.name] = str(error)
    return rows, right, refused
