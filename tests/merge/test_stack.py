"""Slices: layers stacked, left out and merged across depths, against what lies in the parents' files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import UserError
from modist.merge import Watch, prepare
from modist.merge import merge as merge_models
from modist.merge.verify import verify
from tests.merge.conftest import Recipe
from tests.tiny_models import (
    Tensor,
    Trio,
    encode,
    llama_config,
    llama_shapes,
    plain_trio,
    random_tensors,
    read_folder,
    write_folder,
    write_recipe,
)

Merge = Callable[..., Path]


def source(model: Path, first: int, stop: int, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "layer_range": [first, stop]} | ({"parameters": parameters} if parameters else {})


def stacked(*slices: list[dict[str, Any]], method: str = "passthrough", **more: Any) -> dict[str, Any]:
    return {"merge_method": method, "slices": [{"sources": sources} for sources in slices], **more}


def layer(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    mark = f"model.layers.{number}."
    return {name.removeprefix(mark): tensor for name, tensor in tensors.items() if name.startswith(mark)}


def layers_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name].bits, two[name].bits) for name in one)


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 0, 4)],
        [(0, 0, 3), (1, 1, 4)],
        [(0, 0, 1), (0, 3, 4)],
        [(1, 2, 4), (0, 0, 2), (2, 1, 2)],
        [(0, 0, 2)] * 6,
        [(2, 3, 4)],
    ],
    ids=["whole", "two models", "pruned", "downwards", "twelve layers", "one layer"],
)
def test_every_layer_is_the_one_asked_for(llama: Trio, merge: Merge, ranges: list[tuple[int, int, int]]) -> None:
    out = merge(stacked(*([source(llama.folders[which], first, stop)] for which, first, stop in ranges)))
    parents, made = [read_folder(folder) for folder in llama.folders], read_folder(out)
    wanted = [(which, number) for which, first, stop in ranges for number in range(first, stop)]
    assert layers_of(out) == len(wanted)
    for number, (which, old) in enumerate(wanted):
        assert same(layer(made, number), layer(parents[which], old)), number
    assert not layer(made, len(wanted))
    first, last = parents[ranges[0][0]], parents[ranges[-1][0]]
    for name, of in (("model.embed_tokens.weight", first), ("model.norm.weight", last), ("lm_head.weight", last)):
        np.testing.assert_array_equal(made[name].bits, of[name].bits)
    assert len(made) == 9 * len(wanted) + 3
    assert verify(out).passed


def test_layers_of_other_depths_are_merged(llama32: Trio, merge: Merge) -> None:
    """Layers 0 and 1 of one model with 2 and 3 of another, the second weighted along the depth of the slice."""
    sources = [source(llama32.one, 0, 2, weight=1.0), source(llama32.two, 2, 4, weight=[1.0, 3.0])]
    made = read_folder(merge(stacked(sources, method="linear")))
    one, two = read_folder(llama32.one), read_folder(llama32.two)
    for number, weight in ((0, 1.0), (1, 3.0)):
        for name, tensor in layer(made, number).items():
            exact = (layer(one, number)[name].float64 + weight * layer(two, number + 2)[name].float64) / (1 + weight)
            np.testing.assert_allclose(tensor.float64, exact, rtol=0, atol=3e-7)
    # Outside layers a gradient has its first value.
    exact = (one["model.norm.weight"].float64 + two["model.norm.weight"].float64) / 2
    np.testing.assert_allclose(made["model.norm.weight"].float64, exact, atol=3e-7)


def test_a_model_is_merged_with_itself_across_depths(llama32: Trio, merge: Merge) -> None:
    out = merge(stacked([source(llama32.one, 0, 3), source(llama32.one, 1, 4)], method="linear", parameters={"weight": 0.5}))
    one, made = read_folder(llama32.one), read_folder(out)
    for number in range(3):
        for name, tensor in layer(made, number).items():
            exact = (layer(one, number)[name].float64 + layer(one, number + 1)[name].float64) / 2
            np.testing.assert_allclose(tensor.float64, exact, atol=2e-7)
    np.testing.assert_allclose(made["lm_head.weight"].float64, one["lm_head.weight"].float64, atol=1e-7)


def test_deltas_are_from_the_bases_own_layers(llama32: Trio, merge: Merge) -> None:
    """A base that is not listed has the layers of the sources; one that is listed has its own."""
    weight = {"weight": 0.5}
    unlisted = merge(
        stacked([source(llama32.one, 1, 3, **weight)], method="task_arithmetic", base_model=llama32.base), "unlisted"
    )
    sources = [source(llama32.one, 1, 3, **weight), source(llama32.base, 0, 2)]
    listed = merge(stacked(sources, method="task_arithmetic", base_model=llama32.base), "listed")
    one, base = read_folder(llama32.one), read_folder(llama32.base)
    for out, shift in ((unlisted, 1), (listed, 0)):
        for number in range(2):
            for name, tensor in layer(read_folder(out), number).items():
                start = layer(base, number + shift)[name].float64
                exact = start + 0.5 * (layer(one, number + 1)[name].float64 - start)
                np.testing.assert_allclose(tensor.float64, exact, atol=3e-7)


def test_each_slice_may_have_a_base_of_its_own(llama32: Trio, merge: Merge) -> None:
    recipe: dict[str, Any] = stacked(
        [source(llama32.two, 0, 2, weight=0.5)], [source(llama32.two, 2, 4, weight=0.5)], method="task_arithmetic"
    )
    recipe["slices"][0]["base_model"], recipe["slices"][1]["base_model"] = llama32.base, llama32.one
    out = merge(recipe)
    two, made = read_folder(llama32.two), read_folder(out)
    for number, of in ((1, llama32.base), (2, llama32.one)):
        for name, tensor in layer(made, number).items():
            exact = (layer(two, number)[name].float64 + layer(read_folder(of), number)[name].float64) / 2
            np.testing.assert_allclose(tensor.float64, exact, atol=3e-7)


def test_filters_of_what_each_model_has_see_the_names_there(llama32: Trio, merge: Merge) -> None:
    """As in mergekit: `layers.1.` is the parent's second layer, wherever it stands in the result."""
    scale = {"scale": [{"filter": "layers.1.mlp", "value": 0.0}, {"value": 1.0}]}
    out = merge(stacked([source(llama32.one, 0, 2)], [source(llama32.one, 0, 2)], parameters=scale))
    made = read_folder(out)
    zero = {name for name, tensor in made.items() if not tensor.float64.any()}
    assert zero == {f"model.layers.{n}.mlp.{kind}_proj.weight" for kind in ("down", "gate", "up") for n in (1, 3)}


def test_filters_of_what_all_models_share_see_the_names_of_the_output(llama32: Trio, merge: Merge) -> None:
    t = {"t": [{"filter": "layers.3.mlp", "value": 1.0}, {"value": 0.0}]}
    part = [source(llama32.base, 0, 2), source(llama32.two, 2, 4)]
    made = read_folder(merge(stacked(part, part, method="slerp", base_model=llama32.base, parameters=t)))
    base, two = read_folder(llama32.base), read_folder(llama32.two)
    for number in range(4):
        for name, tensor in layer(made, number).items():
            other = number == 3 and "mlp" in name
            wanted = layer(two, 3)[name] if other else layer(base, number % 2)[name]
            np.testing.assert_array_equal(tensor.bits, wanted.bits)


def test_a_filter_that_matches_neither_is_an_error(llama32: Trio, tmp_path: Path) -> None:
    scale = {"scale": [{"filter": "layers.2.mlp", "value": 0.0}, {"value": 1.0}]}
    part = [source(llama32.one, 0, 2)]
    assert planned(stacked(part, part, parameters=scale), tmp_path)
    with pytest.raises(UserError, match=r"the filter 'layers.2.mlp' matches no tensor"):
        planned(stacked(part, parameters=scale), tmp_path)


def test_a_source_speaks_before_its_slice_and_that_before_the_recipe(llama32: Trio, merge: Merge) -> None:
    recipe: dict[str, Any] = stacked(
        [source(llama32.one, 0, 1)], [source(llama32.one, 0, 1)], [source(llama32.one, 0, 1, scale=4.0)]
    )
    recipe["slices"][1]["parameters"] = recipe["slices"][2]["parameters"] = {"scale": 3.0}
    made = read_folder(merge({**recipe, "parameters": {"scale": 2.0}}))
    one = layer(read_folder(llama32.one), 0)
    for number, scale in enumerate((2.0, 3.0, 4.0)):
        for name, tensor in layer(made, number).items():
            np.testing.assert_array_equal(tensor.bits, encode(scale * one[name].float64, "F32").bits)


def test_scaled_layers_are_rounded_once(llama: Trio, merge: Merge) -> None:
    made = read_folder(merge(stacked([source(llama.one, 0, 4)], parameters={"scale": 1 / 3})))
    for name, tensor in read_folder(llama.one).items():
        third = (tensor.float64.astype(np.float32) * np.float32(1 / 3)).astype(np.float64)
        np.testing.assert_array_equal(made[name].bits, encode(third, "BF16").bits)


def test_random_masks_go_by_the_outputs_names(llama: Trio, merge: Merge) -> None:
    """The same layer twice in a stack is dropped out differently; the same output is drawn alike whatever it stems from."""
    dare = {"weight": 1.0, "density": 0.5}
    part = [source(llama.two, 1, 2, **dare)]
    made = read_folder(merge(stacked(part, part, method="dare_linear", base_model=llama.base), seed=5))
    assert not same(layer(made, 0), layer(made, 1))
    whole = {"merge_method": "dare_linear", "base_model": llama.base, "models": [{"model": llama.two, "parameters": dare}]}
    plain = read_folder(merge(whole, "plain", seed=5))
    assert same(layer(made, 1), layer(plain, 1))


def test_the_report_tells_who_gave_which_layer(llama: Trio, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", stacked([source(llama.base, 0, 3)], [source(llama.one, 3, 4)]))
    report = merge_models(path, tmp_path / "out")
    base, one = report.parents
    assert (base.quantity, one.quantity) == ("share", "share")
    assert base.layers == {"0": 1.0, "1": 1.0, "2": 1.0, "3": 0.0, "outside layers": pytest.approx(0.495, abs=0.01)}
    assert one.layers["3"] == 1.0
    assert base.overall is not None and one.overall is not None and base.overall + one.overall == pytest.approx(1)
    manifest = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())
    assert [parent["name"] for parent in manifest["parents"]] == ["base", "one"]


def test_a_weight_is_averaged_over_the_layers_a_model_is_not_in(llama: Trio, tmp_path: Path) -> None:
    recipe = stacked([source(llama.base, 0, 2, weight=1.0)], [source(llama.one, 2, 4, weight=1.0)], method="linear")
    report = merge_models(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
    assert report.parents[0].layers["1"] == 1.0 and report.parents[0].layers["2"] == 0.0
    assert sum(parent.overall or 0 for parent in report.parents) == pytest.approx(1)


def test_dry_run_counts_what_a_stack_reads_and_writes(llama: Trio, command: Callable[..., Any], tmp_path: Path) -> None:
    recipe = stacked([source(llama.base, 0, 3)], [source(llama.one, 1, 4)])
    done = command(recipe, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tensors"] == 6 * 9 + 3
    assert told["tensors_by_parent"] == {"base": 3 * 9 + 1, "one": 3 * 9 + 2}
    assert not (tmp_path / "out").exists()
    merged = command(recipe)
    assert merged.returncode == 0, merged.stderr
    made = read_folder(tmp_path / "out")
    assert told["read_bytes"] == told["write_bytes"] == sum(tensor.bits.nbytes for tensor in made.values())


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_bytes_with_any_number_of_threads(llama: Trio, merge: Merge, threads: int) -> None:
    sources = [source(llama.one, 0, 3, density=0.5), source(llama.two, 1, 4, density=0.5), source(llama.base, 1, 4)]
    recipe = stacked(sources, sources, method="dare_ties", base_model=llama.base, parameters={"weight": 0.5})
    assert same(read_folder(merge(recipe, "many", threads=threads)), read_folder(merge(recipe, "one", threads=1)))


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 20, 50])
def test_a_stack_that_was_stopped_goes_on_to_the_same_bytes(llama: Trio, tmp_path: Path, after: int) -> None:
    path = write_recipe(tmp_path / "r.yml", stacked([source(llama.base, 0, 3)], [source(llama.one, 1, 4)]))
    merge_models(path, tmp_path / "whole")
    count = 0

    def advance(nbytes: int) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Killed

    with pytest.raises(Killed):
        merge_models(path, tmp_path / "out", threads=1, watch=Watch(advance=advance))
    assert not (tmp_path / "out").exists()
    report = merge_models(path, tmp_path / "out", resume=True)
    assert 0 < report.resumed < 57
    assert same(read_folder(tmp_path / "out"), read_folder(tmp_path / "whole"))
    assert merge_models(path, tmp_path / "out", resume=True).already


# -------------------------------------------------------------- what cannot be stacked


def planned(recipe: Recipe, tmp_path: Path) -> Any:
    return prepare(write_recipe(tmp_path / "r.yml", recipe)).plan


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([(0, 2, 5)], r"layer_range: \[2, 5\] reaches beyond base, whose layers are \[0, 4\]; did you mean \[1, 4\]\?"),
        ([(0, 0, 2), (1, 1, 9)], r"slices\[1\].sources\[0\].layer_range: \[1, 9\] reaches beyond one.*mean \[0, 4\]"),
        ([(0, 4, 5)], r"did you mean \[3, 4\]"),
        ([(0, 0, 999_999_999_999)], "reaches beyond base"),
    ],
)
def test_layers_outside_the_model(
    llama: Trio, command: Callable[..., Any], tmp_path: Path, ranges: list[tuple[int, int, int]], words: str
) -> None:
    done = command(stacked(*([source(llama.folders[which], *layers)] for which, *layers in ranges)))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(words, done.stderr), done.stderr
    assert not list(tmp_path.glob("out*")) or not (tmp_path / "out").exists()


def test_a_base_whose_layers_cannot_be_told(llama: Trio, tmp_path: Path) -> None:
    sources = [source(llama.one, 0, 2), source(llama.two, 2, 4)]
    recipe = stacked(sources, method="ties", base_model=llama.base, parameters={"weight": 1, "density": 1})
    with pytest.raises(UserError, match=r"slices\[0\].*other layers each.*list .*base as a source"):
        planned(recipe, tmp_path)


def test_a_base_with_fewer_layers(llama: Trio, tmp_path: Path) -> None:
    small = plain_trio(tmp_path / "small", layers=2)
    recipe = stacked([source(llama.one, 0, 3)], method="task_arithmetic", base_model=small.base, parameters={"weight": 1})
    with pytest.raises(UserError, match="has 2 layers, the slice goes to 3"):
        planned(recipe, tmp_path)


def test_layers_of_another_width(llama: Trio, tmp_path: Path) -> None:
    wide = plain_trio(tmp_path / "wide", hidden=64)
    with pytest.raises(UserError, match=r"layer 1 cannot stand among base's layers.*has the shape"):
        planned(stacked([source(llama.base, 0, 2)], [source(wide.one, 1, 3)]), tmp_path)


def test_layers_with_other_tensors(llama: Trio, tmp_path: Path) -> None:
    tensors = random_tensors(llama_shapes(), 3)
    tensors["model.layers.1.self_attn.q_norm.weight"] = encode(np.ones(16), "BF16")
    more = write_folder(tmp_path / "more", tensors)
    with pytest.raises(UserError, match=r"layer 1 cannot stand among base's layers: it has '.*q_norm"):
        planned(stacked([source(llama.base, 0, 2)], [source(more, 1, 3)]), tmp_path)
    less = write_folder(tmp_path / "less", {name: t for name, t in tensors.items() if "layers.2.mlp.up" not in name})
    with pytest.raises(UserError, match=r"layer 2 cannot stand .* it lacks 'model.layers.\*.mlp.up_proj.weight'"):
        planned(stacked([source(llama.base, 0, 2)], [source(less, 2, 4)]), tmp_path)


def test_a_head_for_another_vocabulary(llama: Trio, tmp_path: Path) -> None:
    other = plain_trio(tmp_path / "other", vocabulary=98)
    with pytest.raises(UserError, match=r"'lm_head.weight' has the shape \[98, 32\].*base.*\[96, 32\]"):
        planned(stacked([source(llama.base, 0, 2)], [source(other.one, 2, 4)]), tmp_path)


def test_a_slice_needs_as_many_models_as_its_method(llama: Trio, tmp_path: Path) -> None:
    pair, alone = [source(llama.base, 0, 2), source(llama.one, 0, 2)], [source(llama.base, 2, 4)]
    recipe = stacked(pair, alone, method="slerp", base_model=llama.base, parameters={"t": 0.5})
    with pytest.raises(UserError, match=r"slices\[1\]: slerp merges 1 model beside the base; the slice names 0"):
        planned(recipe, tmp_path)
    with pytest.raises(UserError, match="passthrough merges 1 model; the slice names 2"):
        planned(stacked(alone, pair), tmp_path)


def test_tied_models_of_two_embeddings(tmp_path: Path) -> None:
    """The result has one matrix for both ends, the first model's; or, on request, the last model's head beside it."""
    shapes = {name: shape for name, shape in llama_shapes().items() if name != "lm_head.weight"}
    folders = [write_folder(tmp_path / name, random_tensors(shapes, seed)) for seed, name in enumerate(("a", "b"))]
    recipe = stacked([source(folders[0], 0, 2)], [source(folders[1], 2, 4)])
    path = write_recipe(tmp_path / "r.yml", recipe)
    report = merge_models(path, tmp_path / "out")
    assert any("tied to the embeddings of a" in text and "--allow tying" in text for text in report.warnings)
    assert "lm_head.weight" not in read_folder(tmp_path / "out")
    merge_models(path, tmp_path / "own", allow=["tying"])
    made, last = read_folder(tmp_path / "own"), read_folder(folders[1])
    np.testing.assert_array_equal(made["lm_head.weight"].bits, last["model.embed_tokens.weight"].bits)
    assert json.loads((tmp_path / "own" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_tower_beside_the_stack_is_left_alone(tmp_path: Path, merge: Merge) -> None:
    shapes = {f"language_model.{name}": shape for name, shape in llama_shapes(layers=3).items()}
    shapes |= {f"vision_tower.encoder.layers.{n}.fc.weight": (8, 8) for n in range(7)}
    tensors = random_tensors(shapes, 0)
    config = llama_config(random_tensors(llama_shapes(layers=3), 0))
    whole = {"model_type": "gemma3", "architectures": ["X"], "text_config": config, "vision_config": {"num_hidden_layers": 7}}
    folder = write_folder(tmp_path / "model", tensors, whole)
    out = merge(stacked([source(folder, 0, 3)], [source(folder, 1, 3)]))
    made = read_folder(out)
    assert {name for name in made if "vision" in name} == {name for name in tensors if "vision" in name}
    for number, old in enumerate((0, 1, 2, 1, 2)):
        name = "language_model.model.layers.{}.mlp.up_proj.weight"
        np.testing.assert_array_equal(made[name.format(number)].bits, tensors[name.format(old)].bits)
    written = json.loads((out / "config.json").read_text())
    assert (written["text_config"]["num_hidden_layers"], written["vision_config"]["num_hidden_layers"]) == (5, 7)


def test_statistics_of_the_base_do_not_fit_a_stack(llama: Trio, tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"")
    scaling = {"kind": "aim", "statistics": str(tmp_path / "s.safetensors")}
    part = [source(llama.one, 0, 2, weight=1)]
    recipe = stacked(part, part, method="task_arithmetic", base_model=llama.base, scaling=scaling)
    with pytest.raises(UserError, match=r"scaling.*stacked otherwise"):
        planned(recipe, tmp_path)
