"""Adapters merged with each other: the exact sum of their changes, and the best of a lower rank."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint.adapter import Adapter
from modist.errors import UserError
from modist.merge import merge as merge_models
from modist.merge.verify import verify
from tests.adapters import Lora, every, make_lora
from tests.tiny_models import Trio, read_folder, read_safetensors, write_recipe

Merge = Callable[..., Path]
MODULES = every("self_attn.q_proj") + every("mlp.down_proj")


@pytest.fixture(scope="module")
def pair(llama32: Trio, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lora, Lora]:
    folder = tmp_path_factory.mktemp("pair")
    return (
        make_lora(folder / "a", llama32.base, MODULES, seed=1, rank=4, embeddings=["model.embed_tokens"]),
        make_lora(folder / "b", llama32.base, [*MODULES[:6], "lm_head"], seed=2, rank=3, alpha=5, use_rslora=True),
    )


def recipe(*parts: tuple[Lora, float], method: str = "task_arithmetic", **more: Any) -> dict[str, Any]:
    models = [{"model": lora.folder, "parameters": {"weight": weight}} for lora, weight in parts]
    return {"merge_method": method, "models": models, **more}


def deltas(folder: Path) -> dict[str, np.ndarray]:
    """An adapter's changes by plain products, from its two files alone."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    found = {}
    for name in tensors:
        if ".lora_A" not in name and ".lora_embedding_A" not in name:
            continue
        a, b = tensors[name].float64, tensors[name.replace("_A", "_B")].float64
        module = name.split(".lora_")[0].removeprefix("base_model.model.")
        keys = {key.replace("\\", ""): alpha for key, alpha in config["alpha_pattern"].items()}
        scale = keys.get(module, config["lora_alpha"]) / len(a)
        found[f"{module}.weight"] = scale * ((b @ a).T if "embedding" in name else b @ a)
    return found


@pytest.mark.parametrize(
    ("method", "shared", "weights", "factor"),
    [
        ("task_arithmetic", {}, (0.7, -0.4), (0.7, -0.4)),
        ("task_arithmetic", {"lambda": 2.0}, (0.5, 0.25), (1.0, 0.5)),
        ("task_arithmetic", {"normalize": True}, (3.0, 1.0), (0.75, 0.25)),
        ("linear", {}, (3.0, 1.0), (0.75, 0.25)),
        ("linear", {"normalize": False}, (0.3, 0.2), (0.3, 0.2)),
        ("linear", {}, (1.0, 0.0), (1.0, 0.0)),
    ],
)
def test_the_sum_is_exact(
    pair: tuple[Lora, Lora], merge: Merge, method: str, shared: dict[str, Any], weights: tuple[float, float], factor: Any
) -> None:
    out = merge(recipe(*zip(pair, weights, strict=True), method=method, parameters=shared))
    found = deltas(out)
    wanted = {name for lora, f in zip(pair, factor, strict=True) if f for name in lora.deltas}
    assert found.keys() == wanted
    for name, delta in found.items():
        exact = sum(f * lora.deltas.get(name, 0.0) for lora, f in zip(pair, factor, strict=True))
        assert np.abs(delta - exact).max() <= 4e-7 * np.abs(exact).max(), name
    assert verify(out).passed


def test_ranks_add_up_and_modules_are_named_whole(pair: tuple[Lora, Lora], merge: Merge) -> None:
    out = merge(recipe((pair[0], 0.5), (pair[1], 0.5)))
    config = json.loads((out / "adapter_config.json").read_text())
    ranks = {name: len(t.bits) for name, t in read_safetensors(out / "adapter_model.safetensors").items() if "_A" in name}
    assert sorted(ranks.values()) == [3, 4, 4, 4] + [7] * 6
    assert (config["r"], config["lora_alpha"]) == (7, 7)
    assert config["rank_pattern"] == config["alpha_pattern"] and len(config["rank_pattern"]) == 4
    assert config["target_modules"] == sorted({*MODULES, "lm_head", "model.embed_tokens"})
    assert config["base_model_name_or_path"] == "base"
    assert {name: update.rank for name, update in Adapter.open(out).updates.items()} == {
        name.split(".lora_")[0].removeprefix("base_model.model."): rank for name, rank in ranks.items()
    }


def test_averaging_the_factors_is_something_else(pair: tuple[Lora, Lora], llama32: Trio, tmp_path: Path, merge: Merge) -> None:
    """Why ranks add up: two adapters of one rank, each factor averaged by itself."""
    other = make_lora(tmp_path / "other", llama32.base, MODULES, seed=9)
    found = deltas(merge(recipe((pair[0], 1.0), (other, 1.0), method="linear")))
    files = [read_safetensors(lora.folder / "adapter_model.safetensors") for lora in (pair[0], other)]
    name = f"base_model.model.{MODULES[0]}.lora_"
    a, b = (sum(file[f"{name}{side}.weight"].float64 for file in files) / 2 for side in "AB")
    exact = (pair[0].deltas[f"{MODULES[0]}.weight"] + other.deltas[f"{MODULES[0]}.weight"]) / 2
    np.testing.assert_allclose(found[f"{MODULES[0]}.weight"], exact, atol=1e-6)
    assert np.linalg.norm(2 * (b @ a) - exact) > 0.5 * np.linalg.norm(exact)


@pytest.mark.parametrize("rank", [1, 3, 5, 6])
def test_a_lower_rank_is_the_best_there_is(pair: tuple[Lora, Lora], tmp_path: Path, rank: int) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe((pair[0], 0.7), (pair[1], 0.3), rank=rank))
    report = merge_models(path, tmp_path / "out")
    whole = gone = 0.0
    for name, delta in deltas(tmp_path / "out").items():
        exact = 0.7 * pair[0].deltas.get(name, 0.0) + 0.3 * pair[1].deltas.get(name, 0.0)
        sizes = np.linalg.svd(exact)[1]
        whole, gone = whole + np.sum(sizes**2), gone + np.sum(sizes[rank:] ** 2)
        assert np.linalg.norm(delta - exact) <= math.sqrt(np.sum(sizes[rank:] ** 2)) * (1 + 1e-6) + 1e-5, name
        assert np.linalg.matrix_rank(delta, tol=1e-4) <= rank
    assert report.lost == pytest.approx(math.sqrt(gone / whole), rel=1e-6)
    assert json.loads((tmp_path / "out" / "modist_manifest.json").read_text())["lost"] == report.lost


def test_a_rank_above_the_sum_changes_nothing(pair: tuple[Lora, Lora], tmp_path: Path) -> None:
    both = [(pair[0], 0.7), (pair[1], 0.3)]
    merge_models(write_recipe(tmp_path / "a.yml", recipe(*both)), tmp_path / "a")
    report = merge_models(write_recipe(tmp_path / "b.yml", recipe(*both, rank=7)), tmp_path / "b")
    assert report.lost == 0
    file = "adapter_model.safetensors"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_by_filter_and_depth(pair: tuple[Lora, Lora], merge: Merge) -> None:
    weight = [{"filter": "mlp", "value": [0.0, 3.0]}, {"value": 0.5}]
    found = deltas(
        merge({"merge_method": "task_arithmetic", "models": [{"model": pair[0].folder}], "parameters": {"weight": weight}})
    )
    for layer in range(4):
        if layer:
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            np.testing.assert_allclose(found[name], layer * pair[0].deltas[name], atol=1e-5)
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        np.testing.assert_allclose(found[name], 0.5 * pair[0].deltas[name], atol=1e-6)
    assert "model.layers.0.mlp.down_proj.weight" not in found


def test_on_its_base_it_is_the_merge_of_the_models(llama32: Trio, pair: tuple[Lora, Lora], merge: Merge) -> None:
    adapter = merge(recipe((pair[0], 0.7), (pair[1], 0.3)), "adapter")
    on_base = {"merge_method": "passthrough", "models": [{"model": f"{llama32.base}+{adapter}"}]}
    weights = zip(pair, (0.7, 0.3), strict=True)
    models = [{"model": f"{llama32.base}+{lora.folder}", "parameters": {"weight": weight}} for lora, weight in weights]
    both = {"merge_method": "task_arithmetic", "base_model": llama32.base, "models": models}
    one, two = read_folder(merge(on_base, "one")), read_folder(merge(both, "two"))
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor.float64, two[name].float64, atol=3e-6)


def test_the_dtype_is_float32_or_what_is_asked_for(pair: tuple[Lora, Lora], merge: Merge) -> None:
    for dtype, code in ((None, "F32"), ("bfloat16", "BF16"), ("float64", "F64")):
        out = merge(recipe((pair[0], 1.0), **({"dtype": dtype} if dtype else {})), f"out{code}")
        assert {tensor.dtype for tensor in read_safetensors(out / "adapter_model.safetensors").values()} == {code}


def test_card_manifest_and_resume(pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path) -> None:
    wanted = recipe((pair[0], 0.7), (pair[1], 0.3), rank=2)
    told = json.loads(command(wanted, "--dry-run", "--json").stdout)
    assert (told["modules"], told["ranks"], told["weights"]) == (10, [2, 2], {"a": 0.7, "b": 0.3})
    assert not (tmp_path / "out").exists()
    done = command(wanted, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(parent["name"], parent["overall"]) for parent in report["parents"]] == [("a", 0.7), ("b", 0.3)]
    out = tmp_path / "out"
    assert report["write_bytes"] == told["write_bytes"]
    card = (out / "README.md").read_text()
    assert "library_name: peft" in card and "base_model:\n- base" in card
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "modist_manifest.json", "modist_recipe.yml",
    ]  # fmt: skip
    assert json.loads(command(wanted, "--resume", "--json").stdout)["already"]
    assert "loses" in command(wanted).stdout


@pytest.mark.parametrize("break_", ["bytes", "config", "missing"])
def test_verify_sees_what_changed(pair: tuple[Lora, Lora], merge: Merge, break_: str) -> None:
    out = merge(recipe((pair[0], 1.0)))
    path = out / "adapter_model.safetensors"
    if break_ == "bytes":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif break_ == "config":
        (out / "adapter_config.json").write_text((out / "adapter_config.json").read_text().replace("4", "5", 1))
    else:
        path.unlink()
    assert not verify(out).passed


# -------------------------------------------------------------- what is no adapter


def refused(command: Callable[..., Any], tmp_path: Path, wanted: dict[str, Any], *words: str) -> None:
    done = command(wanted)
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*modist*"))


def test_methods_that_are_not_linear(pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path) -> None:
    wanted = recipe((pair[0], 1.0), (pair[1], 1.0), method="ties")
    refused(command, tmp_path, wanted, "out.yml:1: merge_method: ties is not linear", "BASE+ADAPTER")


def test_a_base_among_adapters(pair: tuple[Lora, Lora], llama32: Trio, command: Callable[..., Any], tmp_path: Path) -> None:
    refused(command, tmp_path, recipe((pair[0], 1.0), base_model=llama32.base), "this is an adapter", "BASE+a")


def test_adapters_of_two_bases(llama32: Trio, pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path) -> None:
    other = make_lora(tmp_path / "c", llama32.base, MODULES, base_model_name_or_path="org/else")
    refused(
        command, tmp_path, recipe((pair[0], 1.0), (other, 1.0)), "c: was trained on org/else, a on base: only adapters of one"
    )


def test_adapters_of_two_widths(llama32: Trio, pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path) -> None:
    from tests.tiny_models import plain_trio

    wide = plain_trio(tmp_path / "wide", hidden=64)
    other = make_lora(tmp_path / "c", wide.base, MODULES)
    refused(command, tmp_path, recipe((pair[0], 1.0), (other, 1.0)), "is 64 x 48, in the adapters before it 32 x 48")


def test_whole_tensors_cannot_be_merged_into_an_adapter(llama32: Trio, command: Callable[..., Any], tmp_path: Path) -> None:
    from tests.tiny_models import encode

    extra = {"base_model.model.model.norm.weight": encode(np.ones(32), "F32")}
    lora = make_lora(tmp_path / "c", llama32.base, MODULES, extra=extra, modules_to_save=["norm"])
    refused(command, tmp_path, recipe((lora, 1.0)), "replaces whole tensors ('model.norm.weight')", "BASE+ADAPTER")


@pytest.mark.parametrize("rank", [0, -1, 2.5, "four", True])
def test_ranks_that_are_none(pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path, rank: Any) -> None:
    refused(command, tmp_path, recipe((pair[0], 1.0), rank=rank), "rank")


def test_models_have_no_rank(llama32: Trio, command: Callable[..., Any], tmp_path: Path) -> None:
    wanted = {"merge_method": "linear", "rank": 4, "models": [{"model": llama32.one, "parameters": {"weight": 1}}]}
    refused(command, tmp_path, wanted, "rank: only adapters have a rank")


def test_weights_that_leave_nothing(pair: tuple[Lora, Lora], command: Callable[..., Any], tmp_path: Path) -> None:
    refused(command, tmp_path, recipe((pair[0], 0.0)), "every weight is 0")
    refused(command, tmp_path, recipe((pair[0], 1.0), (pair[1], -1.0), method="linear"), "sum to 0")
    refused(command, tmp_path, {"merge_method": "linear", "models": [{"model": pair[0].folder}]}, "'weight'", "missing")


def test_values_that_overflow(pair: tuple[Lora, Lora], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe((pair[0], 1e30), dtype="float16"))
    with pytest.raises(Exception, match="NaN or infinite values"):
        merge_models(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.yml"]


def test_misspelt_parameters_are_told(pair: tuple[Lora, Lora], tmp_path: Path) -> None:
    wanted = recipe((pair[0], 1.0), parameters={"normalise": True})
    with pytest.raises(UserError, match="no parameter 'normalise'; did you mean 'normalize'"):
        merge_models(write_recipe(tmp_path / "r.yml", wanted), tmp_path / "out")


def test_copies_of_the_bases_embeddings_go_along(llama32: Trio, merge: Merge, tmp_path: Path) -> None:
    """PEFT keeps an embedding beside its factors."""
    embedding = read_folder(llama32.base)["model.embed_tokens.weight"]
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    loras = [
        make_lora(
            tmp_path / f"e{seed}", llama32.base, [], embeddings=["model.embed_tokens"], seed=seed, extra={name: embedding}
        )
        for seed in (1, 2)
    ]
    out = merge(recipe((loras[0], 1.0), (loras[1], 2.0)))
    np.testing.assert_array_equal(read_safetensors(out / "adapter_model.safetensors")[name].bits, embedding.bits)
    on_base = read_folder(merge({"merge_method": "passthrough", "models": [{"model": f"{llama32.base}+{out}"}]}, "on base"))
    key = "model.embed_tokens.weight"
    exact = embedding.float64 + loras[0].deltas[key] + 2 * loras[1].deltas[key]
    np.testing.assert_allclose(on_base[key].float64, exact, atol=5e-6)
    other = read_folder(llama32.two)[key]
    odd = make_lora(tmp_path / "odd", llama32.base, [], embeddings=["model.embed_tokens"], extra={name: other})
    with pytest.raises(UserError, match=r"odd: keeps another 'model.embed_tokens.weight' of its base than e1"):
        merge(recipe((loras[0], 1.0), (odd, 1.0)), "odd out")
