"""Merging methods at equal distance from the base: score against distance, one curve a recipe.

Studies compare methods at the strength each was run with, and a method that moves far from the base loses by that alone
(arXiv 2511.21437 has task arithmetic within 50 of the base and TIES, TSV and Iso-C at 100 to 300).  Here every recipe gives a
direction only; how far to go along it is the same for all, and each recipe's own distance is marked on its curve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.errors import ModistError, UserError
from modist.merge import Plan, make_plan, prepare
from modist.merge.compare import refuse
from modist.merge.models import fetch_models
from modist.recipe import ModelReference, Recipe, load_recipe, parse_recipe

if TYPE_CHECKING:
    from modist.search.metric import Metric
    from modist.search.norm_matched import Direction, Field, Stage

NORMS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# Cosines this near are equal: deltas are differences of float32.
_ALIKE = 1e-5


@dataclass(frozen=True)
class Point:
    """One model scored.

    Attributes:
        distance: from the base, in units of the parents' mean distance.
        score: the metric; higher is better.
        terms: of a sum of metrics each one's own number, in its order; else the score alone.
        own: whether this is the recipe as it stands.
    """

    distance: float
    score: float
    terms: tuple[float, ...]
    own: bool = False


@dataclass(frozen=True)
class Curve:
    """One recipe.

    Attributes:
        name, method: the file's name, and the merge method's.
        points: by distance, the base first.
        cosines: of its merged delta with each parent's.
        inside: its cosine with the nearest weighted sum of the parents' deltas.
    """

    name: str
    method: str
    points: tuple[Point, ...]
    cosines: tuple[float, ...]
    inside: float

    @property
    def own(self) -> Point:
        return next(point for point in self.points if point.own)

    @property
    def best(self) -> Point:
        """The highest score; of equal ones the nearest to the base."""
        return max(self.points, key=lambda point: (point.score, -point.distance))


@dataclass(frozen=True)
class Comparison:
    """Score against distance.

    Attributes:
        metric: its name; `terms` of a sum each one's, and `questions` behind each (None where that is no share of right ones).
        base, parents: (name, point); the base at distance 0.
        unit: the parents' mean L2 distance from the base.
        curves: one a recipe, in the order given.
        notes: what the user ought to know.
    """

    metric: str
    terms: tuple[str, ...]
    questions: tuple[int | None, ...]
    base: tuple[str, Point]
    parents: tuple[tuple[str, Point], ...]
    unit: float
    curves: tuple[Curve, ...]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Terms for people: their files without folders, where that tells them apart."""
        kinds = [name.partition(":") for name in self.terms]
        short = tuple(f"{kind}{colon}{Path(file).name}" for kind, colon, file in kinds)
        return short if len(set(short)) == len(short) else self.terms

    @property
    def title(self) -> str:
        """The metric with its terms' labels."""
        text = self.metric
        for name, label in zip(self.terms, self.labels, strict=True):
            text = text.replace(name, label)
        return text

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        base, *parents = [{"name": name, **asdict(point)} for name, point in (self.base, *self.parents)]
        return {**asdict(self), "base": base, "parents": parents}


def compare_at_distances(
    recipes: Sequence[str | Path | Recipe],
    metric: Metric,
    *,
    base: str | None = None,
    norms: Sequence[float] = NORMS,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    allow: Iterable[str] = (),
    trust_remote_code: bool = False,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Comparison:
    """Score every recipe's direction at the same distances from one base.

    In memory: one live model and one merged delta at a time, both as large as the model in float32.

    Args:
        recipes: merges of the same base; at least one.
        metric: from `modist.search.metric.read_metrics`, or any other.
        base: where distances are measured from; the recipes' own base_model where left out.
        norms: distances, in units of the mean of the parents' distances from the base, above 0.
        seed: for methods that draw.
        device, dtype: of the live model, as for `modist search merge`.
        threads: merging; None for one a core.
        allow: differences between parents to accept, as for `modist merge`.
        trust_remote_code: run the Python files that come with the base.
        advance: told models scored and of how many.

    Raises:
        UserError: recipes of different bases, no base, distances that are none, parents that do not fit.
        ModistError: a metric that gives no finite number; as merging and loading.
    """
    allowed = frozenset(allow)
    wanted = check_norms(norms)
    read = [recipe if isinstance(recipe, Recipe) else load_recipe(recipe) for recipe in recipes]
    if not read:
        raise UserError("no recipe to compare; give at least one")
    origin = _base_of(read, base)
    frame = _frame(read, origin)
    plan = _planned(frame, seed, allowed, trust_remote_code)
    if plan.untied:
        raise UserError(f"{origin}: has a head of its own although its config ties it; a model in memory has one or the other")
    # Whatever a recipe has wrong is said before a model is loaded.
    plans = [_planned(recipe, seed, allowed, trust_remote_code) for recipe in read]
    from modist.search.candidate import live_model
    from modist.search.norm_matched import Field

    field = Field(plan, threads)
    model, tokenizer = live_model(plan.inputs[plan.base or 0], device, dtype, "float32", trust_remote_code)
    stage = field.stage(model)
    total, done = 1 + len(field.parents) + len(plans) * (len(wanted) + 1), 0

    def score(distance: float, own: bool = False) -> Point:
        nonlocal done
        terms = _terms(metric, model, tokenizer)
        done += 1
        advance(done, total)
        return Point(distance, _total(metric, terms), terms, own)

    stage.become(field.base)
    start = field.base.label, score(0.0)
    parents = []
    for parent, norm in zip(field.parents, field.norms, strict=True):
        stage.become(parent)
        parents.append((parent.label, score(norm / field.unit)))
    names = _names(read)
    curves = [
        _curve(name, one, field, stage, wanted, start[1], score) for name, one in zip(names, plans, strict=True)
    ]  # fmt: skip
    for checkpoint in {id(one): one for made in (plan, *plans) for one in made.inputs}.values():
        checkpoint.close()
    return Comparison(
        metric=metric.name,
        terms=_term_names(metric),
        questions=_questions(metric),
        base=start,
        parents=tuple(parents),
        unit=field.unit,
        curves=tuple(curves),
        notes=_notes(curves),
    )


def _curve(
    name: str,
    plan: Plan,
    field: Field,
    stage: Stage,
    norms: Sequence[float],
    start: Point,
    score: Callable[..., Point],
) -> Curve:
    direction: Direction = field.direction(plan)
    points = [start]
    for norm in norms:
        stage.move(direction, norm * field.unit / direction.norm)
        points.append(score(norm))
    stage.move(direction, 1.0)
    points.append(score(direction.norm / field.unit, own=True))
    points.sort(key=lambda point: point.distance)
    return Curve(name, plan.method.name, tuple(points), direction.cosines, direction.inside)


def check_norms(norms: Sequence[float]) -> tuple[float, ...]:
    """Distances in ascending order, each once; UserError for one that is none."""
    for norm in norms:
        if not (math.isfinite(norm) and norm > 0):
            raise UserError(
                f"--norms {norm:g}: a distance is more than 0, and 1 is the parents' mean; the base is scored anyway"
            )
    if not norms:
        raise UserError("--norms names no distance")
    return tuple(sorted(set(map(float, norms))))


def _base_of(recipes: Sequence[Recipe], given: str | None) -> ModelReference:
    """The one base."""
    if given is not None:
        try:
            return ModelReference.parse(given)
        except ValueError as error:
            raise UserError(f"--base: {error}") from None
    found: dict[str, tuple[ModelReference, Recipe]] = {}
    for recipe in recipes:
        if recipe.base is not None:
            found.setdefault(_key(recipe.base), (recipe.base, recipe))
    if not found:
        raise UserError("no recipe names a base_model to measure distances from; give --base MODEL")
    (first, of), *others = found.values()
    if others:
        other, recipe = others[0]
        raise recipe.document.error(
            f"{other} is another base than {first} of {of.document.name}; give --base to measure all from one", "base_model"
        )
    return first


def _key(reference: ModelReference) -> str:
    return str(reference.folder.resolve()) if reference.is_local else str(reference)


def _frame(recipes: Sequence[Recipe], base: ModelReference) -> Recipe:
    """Base and parents of all recipes as one recipe: what has to fit together."""
    parents: dict[str, ModelReference] = {}
    for recipe in recipes:
        for model in recipe.models:
            if model.adapter:
                raise UserError(f"{model}: distances are between whole models; merge the adapter into its model first")
            if _key(model) != _key(base):
                parents.setdefault(_key(model), model)
    if not parents:
        raise UserError(f"the recipes merge nothing but the base, {base}")
    data = {
        "merge_method": "task_arithmetic",
        "base_model": _key(base),
        "models": [{"model": key, "parameters": {"weight": 1.0}} for key in parents],
    }
    # JSON is YAML, and quotes any name.
    return parse_recipe(json.dumps(data), "the recipes' models")


def _planned(recipe: Recipe, seed: int, allow: frozenset[str], trust_remote_code: bool) -> Plan:
    prepared = prepare(recipe, seed=seed, allow=allow, allow_code=trust_remote_code)
    refuse(prepared.aspects)
    if prepared.plan.stacked:
        raise UserError(f"{recipe.document.name}: stacks layers, and distances are between models of the same layers")
    if not prepared.models.download_bytes:
        return prepared.plan
    models = fetch_models(prepared.models, recipe.models, trust_remote_code)
    return make_plan(recipe, models.checkpoints, seed=seed, allow=allow)


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """Short names of recipes: the files' own, longer ones where two are alike."""
    short = [Path(recipe.document.name).stem for recipe in recipes]
    return [name if short.count(name) == 1 else recipe.document.name for name, recipe in zip(short, recipes, strict=True)]


def _terms(metric: Metric, model: Any, tokenizer: Any) -> tuple[float, ...]:
    each = getattr(metric, "each", None)
    if each is not None:
        return tuple(each(model, tokenizer))
    value = float(metric(model, tokenizer))
    if not math.isfinite(value):
        raise ModistError(f"{metric.name}: gives {value}, which is no number to compare by")
    return (value,)


def _total(metric: Metric, terms: Sequence[float]) -> float:
    total = getattr(metric, "total", None)
    return float(total(terms)) if total is not None else terms[0]


def _term_names(metric: Metric) -> tuple[str, ...]:
    return tuple(term.name for _, term in getattr(metric, "terms", ((1.0, metric),)))


def _questions(metric: Metric) -> tuple[int | None, ...]:
    """How many questions are behind each term that is a share of right answers."""
    terms: Sequence[tuple[float, Any]] = getattr(metric, "terms", ((1.0, metric),))
    return tuple(len(term.samples()) if term.name.startswith("accuracy:") else None for _, term in terms)


def _notes(curves: Sequence[Curve]) -> tuple[str, ...]:
    """Which recipes are one direction, so that their curves differ by nothing but rounding."""
    notes = []
    for place, one in enumerate(curves):
        for other in curves[place + 1 :]:
            apart = max(abs(a - b) for a, b in zip(one.cosines, other.cosines, strict=True))
            # Two weighted sums of the parents' deltas are told apart by their cosines with them.
            if apart < _ALIKE and min(one.inside, other.inside) > 1 - _ALIKE:
                notes.append(f"{one.name} and {other.name} lie in one direction: at equal distance they are one model")
    return tuple(notes)
