"""`recommend`: what to do with some models, and the evidence: use one alone, mix them, or merge them so.

Everything is measured on the user's own data: the experts and the mixture by log-likelihood, row by row, each row under
weights (and a gate) that were fitted without its fold; a short list of cheap merges likewise, the best of them chosen without
the row's fold.  Where development benchmarks are given, their answers decide instead.  `verdict.decide` is the rule.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modist.errors import UserError
from modist.inspection import Onlooker
from modist.search.data import cache_folder, shared_with_tests
from modist.search.em import Array
from modist.search.evidence import Difference, Measure, Values
from modist.search.gate_fit import GateFit, Timeline, fit_gate
from modist.search.gate_gain import deal, gated_log_probs
from modist.search.kin import Kin, look
from modist.search.likelihoods import Likelihoods, Passage, read_passages
from modist.search.mixture import MixtureSearch, solve
from modist.search.shortlist import CheapMerge, shortlist
from modist.search.simplex import token_log_probs
from modist.search.solved import rounded
from modist.search.trial import Advance, Trial, by_row, try_merges
from modist.search.verdict import Verdict, decide

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark

FOLDS = 5
MIXTURE = "the mixture"


@dataclass(frozen=True, eq=False)
class Weighed:
    """All ways of answering under one measure, and what follows.

    Attributes:
        measure: likelihood or accuracy.
        scores: of each way, by name: experts, `MIXTURE`, merges.
        best: the best expert alone.
        merge: the best merge; None where there is none.
        mixture: of the mixture over the best expert.
        gain: of the best merge over the best expert; None without merges.
        beyond: of the mixture over the best merge; likewise.
        verdict: by the rule.
    """

    measure: Measure = field(repr=False)
    scores: Mapping[str, float]
    best: str
    merge: str | None
    mixture: Difference
    gain: Difference | None
    beyond: Difference | None
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        return {
            "measure": self.measure.kind,
            "scores": dict(self.scores),
            "best_expert": self.best,
            "best_merge": self.merge,
            "mixture_over_best_expert": self.mixture.as_dict(),
            "merge_over_best_expert": self.gain and self.gain.as_dict(),
            "mixture_over_merge": self.beyond and self.beyond.as_dict(),
            "verdict": self.verdict.kind,
            "reason": self.verdict.reason,
        }


def weigh(
    measure: Measure, experts: Mapping[str, Values], mixture: Values, merges: Mapping[str, Values], seed: int = 0
) -> Weighed:
    """Compare, and decide.

    Args:
        measure: what the values mean.
        experts, merges: of each way by its name.
        mixture: of the mixture, unit by unit not fitted to that unit.
        seed: of the folds that choose a merge.
    """
    best = measure.best(experts)
    over = measure.difference(mixture, experts[best])
    merge = gain = beyond = None
    if merges:
        merge, chosen = measure.best(merges), measure.chosen(merges, FOLDS, seed)
        gain, beyond = measure.difference(chosen, experts[best]), measure.difference(mixture, chosen)
    every = {**experts, MIXTURE: mixture, **merges}
    scores = {name: measure.score(values) for name, values in every.items()}
    return Weighed(measure, scores, best, merge, over, gain, beyond, decide(over, gain, beyond, best))


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What to do, and everything it rests on.

    Attributes:
        kin: what the models are to each other.
        solved: EM's weights on the data.
        gate: the bayes gate of largest likelihood, and the weights that go with it.
        gate_gain: of that over EM's weights without a gate, held out.
        likelihood: all ways by log-likelihood.
        accuracy: by right answers on development benchmarks, which then decide; None where none were given.
        merges: those that could be made, the list's order.
        refused: the others, and why.
        benchmarks: as they were named.
        questions: of them.
        cost: seconds by stage.
        data: the file.
        notes: one line each.
    """

    kin: Kin
    solved: MixtureSearch
    gate: GateFit
    gate_gain: Difference
    likelihood: Weighed
    accuracy: Weighed | None
    merges: tuple[CheapMerge, ...]
    refused: Mapping[str, str]
    benchmarks: tuple[str, ...]
    questions: int
    cost: Mapping[str, float]
    data: str
    notes: tuple[str, ...] = ()

    @property
    def deciding(self) -> Weighed:
        """What decides: answers where there are some."""
        return self.accuracy or self.likelihood

    @property
    def verdict(self) -> Verdict:
        return self.deciding.verdict

    @property
    def gated(self) -> bool:
        """Whether the mixture is the gated one: its gain is more than sampling error."""
        return self.gate_gain.shown

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the mixture, as recipes say them: those that go with the gate, or EM's."""
        return rounded(self.gate.weights if self.gated else self.solved.weights)

    @property
    def mixed(self) -> tuple[int, ...]:
        """The experts that have a weight: a mixture needs no other."""
        return tuple(place for place, weight in enumerate(self.weights) if weight > 0)

    @property
    def merge(self) -> CheapMerge | None:
        """The best cheap merge."""
        name = self.deciding.merge
        return next((merge for merge in self.merges if merge.name == name), None)

    def lines(self, out: Path | None = None) -> list[str]:
        """The report, with the next commands; `out` is where `write` put its files."""
        from modist.search.advice import lines

        return lines(self, out)

    def as_dict(self, out: Path | None = None) -> dict[str, Any]:
        """The same as plain data."""
        from modist.search.advice import as_dict

        return as_dict(self, out)


def recommend(
    models: Sequence[str],
    data: str | Path,
    *,
    base: str | None = None,
    benchmarks: Sequence[str] = (),
    benchmark_data: Path | None = None,
    limit: int | None = None,
    cache: Path | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    advance: Advance | None = None,
    onlooker: Onlooker | None = None,
) -> Recommendation:
    """Find out what to do with some models.

    Args:
        models: folders or hub ids, two or more; the first one's tokenizer and chat template are the mixture's.
        data: a JSONL file of `text` or `messages`, such as the models will be used for; at least two rows.
        base: what they were tuned from, where the user knows it.
        benchmarks: development splits, by name or YAML file; their answers then decide.
        benchmark_data: folder of known benchmarks' rows.
        limit: so many questions of each benchmark.
        cache: folder of scores and answers; see `data.cache_folder`.
        seed: of folds, bootstrap draws and the questions drawn by `limit`.
        device, dtype, trust_remote_code: see `modist.mixture.load_experts`; where left out, the best device there is, the
            stored dtype, and float32 on a CPU.
        say: told remarks as they arise.
        advance: told what is being done, and which share of it is done.
        onlooker: told of the reading that tells kinship.

    Raises:
        UserError: one model, different tokenizers, no such file, data without tokens or that an expert cannot read, a
            benchmark that is a test set.
        CheckpointError, HubError: a model is damaged, or cannot be had.
    """
    tell = advance or (lambda what, share: None)
    clock = _Clock()
    file = Path(data)
    # All that is quickly found wrong comes first.
    passages = read_passages(file)
    if len(passages) < 2:
        raise UserError(f"{file}: has one row; weights and their intervals need at least 2")
    asked = _read(benchmarks, benchmark_data)
    with clock("kinship"):
        kin = look(models, base, onlooker)
    with tempfile.TemporaryDirectory(prefix="modist-") as scratch:
        trial = Trial(
            passages=passages,
            benchmarks=asked,
            benchmark_data=benchmark_data,
            limit=limit,
            cache=cache_folder(cache),
            scratch=Path(scratch),
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            seed=seed,
            say=say or (lambda line: None),
            advance=tell,
        )
        with clock("experts"):
            overlap = shared_with_tests(passages, file, benchmark_data)
            scored = trial.experts(kin.models)
        found = scored.likelihoods
        with clock("weights"):
            seen = asked_before(passages, asked, benchmark_data)
            notes = (*(note for note in (overlap, seen) if note), *scored.notes)
            folds = min(FOLDS, len(passages))
            solved = solve(found, scored.weights, folds=folds, seed=seed, gate=False, notes=notes, advance=advance)
            static, gated, gate = predicted(found, solved, seed, tell)
        measure = Measure.of_rows(found.lengths)
        gained = measure.difference((gated,), (static,))
        with clock("merges"):
            merges = shortlist(kin.models, kin.models[solved.best], kin.ancestor)
            rows, right, refused = try_merges(trial, merges, found.lengths)
        accuracy = None
        if asked:
            with clock("answers"):
                experts, mixture = _answers(trial, kin, solved, gate if gained.shown else None)
            accuracy = weigh(Measure.of_questions([len(one) for one in mixture]), experts, mixture, right, seed)
    alone = token_log_probs(found.log_probs, np.eye(len(models)), found.log_masses)
    by_expert: dict[str, Values] = {name: (by_row(said, found.lengths),) for name, said in zip(kin.names, alone, strict=True)}
    return Recommendation(
        kin=kin,
        solved=solved,
        gate=gate,
        gate_gain=gained,
        likelihood=weigh(measure, by_expert, (gated if gained.shown else static,), rows, seed),
        accuracy=accuracy,
        merges=tuple(merge for merge in merges if merge.name in rows),
        refused=refused,
        benchmarks=tuple(benchmarks),
        questions=0 if accuracy is None else sum(len(one) for one in accuracy.measure.sizes),
        cost=clock.seconds,
        data=str(data),
        notes=solved.notes,
    )


def _answers(trial: Trial, kin: Kin, solved: MixtureSearch, gate: GateFit | None) -> tuple[dict[str, Values], Values]:
    """Right answers of each expert, by name, and of the mixture."""
    from modist.search.sweep import Place

    count = len(kin.models)
    places = [Place(tuple(float(place == other) for other in range(count)), (name,)) for place, name in enumerate(kin.names)]
    mixed = Place(rounded(solved.weights), (MIXTURE,))
    if gate is not None:
        mixed = Place(rounded(gate.weights), (MIXTURE,), (gate.discount, gate.stride))
    *experts, mixture = trial.answers(kin.models, kin.names, [*places, mixed])
    return dict(zip(kin.names, experts, strict=True)), mixture


def predicted(
    found: Likelihoods, solved: MixtureSearch, seed: int, advance: Advance | None = None
) -> tuple[np.ndarray, np.ndarray, GateFit]:
    """Log-likelihood of each row under weights fitted without its fold, [rows]; the same under a gate, its weights fitted anew,
    likewise; and both fitted to all rows."""
    tell, masses = advance or (lambda what, share: None), found.log_masses
    weights, rows = solved.held.weights, len(found.lengths)
    fold = deal(rows, len(weights), seed)
    static, gated = np.zeros(rows), np.zeros(rows)
    for number, at in enumerate(weights):
        tell("fitting the gate", number / (len(weights) + 1))
        out = fold == number
        inside, outside = np.repeat(~out, found.lengths), np.repeat(out, found.lengths)
        there, left = (None if masses is None else masses[part] for part in (inside, outside))
        # The grid alone: between its discounts the likelihood is flat next to what folds differ by.
        chosen = _gate(found.log_probs[inside], found.lengths[~out], at, there, refine=False)
        line = Timeline.of(found.log_probs[outside], found.lengths[out], left)
        said = np.empty(int(found.lengths[out].sum()))
        said[line.order] = gated_log_probs(line, chosen.weights, chosen.discount, chosen.stride)
        gated[out] = by_row(said, found.lengths[out])
        static[out] = by_row(token_log_probs(found.log_probs[outside], at[None], left)[0], found.lengths[out])
    return static, gated, _gate(found.log_probs, found.lengths, solved.weights, masses, refine=True)


def _gate(logs: np.ndarray, lengths: np.ndarray, weights: Array, masses: np.ndarray | None, refine: bool) -> GateFit:
    # An expert that finds a past impossible has no nats of its own there, and none is asked for.
    with np.errstate(invalid="ignore"):
        return fit_gate(logs, lengths, weights, log_masses=masses, refine=refine, refit=True)


def _read(benchmarks: Sequence[str], data: Path | None) -> list[Benchmark]:
    if not benchmarks:
        return []
    from modist.search.sweep import read_development

    return read_development(benchmarks, data)


def asked_before(passages: Sequence[Passage], benchmarks: Sequence[Benchmark], data: Path | None) -> str | None:
    """What rows to which the weights are fitted have in common with the questions that decide, in words, or None."""
    from modist.search.disjoint import HeldOut, benchmark_samples, passage_sample

    asked = HeldOut()
    for benchmark in benchmarks:
        asked.add(benchmark.name, benchmark_samples(benchmark, data))
    count = sum(asked.find(passage_sample(passage)) is not None for passage in passages)
    if not count:
        return None
    return f"{count:,} of the {len(passages):,} rows hold questions of the benchmarks: weights were fitted to these"


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
