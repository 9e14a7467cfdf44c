"""Every method against the float64 reference, over five families, in every dtype."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.merge import reference
from tests.merge.reference import CASES, OTHER_CASES, expected_tensors, measure
from tests.tiny_models import (
    FAMILIES,
    Tensor,
    Trio,
    add_tokenizer,
    encode,
    make_trio,
    plain_trio,
    read_folder,
    write_folder,
    write_recipe,
)

Merge = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


def check(
    out: Path,
    recipe: Mapping[str, Any],
    layers: int,
    masks: Callable[[str, int], np.ndarray] | None = None,
    nothing_near: bool = False,
) -> None:
    """An output folder holds what the reference says, tensor by tensor."""
    written = read_folder(out)
    elements = near = 0
    names = []
    for name, expected in expected_tensors(recipe, layers, masks):
        names.append(name)
        tensor = written[name]
        assert tensor.dtype == expected.dtype, name
        if expected.exact:
            right = encode(expected.value, expected.dtype)
            wrong = int((tensor.bits != right.bits).sum())
            assert not wrong, f"{name}: {wrong} of {right.bits.size} elements differ from the rule"
            continue
        errors = measure(tensor, expected)
        assert errors.units <= 1, f"{name}: {errors}"
        # Computed in fp32 and rounded once: hardly more than half a unit, never two roundings' worth.
        assert errors.rounding <= 0.51, f"{name}: {errors}"
        elements, near = elements + errors.count, near + errors.near
    assert sorted(written) == sorted(names)
    assert near <= (0 if nothing_near else elements / 1000), f"{near} of {elements} elements hang on rounding"


# Every case for the first family; for the others each method, in the form that asks most of it.
MAIN_CASES = (
    "linear-filter",
    "linear-gradient",
    "slerp-paper",
    "slerp-near",
    "task_arithmetic-normalize",
    "ties",
    "ties-gradient",
    "ties-slices",
    "dare_linear-dense",
    "dare_ties-dense",
    "mod",
    "mod-three",
    "mod-quantile-three",
)
FAMILY_CASES = [("llama", case) for case in CASES if case not in OTHER_CASES]
FAMILY_CASES += [(family, case) for family in FAMILIES[1:] for case in MAIN_CASES]


@pytest.mark.parametrize(("family", "case"), FAMILY_CASES)
def test_families(family: str, case: str, family_trio: Callable[..., Trio], merge: Merge) -> None:
    trio = family_trio(family)
    recipe = CASES[case](trio)
    check(merge(recipe), recipe, trio.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_loads_and_generates(family: str, tmp_path: Path, merge: Merge) -> None:
    """transformers finds config, tokenizer and every weight, tied heads included, in shards too."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trio = make_trio(tmp_path / "models", family, shard_size="100KB")
    add_tokenizer(trio.base, ["once", "upon", "a", "time"])
    out = merge(CASES["task_arithmetic"](trio), shard_bytes=120_000)
    assert len(list(out.glob("*.safetensors"))) > 2
    model, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert model.dtype == torch.bfloat16
    for name, tensor in read_folder(out).items():
        assert np.array_equal(model.state_dict()[name].float().numpy(), tensor.float64.astype(np.float32)), name
    tokenizer = AutoTokenizer.from_pretrained(out)
    given = tokenizer("once upon a time", return_tensors="pt")
    made = model.generate(**given, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert made.shape[1] == given["input_ids"].shape[1] + 3
    assert torch.isfinite(model(**given).logits).all()


DTYPE_CASES = (
    "linear-filter",
    "slerp-paper",
    "slerp-near",
    "task_arithmetic-gradient",
    "ties",
    "ties-cancel",
    "ties-slices",
    "ties-rescale",
    "dare_ties-dense",
    "mod-quantile-three",
    "mod-three",
)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", None])
@pytest.mark.parametrize("case", DTYPE_CASES)
def test_output_dtypes_of_fp32_inputs(case: str, dtype: str | None, llama32: Trio, merge: Merge) -> None:
    """`dtype` names the output only: fp32 inputs are not rounded to it first."""
    recipe = CASES[case](llama32) | ({"dtype": dtype} if dtype else {})
    check(merge(recipe), recipe, llama32.layers)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", DTYPE_CASES)
def test_output_dtypes_of_bf16_inputs(case: str, dtype: str, llama: Trio, merge: Merge) -> None:
    recipe = CASES[case](llama) | {
        "dtype": "float64" if case == "linear-filter" else dtype,
        "out_dtype": dtype,
    }
    check(merge(recipe), recipe, llama.layers)


def test_float16_inputs(tmp_path: Path, merge: Merge) -> None:
    trio = plain_trio(tmp_path / "f16", "F16")
    recipe = CASES["ties"](trio)
    check(merge(recipe), recipe, trio.layers)


def test_parents_of_several_dtypes(tmp_path: Path, merge: Merge) -> None:
    """The base's stored dtype names the output; the others are read as they are."""
    base = plain_trio(tmp_path / "a", "BF16")
    wide = plain_trio(tmp_path / "b", "F32")
    half = plain_trio(tmp_path / "c", "F16")
    for trio in (Trio(base.base, wide.one, half.two), Trio(wide.base, base.one, half.two)):
        for case in ("task_arithmetic", "linear", "slerp"):
            recipe = CASES[case](trio)
            check(merge(recipe, f"{case}-{trio.base.parent.name}"), recipe, trio.layers)


def test_sharded_inputs_and_outputs(family_trio: Callable[..., Trio], merge: Merge) -> None:
    trio = family_trio("llama", "F32", shard_size="200KB")
    assert len(list(trio.base.glob("*.safetensors"))) > 2
    recipe = CASES["ties"](trio)
    check(merge(recipe), recipe, trio.layers)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """float32 models whose embeddings take three of the engine's blocks."""
    folder = tmp_path_factory.mktemp("wide")
    return plain_trio(folder, "F32", seed=11, hidden=128, inner=200, layers=2, vocabulary=9000)


@pytest.mark.parametrize("memory", [1 << 30, 1 << 26], ids=["1GiB", "64MiB"])
@pytest.mark.parametrize("case", [*DTYPE_CASES, "ties-densities"])
def test_tensors_of_several_blocks(case: str, memory: int, wide: Trio, merge: Merge) -> None:
    recipe = CASES[case](wide)
    check(merge(recipe, memory=memory, threads=3), recipe, wide.layers)


def test_many_exact_ties_at_the_threshold(tmp_path: Path, merge: Merge) -> None:
    """Deltas of seven magnitudes: the reference's rule (lower flat index first) leaves nothing to chance."""
    generator = np.random.default_rng(3)
    # the second takes several blocks of the engine, so that the ties of one are counted before another's
    shapes = [(300, 301), (1700, 701)]
    names = {f"model.layers.{i}.mlp.up_proj.weight": shape for i, shape in enumerate(shapes)}
    base = {name: encode(generator.integers(-8, 8, shape) / 8, "BF16") for name, shape in names.items()}
    folders = [write_folder(tmp_path / "base", base)]
    for number in (1, 2):
        moved = {
            name: encode(tensor.float64 + generator.integers(-3, 4, tensor.bits.shape) / 16, "BF16")
            for name, tensor in base.items()
        }
        folders.append(write_folder(tmp_path / f"tune{number}", moved))
    trio = Trio(*folders, layers=2)
    for case in ("ties", "ties-negative", "ties-densities"):
        recipe = CASES[case](trio)
        tied = [expected.tied.mean() for _, expected in expected_tensors(recipe, 2)]
        assert min(tied) > 0.1
        check(merge(recipe, case), recipe, trio.layers, nothing_near=True)


def test_trim_of_tiny_and_of_zero_deltas(tmp_path: Path, merge: Merge) -> None:
    """At least one element stays, however small the tensor; an unchanged fine-tune changes nothing."""
    shapes = {f"model.layers.0.{name}": (size,) for name, size in (("a", 1), ("b", 2), ("c", 7), ("d", 100))}
    generator = np.random.default_rng(5)
    base = {name: encode(generator.standard_normal(shape), "F32") for name, shape in shapes.items()}
    one = {name: encode(tensor.float64 + generator.standard_normal(tensor.bits.shape), "F32") for name, tensor in base.items()}
    folders = [write_folder(tmp_path / name, what) for name, what in (("base", base), ("one", one), ("two", base))]
    recipe = {
        "merge_method": "ties",
        "base_model": folders[0],
        "models": [
            {"model": folders[1], "parameters": {"weight": 0.7, "density": 0.1}},
            {"model": folders[2], "parameters": {"weight": 0.3, "density": 0.5}},
        ],
        "parameters": {"normalize": False},
    }
    out = read_folder(merge(recipe))
    check(merge(recipe, "again"), recipe, 2)
    changed = {name: int((out[name].bits != base[name].bits).sum()) for name in base}
    assert changed == {name: max(1, size[0] // 10) for name, size in shapes.items()}


# -------------------------------------------------------------- dare


DARE = ("dare_linear", "dare_ties")


def dare(trio: Trio, method: str, weights: tuple[float, float], density: float = 0.3, **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": trio.base,
        "models": [
            {"model": folder, "parameters": {"weight": weight, "density": density}}
            for folder, weight in zip((trio.one, trio.two), weights, strict=True)
        ],
        "parameters": parameters,
    }


def masks_of(trio: Trio, merge: Merge, seed: int = 0) -> dict[tuple[str, int], np.ndarray]:
    """What was kept of each delta, seen from outside: at weight 1 and 0, one model's kept elements move."""
    base = read_folder(trio.base)
    masks = {}
    for place, weights in enumerate(((1.0, 0.0), (0.0, 1.0))):
        recipe = dare(trio, "dare_linear", weights, rescale=False)
        out = read_folder(merge(recipe, f"mask{place}-{seed}", seed=seed))
        for name in base:
            masks[name, place] = out[name].bits != base[name].bits
    return masks


def test_dare_keeps_a_random_share(wide: Trio, merge: Merge) -> None:
    masks = masks_of(wide, merge)
    for (name, place), mask in masks.items():
        spread = np.sqrt(0.3 * 0.7 / mask.size)
        assert abs(mask.mean() - 0.3) < 5 * spread, (name, place, mask.mean())
        other = masks[name, 1 - place]
        both = (mask & other).mean()
        assert abs(both - 0.09) < 5 * np.sqrt(0.09 * 0.91 / mask.size), f"{name}: the models' masks hang together"
    whole = np.concatenate([mask.ravel() for mask in masks.values()])
    assert abs(whole.mean() - 0.3) < 5 * np.sqrt(0.21 / whole.size)
    first, second = (masks[f"model.layers.{i}.mlp.up_proj.weight", 0] for i in (0, 1))
    assert (first != second).mean() > 0.3
    # neighbours are independent too, and no part of the stream comes twice (a block of the engine has 2^18)
    row = masks["model.embed_tokens.weight", 0].ravel() - whole.mean()
    assert row.size > 1 << 19
    for lag in [*range(1, 9), *(1 << power for power in range(4, 20))]:
        count = row.size - lag
        assert abs(np.dot(row[:count], row[lag:]) / count) < 5 * 0.21 / np.sqrt(count), f"repeats after {lag}"


@pytest.mark.parametrize("method", DARE)
@pytest.mark.parametrize(
    "parameters",
    [{}, {"rescale": False}, {"normalize": True, "lambda": 0.7}],
    ids=["plain", "no-rescale", "normalize"],
)
def test_dare_given_its_masks(method: str, parameters: dict[str, Any], wide: Trio, merge: Merge) -> None:
    masks = masks_of(wide, merge)
    recipe = dare(wide, method, (0.6, 0.37), **parameters)
    check(merge(recipe), recipe, wide.layers, masks=lambda name, place: masks[name, place])


def test_dare_keeps_the_norm(wide: Trio, merge: Merge) -> None:
    """With `rescale` the delta's L1 norm is the whole one's; without, about the density's share of it."""
    base, one = read_folder(wide.base), read_folder(wide.one)
    scaled = read_folder(merge(dare(wide, "dare_linear", (1.0, 0.0)), "scaled"))
    plain = read_folder(merge(dare(wide, "dare_linear", (1.0, 0.0), rescale=False), "plain"))
    for name, tensor in base.items():
        size = tensor.bits.size
        norm = {
            key: np.abs(x[name].float64 - tensor.float64).sum()
            for key, x in (("one", one), ("scaled", scaled), ("plain", plain))
        }
        assert norm["scaled"] == pytest.approx(norm["one"], rel=1e-4), name
        assert norm["plain"] / norm["one"] == pytest.approx(0.3, abs=5 * np.sqrt(0.3 / size)), name


@pytest.mark.parametrize("method", DARE)
def test_dare_same_seed_same_bytes(method: str, wide: Trio, command: Command, tmp_path: Path) -> None:
    """At 1, 2 and 7 threads and with little memory; another seed gives other bytes."""
    recipe = dare(wide, method, (0.6, 0.37))
    runs = {
        "1": ("--threads", "1"),
        "2": ("--threads", "2"),
        "7": ("--threads", "7"),
        "little": ("--threads", "3", "--memory", "64MiB"),
        "seed": ("--threads", "2", "--seed", "5"),
    }
    digests = {}
    for name, flags in runs.items():
        done = command(recipe, *flags, name=name)
        assert done.returncode == 0, done.stderr
        digests[name] = hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest()
    assert len({digests[name] for name in ("1", "2", "7", "little")}) == 1
    assert digests["seed"] != digests["1"]


def test_dare_ends(wide: Trio, merge: Merge) -> None:
    """Density 0 keeps the base, density 1 is task arithmetic."""
    out = read_folder(merge(dare(wide, "dare_linear", (0.6, 0.37), density=0.0), "none"))
    assert all((out[name].bits == tensor.bits).all() for name, tensor in read_folder(wide.base).items())
    recipe = dare(wide, "dare_linear", (0.6, 0.37), density=1.0)
    check(merge(recipe, "all"), recipe, wide.layers)


# -------------------------------------------------------------- mod


def test_reference_minmax_is_the_released_arithmetic() -> None:
    """The reference's emulation against torch's own bfloat16."""
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(2)
    for weight in (0.9, 0.7, 0.5, 0.3, 0.1):
        for shape in ((64, 33), (1, 5), (301,)):
            tensors = [generator.standard_normal(shape) * 10.0 ** generator.integers(-4, 3) for _ in range(2)]
            a, b = (torch.tensor(x).float().bfloat16() for x in tensors)
            u = (a - a.min()) / (a.max() - a.min())
            right = torch.where(u < weight, a, b)
            ours = reference.mod_minmax([x.astype(np.float32) for x in tensors], [weight, 1 - weight])
            assert torch.equal(torch.tensor(reference.to_bfloat16(ours)), right.float())


def fine_tunes() -> dict[str, list[Path]]:
    """Pairs of real fine-tunes: the project's own experts, and stories260K's where they lie at hand."""
    root = Path(__file__).parents[2]
    place = Path(os.environ.get("MODIST_TEST_MODELS", root.parent / "shared" / "models"))
    return {
        "experts": [root / "examples" / "experts" / name for name in ("general", "math")],
        "stories260K": [place / f"stories260K-ft-{name}" for name in ("gsm8k", "grimm")],
    }


@pytest.mark.parametrize("weight", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("pair", fine_tunes())
def test_mod_is_the_released_rule_on_real_fine_tunes(pair: str, weight: float, merge: Merge) -> None:
    """Configuration 1, bit for bit, by torch's own bfloat16 arithmetic."""
    torch = pytest.importorskip("torch")
    folders = fine_tunes()[pair]
    if not all((folder / "config.json").exists() for folder in folders):
        pytest.skip(f"{pair} is not here (MODIST_TEST_MODELS names the folder that holds stories260K's fine-tunes)")
    first, second = (
        {name: torch.tensor(t.float64).float().bfloat16() for name, t in read_folder(folder).items()} for folder in folders
    )
    recipe = {
        "base_model": folders[0],
        "experts": [{"source_model": folder} for folder in folders],
        "model_kwargs": {"device_map": "cuda", "low_cpu_mem_usage": True, "trust_remote_code": True},
        "weights": [weight, 1 - weight],
    }
    out = read_folder(merge(recipe))
    assert set(out) == set(first)
    changed = 0
    for name, a in first.items():
        right = a
        if "mlp" in name:
            u = (a - a.min()) / (a.max() - a.min())
            right = torch.where(u < weight, a, second[name])
            changed += int((right != a).sum())
        assert out[name].dtype == "BF16"
        assert np.array_equal(out[name].bits, right.view(torch.int16).numpy().view(np.uint16)), name
    assert changed


def test_mod_of_a_constant_tensor(tmp_path: Path, merge: Merge) -> None:
    """u is 0 there, so the first expert keeps it unless its weight is 0."""
    name = "model.layers.0.mlp.up_proj.weight"
    folders = [
        write_folder(tmp_path / f"c{i}", {name: encode(np.full((8, 8), value), "BF16")}) for i, value in enumerate((0.75, -2.0))
    ]
    for weight, value in ((0.1, 0.75), (0.0, -2.0)):
        recipe = {"experts": [{"source_model": f} for f in folders], "weights": [weight, 1 - weight]}
        out = read_folder(merge(recipe, f"w{weight}"))
        assert (out[name].float64 == value).all()


def test_mod_quantile_counts(tmp_path: Path, merge: Merge) -> None:
    """Each expert gives exactly its share, also where the first one's values repeat."""
    generator = np.random.default_rng(8)
    name, shape = "model.layers.0.mlp.up_proj.weight", (307, 211)
    values = [generator.integers(-4, 4, shape) / 4.0, np.full(shape, 16.0), np.full(shape, 32.0)]
    folders = [write_folder(tmp_path / f"q{i}", {name: encode(x, "BF16")}) for i, x in enumerate(values)]
    recipe = {
        "experts": [{"source_model": f} for f in folders],
        "weights": [0.61, 0.27, 0.12],
        "normalize": "quantile",
    }
    out = read_folder(merge(recipe))[name].float64
    size = values[0].size
    ends = [round(size * 0.61), round(size * 0.88), size]
    assert int((out == 16).sum()) == ends[1] - ends[0]
    assert int((out == 32).sum()) == ends[2] - ends[1]
    check(tmp_path / "out", recipe, 2)


BINS = 50


def histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, bins=edges)[0] / values.size


def test_mod_random_is_the_mixture_density(tmp_path: Path, merge: Merge) -> None:
    """N(0,1) and N(5,1) give the two-humped histogram of the paper's Figure 1b; choosing by rank does not."""
    generator = np.random.default_rng(21)
    name, weights = "model.layers.0.mlp.up_proj.weight", (0.7, 0.3)
    values = [centre + generator.standard_normal((1000, 1000)) for centre in (0, 5)]
    folders = [write_folder(tmp_path / f"n{i}", {name: encode(x, "F32")}) for i, x in enumerate(values)]
    common = {
        "experts": [{"source_model": f} for f in folders],
        "weights": list(weights),
        "out_dtype": "float32",
    }
    edges = np.linspace(-6, 11, BINS + 1)
    mixture = sum(w * histogram(x, edges) for w, x in zip(weights, values, strict=True))

    def distance(out: Path) -> float:
        return 0.5 * float(np.abs(histogram(read_folder(out)[name].float64, edges) - mixture).sum())

    drawn = merge(common | {"select": "random"}, "random")
    assert distance(drawn) < 0.01
    out = read_folder(drawn)[name].bits
    stored = [read_folder(folder)[name].bits for folder in folders]
    from_first = out == stored[0]
    assert (from_first | (out == stored[1])).all()
    assert abs(from_first.mean() - 0.7) < 5 * np.sqrt(0.21 / out.size)
    ranked = distance(merge(common | {"normalize": "quantile"}, "ranked"))
    assert ranked > 0.1


# -------------------------------------------------------------- the reference itself


def test_the_reference_can_tell_wrong_from_right() -> None:
    """One unit off is seen; so is rounding the inputs first, and a threshold one element off."""
    generator = np.random.default_rng(0)
    tensors = [generator.standard_normal(4096) for _ in range(2)]
    right = reference.linear(tensors, (0.6, 0.37))
    good = encode(right.value, "BF16")
    assert measure(good, right).units <= 0.5
    bits = good.bits.copy()
    bits[np.abs(right.value).argmax()] += 2
    assert measure(Tensor("BF16", bits), right).units > 1
    early = reference.linear([encode(x, "BF16").float64 for x in tensors], (0.6, 0.37))
    assert measure(encode(early.value, "BF16"), right).rounding > 0.6

    delta = generator.standard_normal(1000)
    kept = reference.trim(delta, 0.3).delta
    assert int((kept != 0).sum()) == 300
    assert np.abs(kept[kept != 0]).min() > np.abs(delta[kept == 0]).max()
    tied = reference.trim(np.array([1.0, -1, 1, 2, 0.5]), 0.4)
    assert tied.delta.tolist() == [1, 0, 0, 2, 0]
    assert tied.tied.tolist() == [True, True, True, False, False]
    assert not tied.near.any()
    close = reference.trim(np.array([1.0, 1 + 1e-8, 3, 0.5]), 0.5)
    assert close.near.tolist() == [True, True, False, False]


def test_the_reference_reads_settings() -> None:
    at = reference.setting
    assert [at([0, 1, 4], "x", t) for t in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 2.5, 4]
    filters = [{"filter": "mlp", "value": 1}, {"filter": "attn", "value": [2, 3]}]
    assert [at(filters, name, 0.5) for name in ("a.mlp.b", "attn", "norm")] == [1, 2.5, None]
    assert reference.depth_of("model.layers.3.mlp", 4) == 1 and reference.depth_of("model.norm", 4) == 0


def test_report_is_what_was_written(llama: Trio, command: Command, tmp_path: Path) -> None:
    """`--json` tells the share of elements from each parent, and it is the true one."""
    recipe = CASES["mod-quantile-three"](llama)
    done = command(recipe, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    out = {name: tensor.bits for name, tensor in read_folder(tmp_path / "out").items()}
    stored = [read_folder(folder) for folder in (llama.one, llama.two, llama.base)]
    size = sum(bits.size for bits in out.values())
    for parent, weight, tensors in zip(told["parents"], recipe["weights"], stored, strict=True):
        assert parent["quantity"] == "share"
        assert parent["overall"] == pytest.approx(weight, abs=0.01)
        # equal elements of two parents cannot be told apart afterwards: at least the share told must be there
        there = sum(int((out[name] == tensor.bits).sum()) for name, tensor in tensors.items())
        assert there >= round(parent["overall"] * size)
    assert sum(parent["overall"] for parent in told["parents"]) == pytest.approx(1)
    assert told["seconds"]["engine"] > 0 and told["peak_memory_bytes"] > 1 << 20


def test_the_reference_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-40, -2.5])
    assert encode(values, "BF16").float64.tolist() == [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5]
    tiny = encode(np.array([3e-40]), "BF16")
    assert tiny.float64[0] == pytest.approx(3e-40, abs=2.0**-134)


def test_the_python_call(llama: Trio, tmp_path: Path) -> None:
    """It gives the report the command prints."""
    from modist.merge import merge as merge_models

    recipe = write_recipe(tmp_path / "recipe.yml", CASES["linear"](llama))
    report = merge_models(recipe, tmp_path / "out")
    assert report.method == "linear" and report.seed == 0
    assert [parent.name for parent in report.parents] == ["one", "two"]
    check(tmp_path / "out", CASES["linear"](llama), llama.layers)
