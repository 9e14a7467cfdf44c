"""`scaling` in a recipe: what it means, and what is said of what it cannot mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.errors import RecipeError
from modist.merge.plan import check_recipe
from modist.recipe import load_recipe, parse_recipe
from modist.recipe.json_schema import json_schema
from modist.recipe.recipe import ScalingOption

RECIPE = """\
merge_method: ties
base_model: org/a
models:
  - model: org/b
    parameters: {weight: 0.5}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aim.safetensors").touch()
    return tmp_path


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check_recipe(parse_recipe(text, "r.yml"))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("r.yml:")
    return message


def test_it_is_read(here: Path) -> None:
    recipe = parse_recipe(RECIPE + "scaling: {kind: aim, statistics: aim.safetensors, omega: 3e-1}\n")
    assert recipe.scaling == ScalingOption("aim", Path("aim.safetensors"), 0.3)
    recipe = parse_recipe(RECIPE + "scaling:\n  kind: fisher\n  statistics: aim.safetensors\n")
    assert recipe.scaling == ScalingOption("fisher", Path("aim.safetensors"), None)
    assert parse_recipe(RECIPE).scaling is None


def test_the_file_may_lie_beside_the_recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "deep").mkdir()
    (here / "r.yml").write_text(RECIPE + "scaling: {kind: aim, statistics: aim.safetensors}\n")
    monkeypatch.chdir(here / "deep")
    scaling = load_recipe(here / "r.yml").scaling
    assert scaling is not None and scaling.statistics == here / "aim.safetensors"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scaling: {kind: aimm, statistics: aim.safetensors}", "r.yml:6: scaling.kind: 'aimm': should be 'aim' or 'fisher'"),
        ("scaling:\n  kind: aim\n", "r.yml:6: scaling: the key 'statistics' is missing"),
        ("scaling:\n  kind: aim\n  statstics: aim.safetensors", "r.yml:8: scaling.statstics: unknown key 'statstics'; did you"),
        ("scaling:\n  kind: aim\n  statistics: am.safetensors", "r.yml:8: scaling.statistics: there is no file 'am.safe"),
        ("scaling:\n  kind: aim\n  statistics: x", "there is no file 'x'; modist statistics makes it"),
        ('scaling:\n  kind: aim\n  statistics: "a\\0b"', "there is no file"),
        ("scaling:\n  kind: aim\n  statistics: .", "there is no file '.'"),
        ("scaling:\n  kind: aim\n  statistics: aim.safetensors\n  omega: 1.2", "r.yml:9: scaling.omega: 1.2: should be less"),
        ("scaling:\n  kind: aim\n  statistics: aim.safetensors\n  omega: x", "r.yml:9: scaling.omega: 'x': should be a valid"),
        ("scaling:\n  kind: fisher\n  statistics: aim.safetensors\n  omega: 0.4", "r.yml:9: scaling.omega: omega belongs"),
        ("scaling: aim", "r.yml:6: scaling: 'aim'"),
        ("scalling: {kind: aim}", "unknown key 'scalling'; did you mean 'scaling'?"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(here: Path, text: str, words: str) -> None:
    assert words in refused(RECIPE + text + "\n")


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_only_methods_of_task_vectors_scale(here: Path, method: str) -> None:
    text = RECIPE.replace("ties", method).replace("weight", "t" if method == "slerp" else "weight")
    message = refused(text + "scaling: {kind: aim, statistics: aim.safetensors}\n")
    start = f"r.yml:6: scaling: {method} merges no deltas that could be scaled; task_arithmetic, ties, dare_linear, dare_ties, "
    assert message.startswith(start) and message.endswith(" do")


def test_a_mixture_has_none(here: Path) -> None:
    text = "experts: [{source_model: org/a}]\nweights: [1.0]\nscaling: {kind: aim, statistics: aim.safetensors}\n"
    assert "r.yml:3: scaling: unknown key 'scaling'" in refused(text)


def test_the_schema_has_it() -> None:
    schema = json_schema()
    assert set(schema["$defs"]["ScalingEntry"]["properties"]) == {"kind", "statistics", "omega"}
