"""Methods at equal distance: where the live model stands, by what float64 says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from modist.cli.search_compare import draw, read_norms, search_compare_command
from modist.errors import ModistError, UserError
from modist.merge import merge
from modist.search.compare import NORMS, Comparison, Curve, Point, compare_at_distances
from tests.tiny_models import Trio, encode, plain_trio, read_folder, write_folder, write_recipe

EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return plain_trio(tmp_path_factory.mktemp("compare"), "F32", seed=3, layers=2)


@pytest.fixture
def write(trio: Trio, tmp_path: Path) -> Write:
    """`write("ties", density=0.3)`: a recipe of both fine-tunes, named after its method."""

    def make(method: str, name: str = "", base: Path | None = trio.base, **parameters: Any) -> Path:
        parameters = {"weight": 0.5} | parameters
        models = [{"model": model, "parameters": parameters} for model in (trio.one, trio.two)]
        recipe = {"merge_method": method, "models": models} | ({"base_model": base} if base else {})
        return write_recipe(tmp_path / f"{name or method}.yml", recipe)

    return make


class Where:
    """A metric that tells where the model stands: the L2 distance from a folder, or from several."""

    name = "where"

    def __init__(self, *folders: Path) -> None:
        self._folders = [{name: t.float64 for name, t in read_folder(folder).items()} for folder in folders]
        self.seen: list[dict[str, np.ndarray]] = []
        self.terms = [(1.0, self)] * len(folders)

    def each(self, model: Any, tokenizer: Any) -> list[float]:
        state = {name: value.double().numpy() for name, value in model.state_dict().items()}
        self.seen.append({name: state[name].copy() for name in self._folders[0]})
        return [
            math.sqrt(sum(float(np.sum((state[name] - value) ** 2)) for name, value in folder.items()))
            for folder in self._folders
        ]

    def total(self, values: list[float]) -> float:
        return -values[0]

    def __call__(self, model: Any, tokenizer: Any) -> float:
        return self.total(self.each(model, tokenizer))


def delta(folder: Path, base: Path) -> np.ndarray:
    origin = read_folder(base)
    return np.concatenate([(t.float64 - origin[name].float64).ravel() for name, t in read_folder(folder).items()])


def test_every_method_stands_at_the_distance_it_is_given(trio: Trio, write: Write) -> None:
    recipes = [
        write("linear", base=None),
        write("task_arithmetic", weight=0.7),
        write("ties", density=0.3),
        write("dare_linear", density=0.4),
    ]
    where = Where(trio.base)
    steps: list[tuple[int, int]] = []
    found = compare_at_distances(recipes, where, norms=(2.0, 0.5, 1.0), advance=lambda *step: steps.append(step))
    lengths = [float(np.linalg.norm(delta(folder, trio.base))) for folder in (trio.one, trio.two)]
    assert found.unit == pytest.approx(np.mean(lengths), rel=1e-6)
    assert steps[-1] == (1 + 2 + 4 * 4, 1 + 2 + 4 * 4) and len(steps) == 19
    assert found.base == ("base", Point(0.0, 0.0, (0.0,)))
    for (name, point), length, wanted in zip(found.parents, lengths, ("one", "two"), strict=True):
        assert name == wanted and point.terms[0] == pytest.approx(length, rel=1e-12), "a parent is itself, to the bit"
        assert point.distance == pytest.approx(length / found.unit, rel=1e-6)
    for curve in found.curves:
        assert [point.distance for point in curve.points] == sorted(point.distance for point in curve.points)
        assert sum(point.own for point in curve.points) == 1 and curve.points[0] == found.base[1]
        for point in curve.points:
            assert point.terms[0] == pytest.approx(point.distance * found.unit, rel=2e-5), (curve.name, point)
        assert {point.distance for point in curve.points if not point.own} == {0.0, 0.5, 1.0, 2.0}
    assert [(curve.name, curve.method) for curve in found.curves][:2] == [("linear", "linear"), ("task_arithmetic",) * 2]


def test_as_it_stands_is_what_merging_gives(trio: Trio, write: Write, tmp_path: Path) -> None:
    recipe = write("dare_ties", density=0.3)
    merge(recipe, tmp_path / "out", seed=9)
    merged = read_folder(tmp_path / "out")
    where = Where(trio.base)
    found = compare_at_distances([recipe], where, norms=(1.0,), seed=9)
    for name, tensor in merged.items():
        assert np.allclose(where.seen[-1][name], tensor.float64, rtol=0, atol=2**-22), name
    assert found.curves[0].own.distance == pytest.approx(
        float(np.linalg.norm(delta(tmp_path / "out", trio.base))) / found.unit, rel=1e-6
    )
    other = compare_at_distances([recipe], Where(trio.base), norms=(1.0,), seed=10)
    assert other.curves[0].cosines != found.curves[0].cosines, "another seed drops other elements"


def test_cosines_and_directions(trio: Trio, write: Write, tmp_path: Path) -> None:
    recipes = [write("linear", base=None), write("task_arithmetic", weight=1.3), write("ties", density=0.2)]
    found = compare_at_distances(recipes, Where(trio.base), norms=(1.0,))
    parents = np.stack([delta(folder, trio.base) for folder in (trio.one, trio.two)])
    for recipe, curve in zip(recipes, found.curves, strict=True):
        merge(recipe, tmp_path / curve.name)
        moved = delta(tmp_path / curve.name, trio.base)
        right = parents @ moved / np.linalg.norm(parents, axis=1) / np.linalg.norm(moved)
        assert curve.cosines == pytest.approx(right, abs=1e-5)
        nearest = parents.T @ np.linalg.lstsq(parents.T, moved, rcond=None)[0]
        assert curve.inside == pytest.approx(float(np.linalg.norm(nearest) / np.linalg.norm(moved)), abs=1e-5)
    linear, _, ties = found.curves
    assert linear.inside > 1 - 1e-5 and ties.inside < 0.9
    assert found.notes == ("linear and task_arithmetic lie in one direction: at equal distance they are one model",)


def test_several_terms_are_kept_apart(trio: Trio, write: Write) -> None:
    found = compare_at_distances([write("ties")], Where(trio.base, trio.one), norms=NORMS)
    assert all(len(point.terms) == 2 and point.score == -point.terms[0] for point in found.curves[0].points)
    assert found.parents[0][1].terms == (pytest.approx(found.parents[0][1].distance * found.unit), 0.0)
    assert found.curves[0].best.distance == 0.0
    text = json.loads(json.dumps(found.as_dict()))
    assert text["base"]["name"] == "base" and text["parents"][1]["name"] == "two"
    assert len(text["curves"][0]["points"]) == len(NORMS) + 2


def test_the_base_may_be_given(trio: Trio, write: Write) -> None:
    """Recipes that take their deltas from different models are still measured from one."""
    recipes = [write("task_arithmetic", "near"), write("task_arithmetic", "far", base=trio.one, weight=0.9)]
    with pytest.raises(UserError, match=r"far\.yml:\d+: base_model: .*one is another base than .*base of .*near\.yml"):
        compare_at_distances(recipes, Where(trio.base))
    found = compare_at_distances(recipes, Where(trio.base), base=str(trio.base), norms=(1.0,))
    assert found.base[0] == "base" and [name for name, _ in found.parents] == ["one", "two"]
    for curve in found.curves:
        (point,) = [point for point in curve.points if point.distance == 1.0]
        assert point.terms[0] == pytest.approx(found.unit, rel=2e-5)


# ---------------------------------------------------------------- what cannot be compared


def refused(*recipes: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        compare_at_distances(recipes, Where(*[options.pop("at")]), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("norms", [(), (0.0,), (-1.0,), (math.nan,), (math.inf, 1.0)])
def test_distances_that_are_none(trio: Trio, write: Write, norms: tuple[float, ...]) -> None:
    assert "--norms" in refused(write("ties"), at=trio.base, norms=norms)


def test_recipes_that_give_nothing_to_compare(trio: Trio, write: Write, tmp_path: Path) -> None:
    assert "no recipe to compare" in refused(at=trio.base)
    assert "no recipe names a base_model to measure distances from; give --base" in refused(
        write("linear", base=None), at=trio.base
    )
    still = write("task_arithmetic", "still", weight=0.0)
    assert "still.yml: merges to the base itself, which lies in no direction" in refused(still, at=trio.base)
    alone = write_recipe(
        tmp_path / "alone.yml", {"merge_method": "linear", "models": [{"model": trio.base, "parameters": {"weight": 1}}]}
    )
    assert "merge nothing but the base" in refused(alone, at=trio.base, base=str(trio.base))
    copy = write_folder(tmp_path / "copy", read_folder(trio.base))
    same = {"merge_method": "ties", "base_model": trio.base, "models": [{"model": copy, "parameters": {"weight": 1}}]}
    assert "no parent differs from the base" in refused(write_recipe(tmp_path / "same.yml", same), at=trio.base)


def test_parents_that_do_not_fit(trio: Trio, write: Write, tmp_path: Path) -> None:
    tensors = read_folder(trio.one)
    tensors["model.norm.weight"] = encode(np.ones(31), "F32")
    odd = write_folder(tmp_path / "odd", tensors, json.loads((trio.one / "config.json").read_text()))
    recipe = write_recipe(
        tmp_path / "odd.yml",
        {"merge_method": "ties", "base_model": trio.base, "models": [{"model": odd, "parameters": {"weight": 1}}]},
    )
    assert "model.norm.weight" in refused(write("linear"), recipe, at=trio.base)


def test_a_metric_that_gives_no_number(trio: Trio, write: Write) -> None:
    class Broken:
        name = "broken"

        def __call__(self, model: Any, tokenizer: Any) -> float:
            return math.nan

    with pytest.raises(ModistError, match="broken: gives nan"):
        compare_at_distances([write("ties")], Broken())


def test_names_under_which_a_model_does_not_run_are_said(trio: Trio, write: Write) -> None:
    from modist.merge import prepare
    from modist.search.norm_matched import Field

    field = Field(prepare(write("ties")).plan)
    with pytest.raises(UserError, match=r"transformers keeps the tensor '.*' under another name"):
        field.stage(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------- the command and the picture


@pytest.mark.parametrize(("text", "wanted"), [("1", (1.0,)), (" 1, .5,1 ", (0.5, 1.0))])
def test_norms_are_read(text: str, wanted: tuple[float, ...]) -> None:
    assert read_norms(text) == wanted


@pytest.mark.parametrize(("text", "words"), [("1,x", "'x' is no number"), ("", "'' is no number"), ("0,1", "more than 0")])
def test_norms_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_norms(text)


def command(*line: Any) -> str:
    app = typer.Typer()
    app.command()(search_compare_command)
    told = CliRunner().invoke(app, [str(word) for word in line], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return str(told.stdout)


def test_the_command_on_the_demo(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "How long is honey?"}, {"role": "assistant", "content": "The answer is 5."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "Rosa buys 12 eggs and 30 pens."}) + "\n")
    recipes = []
    for method in ("task_arithmetic", "ties"):
        models = [{"model": EXPERTS / name, "parameters": {"weight": 0.5}} for name in ("general", "math")]
        recipe = {"merge_method": method, "base_model": EXPERTS / "base", "models": models}
        recipes.append(write_recipe(tmp_path / f"{method}.yml", recipe))
    metric = f"likelihood:{tmp_path}/chat.jsonl + 0.5*likelihood:{tmp_path}/text.jsonl"
    line = [*recipes, "--metric", metric, "--norms", "0.5,1", "--plot", tmp_path / "p.png"]
    found = json.loads(command(*line, "--json"))
    assert [curve["name"] for curve in found["curves"]] == ["task_arithmetic", "ties"]
    assert found["questions"] == [None, None] and found["picture"] == str(tmp_path / "p.png")
    chat = {parent["name"]: parent["terms"][0] for parent in [found["base"], *found["parents"]]}
    assert chat["general"] > chat["base"], "the expert for words counts letters better than the base"
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    told = command(*line)
    for word in ("likelihood:chat.jsonl + 0.5*likelihood:text.jsonl", "at 0.5", "as it stands", "cos math", "(the base)"):
        assert word in told, word


def comparison(curves: int = 2, terms: tuple[str, ...] = ("accuracy:/a/x.yml", "accuracy:/b/y.yml")) -> Comparison:
    def point(distance: float, own: bool = False) -> Point:
        values = tuple(0.1 * (number + 1) + 0.2 * distance for number in range(len(terms)))
        return Point(distance, sum(values), values, own)

    lines = tuple(
        Curve(f"m {place} $", "ties", (point(0), point(0.5), point(0.7, True), point(1)), (0.3, 0.4), 0.9)
        for place in range(curves)
    )
    asked = tuple(50 if term.startswith("accuracy") else None for term in terms)
    parents = (("one", point(1.1)), ("two $x$", point(0.9)))
    return Comparison(" + ".join(terms), terms, asked, ("base", point(0)), parents, 3.5, lines)


def test_labels_leave_folders_out_where_that_tells_terms_apart() -> None:
    assert (
        comparison().labels == ("accuracy:x.yml", "accuracy:y.yml") and comparison().title == "accuracy:x.yml + accuracy:y.yml"
    )
    assert comparison(terms=("accuracy:/a/x", "accuracy:/b/x")).labels == ("accuracy:/a/x", "accuracy:/b/x")


@pytest.mark.parametrize(
    ("curves", "terms"), [(1, ("likelihood:a",)), (2, ("accuracy:/a/x", "likelihood:b")), (8, ("accuracy:x",) * 3)]
)
def test_pictures_of_any_number(tmp_path: Path, curves: int, terms: tuple[str, ...]) -> None:
    path = draw(comparison(curves, terms), tmp_path / "p.svg")
    assert path.read_bytes().startswith(b"<?xml")
    again = draw(comparison(curves, terms), tmp_path / "q.svg")
    assert path.read_bytes() == again.read_bytes()


def test_the_ring_is_at_the_recipes_own_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modist.report.distance_picture as module

    seen: dict[str, Any] = {}
    monkeypatch.setattr(module, "save", lambda figure, path: seen.setdefault("figure", figure))
    found = comparison(1)
    draw(found, tmp_path / "p.png")
    axes = seen["figure"].axes
    assert len(axes) == 3, "a panel for each term and one for their sum"
    for number, one in enumerate(axes):
        (ring,) = [line for line in one.lines if line.get_marker() == "o"]
        value = (*found.curves[0].own.terms, found.curves[0].own.score)[number]
        assert ring.get_xdata()[0] == 0.7 and ring.get_ydata()[0] == pytest.approx(100 * value)
