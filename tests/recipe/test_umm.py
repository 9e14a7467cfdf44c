"""The UMM-style recipes: read, valid, labelled, and mergeable where models of their shapes are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from modist.errors import UserError
from modist.merge import find_method, merge, prepare
from modist.merge.compare import refuse
from modist.merge.plan import check_recipe
from modist.recipe import Recipe, load_recipe, parse_recipe
from tests.tiny_models import encode, llama_shapes, random_tensors, read_folder, tuned, write_folder

UMM = Path(__file__).parents[2] / "examples" / "umm"
FILES = sorted(UMM.glob("*.yml"))
README = (UMM / "README.md").read_text(encoding="utf-8")
NAME, EMBEDDING = "model.layers.3.mlp.up_proj.weight", "model.embed_tokens.weight"
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_there_is_one_for_each_group_and_the_page_knows_them_all() -> None:
    assert [file.stem for file in FILES] == ["deepseek-7b", "llama-2-70b", "llama-2-7b", "mistral-7b"]
    assert sorted(re.findall(r"^\| `([\w.-]+\.yml)` \|", README, re.M)) == [file.name for file in FILES]


@each_file
def test_it_is_read_and_its_parameters_are_valid(file: Path) -> None:
    recipe = load_recipe(file)
    check_recipe(recipe)
    assert recipe.method in ("ties", "task_arithmetic")
    assert find_method(recipe.method).base == "required"
    assert recipe.base is not None and recipe.base not in [source.model for source in recipe.slices[0].sources]
    for source in recipe.slices[0].sources:
        assert source.parameters["weight"].at(NAME, 0.5) == 0.5
        assert source.parameters["density"].at(NAME, 0.5) == 0.5
    # Whoever takes the other method of the paper changes one word.
    other = parse_recipe(file.read_text(encoding="utf-8").replace("merge_method: ties", "merge_method: task_arithmetic"))
    check_recipe(other)
    assert other.method == "task_arithmetic"


@each_file
def test_it_says_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# UMM-style: ") and "not published" in text
    assert ("guess" in text) == (file.stem == "deepseek-7b")


def test_the_page_promises_nothing_of_the_papers() -> None:
    assert "publishes neither code nor hyper-parameters" in " ".join(README.split())
    for word in ("weight", "density", "normalize", "dtype"):
        assert re.search(rf"^\| .*`{word}`", README, re.M), word


def test_a_wrong_parameter_would_be_seen() -> None:
    text = FILES[0].read_text(encoding="utf-8").replace("density: 0.5", "densitty: 0.5", 1)
    with pytest.raises(UserError, match="densitty"):
        check_recipe(parse_recipe(text))


def local(file: Path, folder: Path, experts: list[Path], base: Path) -> Path:
    """The same recipe of models that are here."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["base_model"] = str(base)
    for entry, expert in zip(data["models"], experts, strict=True):
        entry["model"] = str(expert)
    path = folder / file.name
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@each_file
def test_it_merges_models_of_such_shapes(file: Path, tmp_path: Path) -> None:
    tensors = random_tensors(llama_shapes(layers=2), 0)
    base = write_folder(tmp_path / "base", tensors)
    # The Llama 2 pairs have tokens of their own, 16 of the one and 1 of the other.
    rows = (112, 97) if file.stem.startswith("llama") else (96, 96)
    experts = []
    for place, count in enumerate(rows):
        found = tuned(tensors, place + 1, 0.01)
        if count != 96:
            for name in (EMBEDDING, "lm_head.weight"):
                found[name] = encode(np.random.default_rng(count).standard_normal((count, 32)), "BF16")
        experts.append(write_folder(tmp_path / f"expert{place}", found))
    path = local(file, tmp_path, experts, base)
    refuse(prepare(path).aspects)
    merge(path, tmp_path / "out", threads=1)
    merged, kept = read_folder(tmp_path / "out"), np.array_equal
    assert kept(merged[EMBEDDING].bits, tensors[EMBEDDING].bits) == (rows != (96, 96))
    name = "model.layers.1.mlp.up_proj.weight"
    moved = merged[name].float64 - tensors[name].float64
    assert 0.3 < (moved != 0).mean() < 0.9  # half of each delta, at half strength
    assert np.abs(moved).max() < 0.06


def test_models_named_twice_are_a_mistake() -> None:
    seen: list[str] = []
    recipes: list[Recipe] = [load_recipe(file) for file in FILES]
    for recipe in recipes:
        seen += [str(source.model) for source in recipe.slices[0].sources]
    assert len(seen) == len(set(seen)) == 8
