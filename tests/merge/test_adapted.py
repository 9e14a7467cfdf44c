"""`model+lora`: an adapter added as it is read, against its change in float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.checkpoint.adapter import Adapter, adapt
from modist.merge import merge as merge_models
from modist.merge import prepare
from modist.merge.engine import Engine
from modist.merge.source import Adapted, open_source
from modist.merge.verify import verify
from tests.adapters import PREFIX, Lora, every, make_lora
from tests.tiny_models import Trio, encode, llama_shapes, random_tensors, read_folder, spacing, write_folder, write_recipe

Merge = Callable[..., Path]
MODULES = every("self_attn.q_proj") + every("mlp.down_proj")


@pytest.fixture(scope="module")
def loras(llama32: Trio, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lora, Lora]:
    folder = tmp_path_factory.mktemp("loras")
    return (
        make_lora(folder / "a", llama32.base, MODULES, seed=1),
        make_lora(folder / "b", llama32.base, [*MODULES[:5], "lm_head"], seed=2, rank=3, alpha=5, use_rslora=True),
    )


def on(base: Path, lora: Lora) -> str:
    return f"{base}+{lora.folder}"


def alone(model: str, **more: Any) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": model}], **more}


def check(out: Path, base: Path, lora: Lora) -> None:
    """Every element within a few roundings to float32 of the float64 sum, and the rest untouched."""
    before, after = read_folder(base), read_folder(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name not in lora.deltas:
            np.testing.assert_array_equal(after[name].bits, tensor.bits)
            continue
        exact = tensor.float64 + lora.deltas[name]
        assert np.abs(after[name].float64 - exact).max() <= 8 * spacing(np.abs(exact).max(), "F32"), name
        assert np.abs(exact - tensor.float64).max() > 0.05


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank 1": {"rank": 1},
    "rslora": {"use_rslora": True, "rank": 9},
    "bfloat16": {"dtype": "BF16"},
    "an alpha that is no integer": {"alpha": 0.5},
    "ranks and alphas of their own": {
        "ranks": {MODULES[0]: 2, MODULES[7]: 6},
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "layers.3.mlp.down_proj": 6},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_added_where_it_changes_anything(llama32: Trio, merge: Merge, tmp_path: Path, kind: str) -> None:
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, **KINDS[kind])
    out = merge(alone(on(llama32.base, lora)))
    check(out, llama32.base, lora)
    assert verify(out).passed


def test_an_alpha_pattern_goes_by_the_end_of_the_name(llama32: Trio, merge: Merge, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, alpha_pattern={"q_proj": 16, r"layers\.[01]\.mlp\.down_proj": 2})
    factors = {name: 16 / 8 if "q_proj" in name else 2 / 8 if ".0." in name or ".1." in name else 1 for name in lora.deltas}
    deltas = {name: delta * factors[name] for name, delta in lora.deltas.items()}
    check(merge(alone(on(llama32.base, lora))), llama32.base, Lora(lora.folder, deltas))


def test_embeddings_and_the_head(llama32: Trio, merge: Merge, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", llama32.base, ["lm_head"], embeddings=["model.embed_tokens"], rank=5)
    check(merge(alone(on(llama32.base, lora))), llama32.base, lora)


def test_tensors_laid_out_the_other_way(llama32: Trio, merge: Merge, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, fan_in_fan_out=True)
    check(merge(alone(on(llama32.base, lora))), llama32.base, lora)


def test_whole_tensors_take_the_place_of_the_bases(llama32: Trio, merge: Merge, tmp_path: Path) -> None:
    norm = encode(np.arange(32.0), "F32")
    head = encode(np.random.default_rng(0).standard_normal((96, 32)), "F32")
    extra = {f"{PREFIX}model.norm.weight": norm, f"{PREFIX}lm_head.weight": head}
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, extra=extra, modules_to_save=["norm", "lm_head"])
    made = read_folder(merge(alone(on(llama32.base, lora))))
    np.testing.assert_array_equal(made["model.norm.weight"].bits, norm.bits)
    np.testing.assert_array_equal(made["lm_head.weight"].bits, head.bits)
    np.testing.assert_allclose(made[f"{MODULES[0]}.weight"].float64.shape, lora.deltas[f"{MODULES[0]}.weight"].shape)


def test_a_saved_head_unties_a_tied_model(tmp_path: Path, merge: Merge) -> None:
    shapes = {name: shape for name, shape in llama_shapes().items() if name != "lm_head.weight"}
    base = write_folder(tmp_path / "base", random_tensors(shapes, 0))
    head = encode(np.ones((96, 32)), "BF16")
    extra = {f"{PREFIX}lm_head.weight": head}
    lora = make_lora(tmp_path / "lora", base, MODULES, extra=extra, modules_to_save=["lm_head"])
    out = merge(alone(on(base, lora)))
    np.testing.assert_array_equal(read_folder(out)["lm_head.weight"].bits, head.bits)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_bfloat16_base_is_rounded_once(llama: Trio, merge: Merge, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", llama.base, MODULES)
    base, made = read_folder(llama.base), read_folder(merge(alone(on(llama.base, lora))))
    wide = read_folder(merge(alone(on(llama.base, lora), dtype="float32"), "wide"))
    for name in lora.deltas:
        np.testing.assert_array_equal(made[name].bits, encode(wide[name].float64, "BF16").bits)
        exact = base[name].float64 + lora.deltas[name]
        # To float32 it does not pass through the base's bfloat16.
        assert np.abs(wide[name].float64 - exact).max() <= 8 * spacing(np.abs(exact).max(), "F32")


def test_methods_see_each_adapter_as_a_model(llama32: Trio, loras: tuple[Lora, Lora], merge: Merge) -> None:
    first, second = loras
    models = [{"model": on(llama32.base, lora), "parameters": {"weight": w}} for lora, w in ((first, 0.7), (second, -0.4))]
    out = merge({"merge_method": "task_arithmetic", "base_model": llama32.base, "models": models})
    before, after = read_folder(llama32.base), read_folder(out)
    for name, tensor in before.items():
        exact = tensor.float64 + 0.7 * first.deltas.get(name, 0.0) - 0.4 * second.deltas.get(name, 0.0)
        assert np.abs(after[name].float64 - exact).max() <= 16 * spacing(np.abs(exact).max(), "F32"), name


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "mod"])
def test_any_method_gives_what_it_gives_for_merged_folders(llama: Trio, merge: Merge, tmp_path: Path, method: str) -> None:
    """Reading base+lora is reading what merging it first, in float32, would have written."""
    loras = [make_lora(tmp_path / name, llama.base, MODULES, seed=seed) for seed, name in enumerate("ab")]
    folders = [merge(alone(on(llama.base, lora), dtype="float32"), f"whole{lora.folder.name}") for lora in loras]

    def recipe(models: list[str]) -> dict[str, Any]:
        if method == "mod":
            return {
                "experts": [{"source_model": model} for model in models], "weights": [0.6, 0.4], "normalize": "quantile",
                "dtype": "bfloat16",
            }  # fmt: skip
        own: dict[str, Any] = {} if method == "slerp" else {"parameters": {"weight": 0.5, "density": 0.4}}
        listed = [{"model": model, **own} for model in models]
        base = models[0] if method == "slerp" else llama.base
        shared = {"parameters": {"t": 0.3}} if method == "slerp" else {}
        return {"merge_method": method, "base_model": base, "models": listed, "dtype": "bfloat16", **shared}

    on_the_fly = read_folder(merge(recipe([on(llama.base, lora) for lora in loras]), "fly", seed=3))
    first = read_folder(merge(recipe([str(folder) for folder in folders]), "first", seed=3))
    for name, tensor in first.items():
        np.testing.assert_array_equal(on_the_fly[name].bits, tensor.bits)


def test_layers_of_adapted_models_stack(llama32: Trio, loras: tuple[Lora, Lora], merge: Merge) -> None:
    slices = [
        {"sources": [{"model": on(llama32.base, loras[0]), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(llama32.base), "layer_range": [1, 4]}]},
    ]
    made = read_folder(merge({"merge_method": "passthrough", "slices": slices}))
    base = read_folder(llama32.base)
    for new, (old, changed) in enumerate(((0, True), (1, True), (1, False), (2, False), (3, False))):
        name = "model.layers.{}.mlp.down_proj.weight"
        exact = base[name.format(old)].float64 + (loras[0].deltas[name.format(old)] if changed else 0)
        np.testing.assert_allclose(made[name.format(new)].float64, exact, atol=2e-6)


def opened(base: Path, lora: Lora) -> Checkpoint:
    return adapt(Checkpoint.open(base, "base"), Adapter.open(lora.folder, "lora"), "base+lora")


@pytest.mark.parametrize("turned", [False, True])
def test_an_element_is_the_same_in_every_block(llama32: Trio, tmp_path: Path, turned: bool) -> None:
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, rank=300, fan_in_fan_out=turned)
    source = open_source(opened(llama32.base, lora), f"{MODULES[-1]}.weight")
    assert isinstance(source, Adapted)
    whole = source.floats(0, source.size)
    for size in (41, 48, 100, 1000):
        parts = [source.floats(start, min(start + size, source.size)) for start in range(0, source.size, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(source.floats(5, 5)) == 0


@pytest.mark.parametrize("threads", [2, 7])
def test_the_same_bytes_with_any_number_of_threads(llama32: Trio, loras: tuple[Lora, Lora], merge: Merge, threads: int) -> None:
    models = [{"model": on(llama32.base, lora), "parameters": {"weight": 0.5, "density": 0.5}} for lora in loras]
    recipe = {"merge_method": "ties", "base_model": llama32.base, "models": models}
    many, one = (read_folder(merge(recipe, f"t{count}", threads=count)) for count in (threads, 1))
    assert all(np.array_equal(many[name].bits, one[name].bits) for name in one)


def test_the_factors_count_against_the_memory(llama32: Trio, tmp_path: Path) -> None:
    plain = prepare(write_recipe(tmp_path / "p.yml", alone(str(llama32.base)))).plan
    lora = make_lora(tmp_path / "lora", llama32.base, MODULES, rank=500)
    adapted = prepare(write_recipe(tmp_path / "a.yml", alone(on(llama32.base, lora)))).plan
    engine = Engine()
    assert engine.worker_bytes(adapted) - engine.worker_bytes(plain) >= 500 * 48 * 4
    assert adapted.read_bytes > plain.read_bytes


def test_factors_are_kept_within_bounds(llama32: Trio, loras: tuple[Lora, Lora], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modist.checkpoint.adapter._KEPT_BYTES", 4 * 4 * 40)
    model = opened(llama32.base, loras[0])
    assert model.adapter is not None
    for module in MODULES:
        open_source(model, f"{module}.weight").floats(0, 100)
        assert sum(kept.nbytes for kept in model.adapter._kept.values()) <= 4 * 4 * 48


def test_nothing_is_written_but_the_result(llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path) -> None:
    place = tmp_path / "only"
    place.mkdir()
    merge_models(write_recipe(tmp_path / "r.yml", alone(on(llama32.base, loras[0]))), place / "out")
    assert [path.name for path in place.iterdir()] == ["out"]
    written = sum(path.stat().st_size for path in (place / "out").glob("*.safetensors"))
    assert written < 1.1 * (llama32.base / "model.safetensors").stat().st_size


def test_the_manifest_tells_the_adapter(llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", alone(on(llama32.base, loras[0])))
    report = merge_models(path, tmp_path / "out")
    assert report.parents[0].name == "base+a"
    manifest = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())
    (entry,) = manifest["inputs"]
    assert entry["adapter"]["adapter"] == "a"
    assert {"model.safetensors", "adapter_model.safetensors"} == entry["files"].keys()
    assert merge_models(path, tmp_path / "out", resume=True).already
    # Another alpha is another merge, although no weight file changed.
    config = loras[0].folder / "adapter_config.json"
    before = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(before), "lora_alpha": 9}))
        assert not merge_models(path, tmp_path / "out", resume=True).already
    finally:
        config.write_text(before)


def test_the_card_links_the_model_and_the_adapter(llama32: Trio, tmp_path: Path) -> None:
    """A hub knows no model of the name base+a."""
    base = tmp_path / "base"
    shutil.copytree(llama32.base, base)
    lora = make_lora(tmp_path / "a", base, MODULES)
    for folder, licence in ((base, "mit"), (lora.folder, "apache-2.0")):
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    models = [{"model": on(base, lora), "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    merge_models(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model:\n- base\n- a\n" in card
    assert "license: other" in card and "| base+a |" in card and "other (mit; the adapter's: apache-2.0)" in card


def test_a_base_of_another_name_is_remarked_on(llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path) -> None:
    report = merge_models(write_recipe(tmp_path / "r.yml", alone(on(llama32.one, loras[0]))), tmp_path / "out")
    assert any(text == "a: was trained on base, and is added to one" for text in report.warnings)
    quiet = merge_models(write_recipe(tmp_path / "q.yml", alone(on(llama32.base, loras[0]))), tmp_path / "quiet")
    assert not quiet.warnings


def test_an_adapter_beside_the_recipe_is_found(llama32: Trio, loras: tuple[Lora, Lora], tmp_path: Path) -> None:
    (tmp_path / "lora").symlink_to(loras[0].folder)
    (tmp_path / "model").symlink_to(llama32.base)
    merge_models(write_recipe(tmp_path / "r.yml", alone("./model+./lora")), tmp_path / "out")
    check(tmp_path / "out", llama32.base, loras[0])


def test_the_adapter_is_no_place_for_the_result(llama32: Trio, loras: tuple[Lora, Lora], command: Callable[..., Any]) -> None:
    done = command(alone(on(llama32.base, loras[0])), name=str(loras[0].folder))
    assert done.returncode == 2 and "this is the input a" in done.stderr
