"""Development data of a mixture: a file's rows, and what every expert of a recipe says of their tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modist.errors import UserError
from modist.recipe import Recipe
from modist.search.likelihoods import Likelihoods, Passage, score_passages


@dataclass(frozen=True, eq=False)
class Scored:
    """A recipe's experts on development data.

    Attributes:
        likelihoods: what each says of every scored token.
        weights: the recipe's, float64 [experts].
        notes: what the user ought to know of the data, one line each.
    """

    likelihoods: Likelihoods
    weights: tuple[float, ...]
    notes: tuple[str, ...]


def cache_folder(given: Path | None = None) -> Path:
    """Where scores and answers are kept: `given`, else $MODIST_CACHE, else ~/.cache/modist/search."""
    if given is not None:
        return given
    named = os.environ.get("MODIST_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "modist" / "search"


def check_mixture(recipe: Recipe) -> None:
    """Refuse a recipe that has no weights to search.

    Raises:
        RecipeError: it names no experts and weights, or only one expert.
    """
    document = recipe.document
    if not isinstance(document.data, dict) or "experts" not in document.data:
        raise document.error("a mixture needs 'experts' and 'weights', as in the paper's Configuration 1")
    if len(recipe.slices[0].sources) < 2:
        raise document.error("one expert has no weights to search; give two or more", "experts")


def score_data(
    recipe: Recipe,
    passages: Sequence[Passage],
    cache: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    advance: Callable[[float], object] | None = None,
) -> Scored:
    """Load a recipe's experts and have each say how likely every token is, once; the experts are let go again.

    Args:
        recipe: with at least two experts.
        passages: from `likelihoods.read_passages`.
        cache: folder of what was scored before.
        device, dtype, trust_remote_code, say: see `modist.mixture.load_experts`.
        advance: told which share of the scoring is done.

    Raises:
        UserError: the recipe has no weights to search, there is nothing to score, an expert cannot read a row, or a token is
            one that no expert can say (each with its line).
        CheckpointError, HubError: an expert is damaged, or cannot be had.
    """
    check_mixture(recipe)
    from modist.mixture import load_experts

    experts = load_experts(recipe, device=device, dtype=dtype, trust_remote_code=trust_remote_code, say=say)
    found = score_passages(experts, passages, cache, advance)
    check_sayable(found, passages)
    return Scored(found, experts.weights, tuple(_unsayable(found)))


def check_sayable(found: Likelihoods, passages: Sequence[Passage]) -> None:
    """See that every token has some expert that can say it.

    Raises:
        UserError: one has none: where it stands.
    """
    nobody = np.isneginf(found.log_probs).all(1)
    if not nobody.any():
        return
    token = int(np.flatnonzero(nobody)[0])
    ends = np.cumsum(found.lengths)
    row = int(np.searchsorted(ends, token, side="right"))
    inside = token - int(ends[row] - found.lengths[row])
    raise UserError(
        f"{passages[row].place}: no expert can say scored token {inside + 1} of this row (they give it probability 0)"
    )


def _unsayable(found: Likelihoods) -> list[str]:
    counts = np.isneginf(found.log_probs).sum(0)
    return [
        f"{name} gives {int(count):,} of the {found.tokens:,} tokens probability 0; alone it cannot say this data"
        for name, count in zip(found.names, counts, strict=True)
        if count
    ]


def shared_with_tests(passages: Sequence[Passage], file: Path | None = None, folder: Path | None = None) -> str | None:
    """What the data has in common with a test set, in words, or None.

    Args:
        file: where the rows come from; test sets declared beside it are looked at too.
        folder: of the benchmarks' rows; None for the usual one.
    """
    from modist.search.disjoint import held_out, passage_sample

    tests = held_out(folder, [file] if file is not None else [])
    found = [(passage.place, there) for passage in passages if (there := tests.find(passage_sample(passage)))]
    if not found:
        return None
    place, there = found[0]
    more = f", and {len(found) - 1:,} more rows are of test sets" if len(found) > 1 else ""
    return f"{place} holds {there}{more}: report no result on a test set that the weights were fitted to"
