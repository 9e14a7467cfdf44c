"""The recipe that a search of weights writes: the user's own, and nothing of theirs is lost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from modist.errors import UserError
from modist.recipe import load_recipe, parse_recipe
from modist.search.solved import MARK, check_out, rounded, solved_text, write_solved

FLOW = "# mine\nexperts:\n  - source_model: ./a  # first\n  - source_model: ./b\nweights: [0.5, 0.5]  # mine\ndtype: float32\n"
BLOCK = "weights:\n- 0.5\n- 0.5\n# what follows\nexperts:\n- source_model: ./a\n- source_model: ./b\n"
INDENTED = "base_model: ./a\nexperts: [{source_model: ./a}, {source_model: ./b}]\n\nweights:\n    - 0.9\n    - 0.1\n\n\n# end"
JSON = '{"experts": [{"source_model": "./a"}, {"source_model": "./b"}], "weights": [1, 0], "normalize": "quantile"}'
ALIAS = "experts: [{source_model: ./a}, {source_model: ./b}]\nmodel_kwargs: {x: &w [0.5, 0.5], y: &d float32}\nweights: *w\n"
PLACES = {"flow": FLOW, "block": BLOCK, "indented": INDENTED, "json": JSON, "alias": ALIAS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("place", ["out.yml", "elsewhere/out.yml"])
def test_the_recipe_is_the_users_own_with_new_weights(folder: Path, kind: str, place: str) -> None:
    (folder / "r.yml").write_text(PLACES[kind], encoding="utf-8")
    recipe = load_recipe(folder / "r.yml")
    out = write_solved(recipe, (1 / 3, 2 / 3), folder / place, remark="why")
    solved = load_recipe(out)
    assert [source.parameters["weight"].at("", 0.0) for source in solved.slices[0].sources] == [0.333333, 0.666667]
    assert all(reference.is_local for reference in solved.models)
    for one, other in zip(solved.models, recipe.models, strict=True):
        assert one.folder.resolve() == other.folder.resolve()
    assert (solved.dtype, solved.parameters.keys()) == (recipe.dtype, recipe.parameters.keys())
    text = out.read_text(encoding="utf-8")
    assert text.startswith(f"{MARK}: why\n")
    assert text.endswith("\n")
    if kind == "flow" and place == "out.yml":
        assert text == f"{MARK}: why\n" + FLOW.replace("[0.5, 0.5]", "[0.333333, 0.666667]")
    if kind == "block":
        assert "# what follows\n" in text
    # Once more, from what was written: one remark, not two.
    again = solved_text(solved, (0.25, 0.75), out, "later")
    assert again.count(MARK) == 1
    assert "later" in again.splitlines()[0]
    assert "[0.25, 0.75]" in again


def test_weights_are_written_as_they_are() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        weights = generator.dirichlet(np.full(int(generator.integers(2, 7)), 0.05))
        weights[int(generator.integers(len(weights)))] *= generator.choice([0, 1, 1e-9])
        weights = (weights + 1e-12) / (weights + 1e-12).sum() if weights.sum() < 1e-6 else weights / weights.sum()
        shown = rounded(weights)
        assert round(math.fsum(shown), 9) == 1
        assert np.abs(np.array(shown) - weights).max() < 1e-5
        assert all((weight > 0) == (one > 0) for weight, one in zip(weights, shown, strict=True))
    assert rounded((0.5, 0.5)) == (0.5, 0.5)
    assert rounded((1, 0)) == (1.0, 0.0)
    text = solved_text(parse_recipe(JSON.replace("./", "x/")), (1 - 2e-6, 2e-6), Path("o.yml"))
    assert "[0.999998, 0.000002]" in text


def test_nothing_of_the_users_is_overwritten(folder: Path) -> None:
    (folder / "r.yml").write_text(FLOW, encoding="utf-8")
    recipe = load_recipe(folder / "r.yml")
    for force in (False, True):
        with pytest.raises(UserError, match="is the recipe itself, which is never overwritten"):
            write_solved(recipe, (0, 1), folder / "r.yml", force=force)
    (folder / "link.yml").symlink_to(folder / "r.yml")
    with pytest.raises(UserError, match="is the recipe itself"):
        check_out(folder / "link.yml", recipe, True)
    (folder / "notes.yml").write_text("mine: true\n", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by modist search mixture; --force"):
        write_solved(recipe, (0, 1), folder / "notes.yml")
    assert (folder / "notes.yml").read_text() == "mine: true\n"
    write_solved(recipe, (0, 1), folder / "notes.yml", force=True)
    write_solved(recipe, (1, 0), folder / "notes.yml")
    assert "[1, 0]" in (folder / "notes.yml").read_text()
    for out, says in ((folder, "ends in .yml"), (folder / "x.json", "ends in .yml"), (folder / "none" / "x.yml", "no folder")):
        with pytest.raises(UserError, match=says):
            check_out(out, recipe)
    assert (folder / "r.yml").read_text() == FLOW
    assert {path.name for path in folder.iterdir()} == {"a", "b", "elsewhere", "r.yml", "link.yml", "notes.yml"}
