"""The methods beyond averages and TIES: against the float64 reference, at their limits, and with three models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import MergeError, RecipeError, UserError
from modist.merge import merge as merge_models
from modist.merge.methods.sparsifiers import keep_by_rank
from modist.merge.source import InMemory
from modist.merge.tensor import Block, Tensor
from tests.merge import reference_others
from tests.merge.reference import OTHER_CASES
from tests.merge.test_parity_reference import check
from tests.tiny_models import FAMILIES, Trio, encode, plain_trio, read_folder, tuned, write_folder, write_recipe

Merge = Callable[..., Path]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """float32 models whose embeddings take three of the engine's blocks."""
    return plain_trio(tmp_path_factory.mktemp("wide"), "F32", seed=11, hidden=128, inner=200, layers=2, vocabulary=9000)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trio, Path]:
    """bfloat16 models: a base and two fine-tunes, and a third fine-tune."""
    folder = tmp_path_factory.mktemp("four")
    trio = plain_trio(folder, seed=5)
    return trio, write_folder(folder / "three", tuned(read_folder(trio.base), 77, 0.05))


def recipe_of(method: str, base: Path | None, models: list[Path], each: Any = (), **shared: Any) -> dict[str, Any]:
    entries = [{"model": str(model), **({"parameters": dict(each)} if each else {})} for model in models]
    head: dict[str, Any] = {"merge_method": method, **({"base_model": str(base)} if base else {})}
    return head | {"models": entries, **({"parameters": shared} if shared else {})}


@pytest.mark.parametrize("case", OTHER_CASES)
def test_against_the_reference(case: str, llama: Trio, merge: Merge) -> None:
    recipe = OTHER_CASES[case](llama)
    check(merge(recipe), recipe, llama.layers)


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize("case", OTHER_CASES)
def test_families(family: str, case: str, family_trio: Callable[..., Trio], merge: Merge) -> None:
    trio = family_trio(family)
    recipe = OTHER_CASES[case](trio)
    check(merge(recipe), recipe, trio.layers)


WIDE = ("breadcrumbs", "sce-half", "model_stock-rows", "nuslerp-rows", "nuslerp-columns", "karcher", "arcee_fusion",
        "ramplus_tl", "widen", "localize-densities")  # fmt: skip


@pytest.mark.parametrize("case", WIDE)
def test_tensors_of_several_blocks(case: str, wide: Trio, merge: Merge) -> None:
    """float32 in and out, where an error of the arithmetic cannot hide in the rounding; with little memory."""
    recipe = OTHER_CASES[case](wide)
    check(merge(recipe, memory=64 << 20, threads=3), recipe, wide.layers)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", ["breadcrumbs_ties", "sce-half", "nuslerp-base", "multislerp-base", "arcee_fusion", "widen"])
def test_output_dtypes(case: str, dtype: str, llama: Trio, merge: Merge) -> None:
    recipe = OTHER_CASES[case](llama) | {"dtype": dtype}
    check(merge(recipe), recipe, llama.layers)


THREE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "breadcrumbs_ties": ({"density": 0.7, "gamma": 0.05}, {"normalize": True}),
    "sce": ({}, {"select_topk": 0.3}),
    "model_stock": ({}, {}),
    "model_stock rows": ({}, {"filter_wise": True}),
    "multislerp": ({"weight": [0.2, 0.9]}, {}),
    "ram": ({}, {"epsilon": 0.04}),
    "ramplus_tl": ({}, {"epsilon": 0.04, "alpha": 2.0}),
    "widen": ({}, {}),
    "localize_and_stitch": ({"density": 0.4}, {"lambda": 0.7}),
}


@pytest.mark.parametrize("method", THREE)
def test_three_models(method: str, four: tuple[Trio, Path], merge: Merge) -> None:
    trio, third = four
    each, shared = THREE[method]
    recipe = recipe_of(method.split()[0], trio.base, [trio.one, trio.two, third], each, **shared)
    if method == "breadcrumbs_ties":
        # Equal weights make sums that are zero but for rounding, on bfloat16's coarse grid.
        for entry, weight in zip(recipe["models"], (0.6, 0.37, 0.51), strict=True):
            entry["parameters"]["weight"] = weight
    check(merge(recipe), recipe, trio.layers)


def test_karcher_of_four(four: tuple[Trio, Path], merge: Merge) -> None:
    trio, third = four
    recipe = recipe_of("karcher", None, [trio.base, trio.one, trio.two, third], max_iter=50, tol=1e-9)
    check(merge(recipe), recipe, trio.layers)


@pytest.mark.parametrize("steps", [0, 1, 2, 10])
def test_karcher_step_by_step(steps: int) -> None:
    """From dot products alone, of vectors so far apart that every step counts."""
    from modist.merge.methods.sphere import karcher

    vectors = [np.array(x, float) for x in ([1, 0.1, 0, 0], [0.9, -0.2, 0.1, 0], [-0.5, 2, 0.3, 0], [0, 0.2, -0.4, 1.5])]
    settings = {"max_iter": steps, "tol": 1e-9}
    given = reference_others.Given("x", None, vectors, lambda name, default: [], lambda name, default: settings[name])
    found = karcher(np.array([[a @ b for b in vectors] for a in vectors]), steps, 1e-9) @ np.array(vectors)
    assert np.allclose(found, reference_others.karcher(given).value, rtol=0, atol=1e-12)


# -------------------------------------------------------------- limits

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "breadcrumbs": ({"weight": 0.5}, {}),
    "della_linear": ({"weight": 0.5}, {}),
    "sce": ({}, {"select_topk": 1.0}),
    "nuslerp": ({"weight": 0.5}, {}),
    "multislerp": ({"weight": 0.5}, {}),
    "karcher": ({}, {}),
    "model_stock": ({}, {}),
    "ram": ({}, {"epsilon": 0.0}),
    "widen": ({}, {"score_calibration_value": 0.5}),
    "localize_and_stitch": ({"density": 1.0}, {}),
}


def same_values(out: Path, wanted: Path, slack: float = 1e-6) -> None:
    right = read_folder(wanted)
    for name, tensor in read_folder(out).items():
        assert np.abs(tensor.float64 - right[name].float64).max() <= slack * max(1, np.abs(right[name].float64).max()), name


@pytest.mark.parametrize("method", PAIRS)
def test_equal_models_give_that_model(method: str, llama32: Trio, tmp_path: Path, merge: Merge) -> None:
    """Two copies of one fine-tune, at weights that sum to 1."""
    twin = write_folder(tmp_path / "twin", read_folder(llama32.two))
    each, shared = PAIRS[method]
    base = None if method == "karcher" else llama32.base
    same_values(merge(recipe_of(method, base, [llama32.two, twin], each, **shared)), llama32.two)


@pytest.mark.parametrize("method", PAIRS)
def test_models_equal_to_the_base_give_the_base(method: str, llama32: Trio, tmp_path: Path, merge: Merge) -> None:
    copies = [write_folder(tmp_path / f"copy{k}", read_folder(llama32.base)) for k in (1, 2)]
    each, shared = PAIRS[method]
    base = None if method == "karcher" else llama32.base
    same_values(merge(recipe_of(method, base, copies, each, **shared)), llama32.base)


ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "breadcrumbs_ties": ({"weight": 1.0}, {}),
    "della": ({"weight": 1.0}, {}),
    "sce": ({}, {}),
    "multislerp": ({"weight": 0.3}, {}),
    "karcher": ({}, {}),
    "ram": ({}, {"epsilon": 0.0}),
    "widen": ({}, {}),
    "localize_and_stitch": ({"density": 1.0}, {}),
    "nearswap": ({}, {"t": 100.0}),
    "passthrough": ({}, {}),
}


@pytest.mark.parametrize("method", ALONE)
def test_one_model_is_given_back(method: str, llama32: Trio, merge: Merge) -> None:
    each, shared = ALONE[method]
    base = None if method in reference_others.WITHOUT_BASE else llama32.base
    same_values(merge(recipe_of(method, base, [llama32.two], each, **shared)), llama32.two)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "localize_and_stitch"])
def test_weight_zero_and_density_zero_leave_the_base(method: str, llama: Trio, merge: Merge) -> None:
    base = {name: tensor.bits for name, tensor in read_folder(llama.base).items()}
    for each in ({"weight": 0.0, "density": 0.5}, {"weight": 0.7, "density": 0.0}):
        out = read_folder(merge(recipe_of(method, llama.base, [llama.one, llama.two], each)))
        assert all((out[name].bits == bits).all() for name, bits in base.items()), each


def test_one_model_varies_nowhere(llama: Trio, merge: Merge) -> None:
    """SCE selects by the variance between models: of one there is none, so nothing of it is taken below tau 1."""
    out = read_folder(merge(recipe_of("sce", llama.base, [llama.one], select_topk=0.9)))
    assert all((out[name].bits == tensor.bits).all() for name, tensor in read_folder(llama.base).items())


def test_breadcrumbs_of_tiny_tensors_keep_what_they_must(tmp_path: Path, merge: Merge) -> None:
    """int(gamma n) = 0 drops no outlier, and int(density n) = 0 keeps nothing; never all, never the wrong end."""
    shapes = {f"model.layers.0.{name}": (size,) for name, size in (("a", 1), ("b", 3), ("c", 50), ("d", 400))}
    generator = np.random.default_rng(5)
    base = {name: encode(generator.standard_normal(shape), "F32") for name, shape in shapes.items()}
    one = {name: encode(t.float64 + generator.standard_normal(t.bits.shape), "F32") for name, t in base.items()}
    folders = [write_folder(tmp_path / name, what) for name, what in (("base", base), ("one", one))]
    recipe = recipe_of("breadcrumbs", folders[0], [folders[1]], {"weight": 0.7, "density": 0.6, "gamma": 0.01})
    out = read_folder(merge(recipe))
    check(merge(recipe, "again"), recipe, 2)
    changed = {name: int((out[name].bits != base[name].bits).sum()) for name in base}
    assert changed == {name: int(0.6 * size[0]) for name, size in shapes.items()}
    largest = {name: np.abs(one[name].float64 - base[name].float64).argmax() for name in base}
    kept = {name: out[name].bits[place] != base[name].bits[place] for name, place in largest.items()}
    assert list(kept.values()) == [False, True, True, False]  # int(0.01 n) is 0 below 100 elements


def test_multislerp_refuses_directions_that_cancel(llama32: Trio, tmp_path: Path) -> None:
    """Three directions whose weighted sum is zero have no mean; two fall back to the line between them."""
    base = read_folder(llama32.base)
    zero = write_folder(tmp_path / "zero", {n: encode(0 * t.float64, "F32") for n, t in base.items()})
    minus = write_folder(tmp_path / "minus", {n: encode(-t.float64, "F32") for n, t in base.items()})
    pair = recipe_of("multislerp", None, [llama32.base, minus], {"weight": 0.5})
    merge_models(write_recipe(tmp_path / "pair.yml", pair), tmp_path / "pair")
    assert all((tensor.float64 == 0).all() for tensor in read_folder(tmp_path / "pair").values())
    three = recipe_of("multislerp", None, [llama32.base, minus, zero], {"weight": 0.5})
    with pytest.raises(MergeError, match=r"multislerp: the weighted directions of tensor .* cancel"):
        merge_models(write_recipe(tmp_path / "three.yml", three), tmp_path / "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (("della", {"weight": 1, "density": 0.9}, {}, 2), r"density 0.9 and epsilon 0.15: .* from 0.75 to 1.05"),
        (("della_linear", {"weight": 1, "density": 0.15}, {}, 2), r"epsilon must be below 0.15"),
        (("breadcrumbs", {"weight": 1, "gama": 0.1}, {}, 2), r"no parameter 'gama'; did you mean 'gamma'"),
        (("breadcrumbs", {"weight": 1, "gamma": 1.2}, {}, 2), r"1.2 is outside \[0, 1\]"),
        (("model_stock", {}, {}, 1), r"model_stock merges at least 2 models beside the base; the recipe names 1"),
        (("nearswap", {}, {"t": 0.1}, 2), r"nearswap merges 1 model beside the base; the recipe names 2"),
        (("nearswap", {}, {}, 1), r"the parameter 't' .* is missing"),
        (("nearswap", {}, {"t": -1}, 1), r"-1 is outside \[0, ∞\]"),
        (("sce", {}, {"select": "delta"}, 2), r"'delta' is none of deltas, weights; did you mean 'deltas'"),
        (("multislerp", {"weight": 0}, {}, 2), r"the weights sum to 0"),
        (("nuslerp", {"weight": 1}, {}, 1), r"nuslerp merges 2 models beside the base; the recipe names 1"),
    ],
)
def test_what_cannot_be_merged_is_refused(recipe: Any, words: str, llama: Trio, tmp_path: Path) -> None:
    method, each, shared, count = recipe
    path = write_recipe(tmp_path / "r.yml", recipe_of(method, llama.base, [llama.one, llama.two][:count], each, **shared))
    with pytest.raises((RecipeError, UserError), match=words):
        merge_models(path, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


# -------------------------------------------------------------- della

DELLA = ("della", "della_linear")


def della(trio: Trio, method: str, weights: tuple[float, float], **parameters: Any) -> dict[str, Any]:
    recipe = recipe_of(method, trio.base, [trio.one, trio.two], **parameters)
    for entry, weight in zip(recipe["models"], weights, strict=True):
        entry["parameters"] = {"weight": weight, "density": 0.4, "epsilon": 0.3}
    return recipe


def masks_of(trio: Trio, merge: Merge) -> dict[tuple[str, int], np.ndarray]:
    """What was kept of each delta, seen from outside: at weight 1 and 0, one model's kept elements move."""
    base, masks = read_folder(trio.base), {}
    for place, weights in enumerate(((1.0, 0.0), (0.0, 1.0))):
        out = read_folder(merge(della(trio, "della_linear", weights, rescale=False), f"mask{place}"))
        masks |= {(name, place): out[name].bits != base[name].bits for name in base}
    return masks


def test_della_keeps_by_rank_within_rows(wide: Trio, merge: Merge) -> None:
    """The kept share is the density, and rises along each row's ranks from density - epsilon to density + epsilon."""
    masks = masks_of(wide, merge)
    base, tunes = read_folder(wide.base), [read_folder(folder) for folder in (wide.one, wide.two)]
    for (name, place), mask in masks.items():
        assert abs(mask.mean() - 0.4) < 5 * np.sqrt(0.24 / mask.size), (name, place, mask.mean())
        both = (mask & masks[name, 1 - place]).mean()
        assert abs(both - 0.16) < 5 * np.sqrt(0.16 / mask.size) + 0.03, f"{name}: the models' masks hang together"
    name = "model.embed_tokens.weight"
    size = np.abs(tunes[0][name].float64 - base[name].float64)
    ranks = np.argsort(np.argsort(size, axis=1), axis=1)
    by_rank = np.array([masks[name, 0][ranks == rank].mean() for rank in range(size.shape[1])])
    wanted = np.linspace(0.1, 0.7, size.shape[1])
    assert np.abs(by_rank - wanted).max() < 5 * np.sqrt(0.25 / size.shape[0])
    # rows are drawn apart, and a vector is one row
    assert abs(np.corrcoef(masks[name, 0][0::2].ravel(), masks[name, 0][1::2].ravel())[0, 1]) < 0.15
    assert masks["model.norm.weight", 0].any() and not masks["model.norm.weight", 0].all()


@pytest.mark.parametrize("rows", [1, 64])
def test_della_is_a_draw_against_the_rank(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over evenly spread draws an element stays exactly d - e + 2 e rank / (n - 1) of the time; equals by their lowest rank."""
    delta = np.array([3, -1, 0, 9, 1, -3, 2, -9, 9], np.float32)
    n = len(delta)
    rank = np.array([(np.abs(delta) < size).sum() for size in np.abs(delta)])
    drawn = 32 * (n - 1)
    every = ((np.arange(drawn) + 0.5) / drawn * 2**32).astype(np.uint32)
    # Each row has its own order and size of the elements, so that its rivals cannot be another's.
    turns = np.arange(rows * drawn) % rows
    places = (np.arange(n) + turns[:, None]) % n
    values = delta[places] * (turns[:, None] + 1).astype(np.float32)
    each = {"density": 0.5, "epsilon": 0.25}
    tensor = Tensor("t", values.shape, [InMemory(np.zeros_like(values)), InMemory(values)], 0, {}, [{}, each], row=n)
    monkeypatch.setattr(Block, "draws", lambda self, stream: np.repeat(np.repeat(every, rows), n))
    kept = keep_by_rank(tensor, 1)(tensor.block(0), values.reshape(-1)).reshape(values.shape)
    for turn in range(rows):
        share = kept[turns == turn].mean(axis=0)
        np.testing.assert_array_equal(share, (0.25 + 0.5 * rank / (n - 1))[places[turn]])


@pytest.mark.parametrize("method", DELLA)
@pytest.mark.parametrize("parameters", [{}, {"rescale": False}, {"normalize": False, "lambda": 0.7}], ids=lambda p: "-".join(p))
def test_della_given_its_masks(method: str, parameters: dict[str, Any], wide: Trio, merge: Merge) -> None:
    masks = masks_of(wide, merge)
    recipe = della(wide, method, (0.6, 0.37), **parameters)
    check(merge(recipe), recipe, wide.layers, masks=lambda name, place: masks[name, place])


def test_della_keeps_the_norm(wide: Trio, merge: Merge) -> None:
    base, one = read_folder(wide.base), read_folder(wide.one)
    scaled = read_folder(merge(della(wide, "della_linear", (1.0, 0.0)), "scaled"))
    plain = read_folder(merge(della(wide, "della_linear", (1.0, 0.0), rescale=False), "plain"))
    for name, tensor in base.items():
        whole, kept, left = (np.abs(x[name].float64 - tensor.float64).sum() for x in (one, scaled, plain))
        assert kept == pytest.approx(whole, rel=1e-4), name
        # sum of p_r |d_r| / sum |d_r|: more than the density, for large elements stay more often
        size = np.abs(one[name].float64 - tensor.float64).reshape(-1, tensor.bits.shape[-1])
        chance = np.argsort(np.argsort(size, axis=1), axis=1) / max(1, size.shape[1] - 1) * 0.6 + 0.1
        mean, spread = (chance * size).sum() / whole, np.sqrt((chance * (1 - chance) * size**2).sum()) / whole
        assert abs(left / whole - mean) < 5 * spread, name


@pytest.mark.parametrize("method", DELLA)
def test_della_same_seed_same_bytes(method: str, wide: Trio, tmp_path: Path, merge: Merge) -> None:
    recipe = della(wide, method, (0.6, 0.37))
    runs = {
        "1": {"threads": 1},
        "2": {"threads": 2},
        "7": {"threads": 7},
        "little": {"threads": 3, "memory": 64 << 20},
        "seed": {"threads": 2, "seed": 5},
    }
    made = {name: merge(recipe, name, **options) / "model.safetensors" for name, options in runs.items()}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in made.items()}
    assert len({digests[name] for name in ("1", "2", "7", "little")}) == 1
    assert digests["seed"] != digests["1"]


def test_a_row_of_one_element_keeps_its_density(tmp_path: Path, merge: Merge) -> None:
    """Its rank says nothing, so it stays with the density itself."""
    name, rows = "model.layers.0.mlp.up_proj.weight", 20_000
    base = write_folder(tmp_path / "base", {name: encode(np.zeros((rows, 1)), "F32")})
    one = write_folder(tmp_path / "one", {name: encode(np.ones((rows, 1)), "F32")})
    recipe = recipe_of("della_linear", base, [one], {"weight": 1, "density": 0.3, "epsilon": 0.2}, rescale=False)
    out = read_folder(merge(recipe))[name].float64
    assert abs(out.mean() - 0.3) < 5 * np.sqrt(0.21 / rows)


# -------------------------------------------------------------- what each is known by


def test_arcee_fusion_takes_whole_elements(llama: Trio, merge: Merge, tmp_path: Path) -> None:
    recipe = OTHER_CASES["arcee_fusion"](llama)
    report = merge_models(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
    base, two = read_folder(llama.base), read_folder(llama.two)
    taken = size = 0
    for name, tensor in read_folder(tmp_path / "out").items():
        from_two = (tensor.bits == two[name].bits) & (tensor.bits != base[name].bits)
        assert (from_two | (tensor.bits == base[name].bits)).all(), name
        taken, size = taken + int(from_two.sum()), size + from_two.size
    shares = {parent.name: parent.overall for parent in report.parents}
    assert shares["two"] >= taken / size > 0.01 and shares["two"] + shares["base"] == pytest.approx(1)


def test_nearswap_is_a_step_of_t(llama32: Trio, merge: Merge) -> None:
    base, two = read_folder(llama32.base), read_folder(llama32.two)
    for name, tensor in read_folder(merge(recipe_of("nearswap", llama32.base, [llama32.two], t=0.1))).items():
        delta = two[name].float64 - base[name].float64
        assert np.allclose(tensor.float64, base[name].float64 + np.clip(delta, -0.1, 0.1), rtol=0, atol=1e-6), name


def test_model_stock_of_right_angles_stays_at_the_base(tmp_path: Path, merge: Merge) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    values = {"base": np.zeros((2, 2)), "one": [[1.0, 0], [1, 1]], "two": [[0, 1.0], [1, 1]]}
    folders = {key: write_folder(tmp_path / key, {name: encode(np.array(v, float), "F32")}) for key, v in values.items()}
    pair = [folders["one"], folders["two"]]
    out = read_folder(merge(recipe_of("model_stock", folders["base"], pair, filter_wise=True)))[name].float64
    assert np.allclose(out, [[0, 0], [1, 1]], atol=1e-7)
    whole = read_folder(merge(recipe_of("model_stock", folders["base"], pair), "whole"))[name].float64
    t = 2 * (2 / 3) / (1 + 2 / 3)
    assert np.allclose(whole, t * np.array([[0.5, 0.5], [1, 1]]), atol=1e-6)


def test_localize_ranks_the_whole_model(llama: Trio, merge: Merge) -> None:
    """int(k n) elements of the model move, far from k of every tensor where tensors moved by different amounts."""
    base = read_folder(llama.base)
    moved = {name: encode(t.float64 * (1.5 if "mlp" in name else 1.01), "BF16") for name, t in base.items()}
    one = write_folder(merge(recipe_of("passthrough", None, [llama.base]), "place").parent / "moved", moved)
    out = read_folder(merge(recipe_of("localize_and_stitch", llama.base, [one], {"density": 0.2})))
    changed = {name: int((out[name].bits != base[name].bits).sum()) for name in base}
    assert sum(changed.values()) == int(0.2 * sum(t.bits.size for t in base.values()))
    inside = sum(count for name, count in changed.items() if "mlp" in name)
    assert inside > 0.95 * sum(changed.values())


def test_sce_variants_differ_below_tau_1(llama: Trio, merge: Merge) -> None:
    pair = [llama.one, llama.two]
    made = {
        (tau, select): read_folder(merge(recipe_of("sce", llama.base, pair, select_topk=tau, select=select), f"{tau}{select}"))
        for tau in (1.0, 0.2)
        for select in ("deltas", "weights")
    }
    base = read_folder(llama.base)
    moved = {key: sum(int((t.bits != base[n].bits).sum()) for n, t in out.items()) for key, out in made.items()}
    assert all((made[1.0, "deltas"][n].bits == t.bits).all() for n, t in made[1.0, "weights"].items())
    assert moved[0.2, "deltas"] < 0.25 * moved[0.2, "weights"]


def test_passthrough_of_one_slice(llama: Trio, merge: Merge) -> None:
    recipe = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(llama.two), "layer_range": [0, llama.layers]}]}],
        "dtype": "bfloat16",
    }
    out = read_folder(merge(recipe))
    assert all((out[name].bits == tensor.bits).all() for name, tensor in read_folder(llama.two).items())


@pytest.mark.parametrize("method", ["arcee_fusion", "breadcrumbs", "sce", "widen", "localize_and_stitch", "model_stock"])
def test_a_nan_in_a_model_is_named(method: str, llama32: Trio, tmp_path: Path) -> None:
    """Also where its element, or its row, would not be taken."""
    tensors = dict(read_folder(llama32.two))
    name = "model.layers.1.mlp.up_proj.weight"
    values = tensors[name].float64.copy()
    values[3, 5] = np.nan
    broken = write_folder(tmp_path / "broken", tensors | {name: encode(values, "F32")})
    each = {"weight": 0.5, "density": 0.5} if method == "breadcrumbs" else {}
    models = [broken] if method == "arcee_fusion" else [llama32.one, broken]
    path = write_recipe(tmp_path / "r.yml", recipe_of(method, llama32.base, models, each))
    with pytest.raises(MergeError, match=rf"broken: tensor '{name}' holds NaN"):
        merge_models(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_widen_s_middle_column_is_not_above_the_mean(tmp_path: Path, merge: Merge) -> None:
    """Of an odd number of columns one has exactly the mean rank."""
    generator = np.random.default_rng(9)
    shapes = {"model.layers.0.mlp.up_proj.weight": (5, 7), "model.embed_tokens.weight": (9, 4)}
    base = {name: encode(generator.standard_normal(shape), "F32") for name, shape in shapes.items()}
    folders = [write_folder(tmp_path / "base", base)]
    folders += [write_folder(tmp_path / f"tune{seed}", tuned(base, seed, 0.1)) for seed in (1, 2)]
    recipe = recipe_of("widen", folders[0], folders[1:])
    check(merge(recipe), recipe, 2)


def test_localize_breaks_ties_by_tensor_and_place(tmp_path: Path, merge: Merge) -> None:
    """Deltas of seven magnitudes, in tensors of several blocks: who is kept of the equals hangs on the blocks' count."""
    generator = np.random.default_rng(3)
    names = {f"model.layers.{i}.mlp.up_proj.weight": shape for i, shape in enumerate([(1100, 701), (300, 301), (700, 701)])}
    base = {name: encode(generator.integers(-8, 8, shape) / 8, "BF16") for name, shape in names.items()}
    folders = [write_folder(tmp_path / "base", base)]
    for number in (1, 2):
        moved = {n: encode(t.float64 + generator.integers(-3, 4, t.bits.shape) / 16, "BF16") for n, t in base.items()}
        folders.append(write_folder(tmp_path / f"tune{number}", moved))
    recipe = recipe_of("localize_and_stitch", folders[0], folders[1:], {"density": 0.2})
    check(merge(recipe, threads=3), recipe, 3, nothing_near=True)


def test_sums_are_added_in_the_order_of_blocks() -> None:
    """Whichever block comes first: 1e16 + 1 - 1e16 is 0 in one order and 1 in another."""
    from modist.merge.tensor import _InOrder

    terms = [np.array([[[1e16]], [[1.0]]]), np.array([[[-1e16]]]), np.array([[[1.0]]])]
    totals = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        sums = _InOrder()
        for number in order:
            sums.add(number, terms[number])
        assert sums.total is not None
        totals.append(float(sums.total[0, 0]))
    assert totals == [1.0] * 4
