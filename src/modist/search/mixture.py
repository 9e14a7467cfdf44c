"""The weights of a mixture, solved for: `search_mixture`, which `modist search mixture` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modist.errors import UserError, nearest
from modist.search.bootstrap import REPLICATES, Intervals, bootstrap_weights
from modist.search.data import cache_folder, check_mixture, score_data, shared_with_tests
from modist.search.em import Array, Fit, fit_weights
from modist.search.gate_gain import GateGain, gate_gain
from modist.search.likelihoods import Likelihoods, Passage, read_passages
from modist.search.simplex import Domain, HeldOut, Landscape, by_domain, held_out, landscape

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark
    from modist.recipe import Recipe
    from modist.search.sweep import Sweep

FOLDS = 5
CHOICES = ("likelihood", "gate", "accuracy")
# Experts that never differ by more nats than this are one expert to the likelihood.
_ALIKE = 1e-6


@dataclass(frozen=True, eq=False)
class MixtureSearch:
    """What was found of a mixture's weights on development data.

    Attributes:
        names: of the experts, in the recipe's order.
        given: the recipe's weights, float64 [experts].
        fit: the weights of largest likelihood on all rows.
        intervals: of those weights and of the gain over the best expert, over rows drawn again.
        held: nats per token of each row under weights that were fitted without its fold.
        domains: whose tokens each domain's are, where rows say one; else empty.
        gate: what the bayes gate would gain; None where it was not asked for.
        sweep: accuracies on development benchmarks; None where they were not asked for.
        likelihoods: what all this is made of.
        notes: of the data and the experts, one line each.
    """

    names: tuple[str, ...]
    given: Array
    fit: Fit
    intervals: Intervals
    held: HeldOut
    domains: tuple[Domain, ...]
    gate: GateGain | None
    likelihoods: Likelihoods = field(repr=False)
    sweep: Sweep | None = None
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> Array:
        """Of largest likelihood on all rows, float64 [experts]."""
        return self.fit.weights

    @property
    def tokens(self) -> int:
        """Scored ones: a text's but its first, a chat's last message's."""
        return self.likelihoods.tokens

    @property
    def rows(self) -> int:
        return len(self.likelihoods.lengths)

    @property
    def best(self) -> int:
        """The expert that is best alone."""
        return int(self.fit.experts.argmin())

    @property
    def alike(self) -> tuple[tuple[int, int], ...]:
        """Pairs of experts that say the same of every token."""
        logs, count = self.likelihoods.log_probs, len(self.names)
        return tuple((i, j) for i in range(count) for j in range(i + 1, count) if _same(logs[:, i], logs[:, j]))

    @property
    def held_out_gain(self) -> tuple[float, float, float]:
        """Of the weights over the best expert, on rows they were not fitted on, nats a token: (value, low, high), 95%."""
        value, error = self.held.gain
        return value, value - 1.96 * error, value + 1.96 * error

    def landscape(self, divisions: int | None = None) -> Landscape:
        """Nats per token along the weight, or over the triangle; UserError for more than three experts."""
        return landscape(self.likelihoods.log_probs, log_masses=self.likelihoods.log_masses, divisions=divisions)

    def chosen(self, by: str = "likelihood") -> tuple[float, ...]:
        """The weights that are best by `likelihood`, under the `gate`, or by `accuracy` in the sweep.

        Raises:
            UserError: there is no such choice, or it was not looked for.
        """
        if by not in CHOICES:
            raise UserError(f"--choose {by!r}: known are {', '.join(CHOICES)}{nearest(by, CHOICES)}")
        if by == "gate":
            if self.gate is None:
                raise UserError("--choose gate: the gate was not fitted; leave out --no-gate")
            return tuple(self.gate.weights.tolist())
        if by == "accuracy":
            if self.sweep is None:
                raise UserError("--choose accuracy needs --metric accuracy")
            return self.sweep.best.place.weights
        return tuple(self.weights.tolist())

    def findings(self) -> list[str]:
        """What came out, in sentences."""
        from modist.search.findings import findings

        return findings(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; infinities where an expert gives a token probability 0."""
        assert self.held.given is not None
        # Neither the recipe's weights nor an expert alone was fitted: over all folds they have the same nats.
        experts = [
            {"name": name, "fit": float(alone), "held_out": float(outside)}
            for name, alone, outside in zip(self.names, self.fit.experts, self.held.experts, strict=True)
        ]
        low, high = self.intervals.low, self.intervals.high
        return {
            "experts": list(self.names),
            "weights": self.weights.tolist(),
            "interval": [[float(one), float(other)] for one, other in zip(low, high, strict=True)],
            "standard_error": self.intervals.standard_error.tolist(),
            "level": self.intervals.level,
            "recipe_weights": self.given.tolist(),
            "nats_per_token": {
                "optimum": {"fit": self.fit.nats_per_token, "held_out": self.held.optimum},
                "recipe": {"fit": self.held.given, "held_out": self.held.given},
                "experts": experts,
            },
            "gain": {
                "over": self.names[self.best],
                "fit": _interval(self.intervals.gain),
                "held_out": _interval(self.held_out_gain),
            },
            "gate": None if self.gate is None else _gate_dict(self.gate),
            "domains": [_domain_dict(domain, self.names) for domain in self.domains],
            "tokens": self.tokens,
            "rows": self.rows,
            "folds": self.held.folds,
            "replicates": len(self.intervals.replicates),
            "unique": self.fit.unique,
            "gap": self.fit.gap,
            "converged": self.fit.converged,
            "scored": dict(zip(self.names, self.likelihoods.scored, strict=True)),
            "sweep": None if self.sweep is None else self.sweep.as_dict(),
            "findings": self.findings(),
            "notes": list(self.notes),
        }


def search_mixture(
    recipe: Recipe | str | Path,
    data: str | Path | Sequence[Passage],
    *,
    cache: Path | None = None,
    folds: int = FOLDS,
    replicates: int = REPLICATES,
    seed: int = 0,
    gate: bool = True,
    benchmarks: Sequence[str] = (),
    grid: Sequence[float] | None = None,
    limit: int | None = None,
    benchmark_data: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    advance: Callable[[str, float], object] | None = None,
) -> MixtureSearch:
    """Find the weights under which a recipe's mixture predicts development data best.

    Every expert scores the data once, which is all the work there is; what it says is kept on disk.

    Args:
        recipe: a recipe with experts and weights, or its file.
        data: a JSONL file of `text` or `messages`, perhaps with `domain`; or its rows.
        cache: folder of scores; see `data.cache_folder`.
        folds: of the held-out figures, from 2 to as many as there are rows.
        replicates: draws of the rows for the intervals.
        seed: of folds and draws.
        gate: fit the bayes gate too.
        benchmarks: development benchmarks, by name or YAML file, to answer at several weights; none by default.
        grid: of the first expert's weight, for two experts; `sweep.GRID` by default.
        limit: so many questions of each benchmark.
        benchmark_data: folder of the benchmarks' rows.
        device, dtype, trust_remote_code, say: see `modist.mixture.load_experts`.
        advance: told what is being done, and which share of it is done.

    Raises:
        RecipeError: the recipe is wrong, or has no weights to search.
        UserError: data that is not there or has nothing to score, an expert that cannot read it, too few rows, a test set
            among the benchmarks.
        CheckpointError, HubError: an expert is damaged, or cannot be had.
        EvaluationError: nothing could be answered.
    """
    from modist.recipe import load_recipe

    made = load_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    check_mixture(made)
    passages, file = (read_passages(Path(data)), Path(data)) if isinstance(data, (str, Path)) else (list(data), None)
    # Before the experts are loaded and score it all.
    check_counts(len(passages), folds, replicates)
    asked = _asked(made, benchmarks, grid, benchmark_data)
    overlap = shared_with_tests(passages, file, benchmark_data)
    running: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "say": say}
    tell = advance or (lambda what, share: None)
    scored = score_data(made, passages, cache_folder(cache), **running, advance=lambda share: tell("scoring", share))
    found = solve(
        scored.likelihoods,
        scored.weights,
        folds=folds,
        replicates=replicates,
        seed=seed,
        gate=gate,
        notes=(*((overlap,) if overlap else ()), *scored.notes),
        advance=advance,
    )
    if not asked:
        return found
    from modist.search.sweep import places, sweep_accuracy

    sweep = sweep_accuracy(
        Path(made.document.name),
        found.names,
        places(found.names, found.weights.tolist(), found.given.tolist(), grid, found.gate),
        asked,
        cache_folder(cache),
        data=benchmark_data,
        limit=limit,
        seed=seed,
        **running,
        advance=lambda share: tell("answering", share),
    )
    return replace(found, sweep=sweep)


def _asked(recipe: Recipe, benchmarks: Sequence[str], grid: Sequence[float] | None, data: Path | None) -> list[Benchmark]:
    """The benchmarks of a sweep, once it is known that it can be made."""
    if not benchmarks:
        return []
    from modist.search.sweep import check_grid, read_development

    check_grid(grid, len(recipe.slices[0].sources))
    if not Path(recipe.document.name).is_file():
        raise UserError(f"{recipe.document.name}: answering questions needs the recipe in a file")
    return read_development(benchmarks, data)


def solve(
    found: Likelihoods,
    given: Sequence[float],
    *,
    folds: int = FOLDS,
    replicates: int = REPLICATES,
    seed: int = 0,
    gate: bool = True,
    notes: Sequence[str] = (),
    advance: Callable[[str, float], object] | None = None,
) -> MixtureSearch:
    """The same from likelihoods that are there already; nothing is loaded or run.

    Args:
        found: what every expert says of every token.
        given: the recipe's weights.
        folds, replicates, seed, gate, advance: see `search_mixture`.
        notes: to begin with.

    Raises:
        UserError: fewer rows than folds, or a token that no expert can say.
    """
    check_counts(len(found.lengths), folds, replicates)
    logs, masses, lengths = found.log_probs, found.log_masses, found.lengths
    tell = advance or (lambda what, share: None)
    tell("solving", 0.0)
    fit = fit_weights(logs, log_masses=masses)
    tell("drawing rows again", 0.0)
    intervals = bootstrap_weights(logs, lengths, fit.weights, log_masses=masses, replicates=replicates, seed=seed)
    tell("holding folds out", 0.0)
    # A token that only an expert of weight 0 can say is impossible: the nats are infinite, and said to be so.
    with np.errstate(invalid="ignore"):
        held = held_out(logs, lengths, given, log_masses=masses, folds=folds, seed=seed)
    domains: list[Domain] = []
    if any(name is not None for name in found.domains):
        domains = by_domain(logs, lengths, found.domains, fit.weights, log_masses=masses)
    gained = None
    if gate:
        tell("fitting the gate", 0.0)
        gained = gate_gain(found, fit.weights, held.weights, seed, lambda share: tell("fitting the gate", share))
    return MixtureSearch(
        names=found.names,
        given=np.asarray(given, dtype=np.float64),
        fit=fit,
        intervals=intervals,
        held=held,
        domains=tuple(domains),
        gate=gained,
        likelihoods=found,
        notes=tuple(notes),
    )


def check_counts(rows: int, folds: int, replicates: int) -> None:
    """Refuse numbers that cannot be.

    Raises:
        UserError: which, and what they can be.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: must be at least 2")
    if replicates < 2:
        raise UserError(f"--replicates {replicates}: must be at least 2")
    if rows < 2:
        raise UserError(f"the data has {rows} row{'' if rows == 1 else 's'}; weights and their intervals need at least 2")
    if folds > rows:
        raise UserError(f"--folds {folds}: the data has only {rows} rows; give at most {rows}")


def _same(one: Any, other: Any) -> bool:
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    return bool((np.abs(one[finite].astype(np.float64) - other[finite]) <= _ALIKE).all())


def _interval(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("nats", "low", "high"), map(float, values), strict=True))


def _gate_dict(gate: GateGain) -> dict[str, Any]:
    low, high = gate.interval
    return {
        "kind": "bayes",
        "discount": gate.discount,
        "stride": gate.stride,
        "weights": gate.weights.tolist(),
        "nats_per_token": {"fit": gate.nats_per_token, "held_out": gate.held_out},
        "gain": {"held_out": _interval((gate.gain[0], low, high))},
    }


def _domain_dict(domain: Domain, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": domain.name,
        "rows": domain.rows,
        "tokens": domain.tokens,
        "responsibilities": domain.responsibilities.tolist(),
        "nats_per_token": {
            "optimum": domain.nats_per_token,
            "experts": [{"name": name, "nats": float(nats)} for name, nats in zip(names, domain.experts, strict=True)],
        },
    }
