"""Scaled deltas against float64, whatever the blocks and threads; and statistics that belong to something else."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.errors import CheckpointError, RecipeError
from modist.merge import merge, run, scaling
from modist.merge.scaling import FORMAT, VERSION, coefficients, model_digest, read_statistics, relaxation
from tests.merge.reference import expected_tensors
from tests.tiny_models import Tensor, Trio, encode, plain_trio, read_folder, write_folder, write_recipe, write_safetensors

OMEGA = 0.4
LAYERS = 2


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Rows of 136 and 303 elements, which blocks of 1,000 cut anywhere."""
    folder = tmp_path_factory.mktemp("scaling")
    return plain_trio(folder, "F32", seed=3, hidden=136, inner=303, vocabulary=97, layers=LAYERS)


def activations(base: Path, silent: str = "model.layers.1.self_attn.k_proj.weight") -> dict[str, np.ndarray]:
    """Some for every linear layer: all of different size, one channel silent, one layer never active."""
    generator = np.random.default_rng(4)
    found = {}
    for name, tensor in read_folder(base).items():
        if tensor.bits.ndim == 2 and "embed" not in name:
            found[name] = generator.gamma(0.5, 3.0, tensor.bits.shape[1])
            found[name][3] = 0.0
    if silent:
        found[silent][:] = 0
    return found


def means(base: Path) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    found = {name: np.array(10 ** generator.uniform(-8, -2)) for name in read_folder(base)}
    found["model.layers.0.mlp.up_proj.weight"] = np.array(0.0)
    return found


def statistics(path: Path, kind: str, values: Mapping[str, np.ndarray], model: Path, changes: Mapping[str, Any] = {}) -> Path:
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "model": model.name,
        "model_digest": model_digest(Checkpoint.open(model)),
        "data": "texts.jsonl",
        "data_digest": "0" * 64,
    } | dict(changes)
    stored = {name: encode(value, "F64") if value.ndim == 0 else encode(value, "F32") for name, value in values.items()}
    write_safetensors(path, stored, {key: value for key, value in metadata.items() if value is not None})
    return path


def ratios(kind: str, trio: Trio) -> dict[str, np.ndarray]:
    """The factor of every tensor, written out in float64."""
    if kind == "aim":
        found = {}
        for name, values in activations(trio.base).items():
            s = values.astype(np.float32).astype(np.float64)
            found[name] = 1 - (1 - OMEGA) * (s / s.max() if s.max() else s)
        return found
    stored = [{name: t.float64 for name, t in read_folder(folder).items()} for folder in trio.folders]
    sensitivity = {
        name: float(mean) * sum(float(np.sum((one[name] - stored[0][name]) ** 2)) for one in stored[1:])
        for name, mean in means(trio.base).items()
    }
    logs = {name: np.log(value) for name, value in sensitivity.items() if value}
    matrices = np.array([value for name, value in logs.items() if stored[0][name].ndim == 2])
    z = {name: (value - matrices.mean()) / matrices.std() for name, value in logs.items()}
    return {name: np.array(1 / (1 + np.exp(z[name]))) if name in z else np.array(1.0) for name in sensitivity}


def recipe_of(trio: Trio, method: str, scaling: Mapping[str, Any] | None, **one: Any) -> dict[str, Any]:
    models = [
        {"model": trio.base},
        {"model": trio.one, "parameters": {"weight": 0.6, "density": 0.55} | one},
        {"model": trio.two, "parameters": {"weight": 0.37, "density": 0.4}},
    ]
    parameters = {"lambda": 1.3}
    made = {"merge_method": method, "base_model": trio.base, "models": models, "parameters": parameters}
    return made | ({"scaling": dict(scaling)} if scaling else {})


@pytest.fixture(scope="module")
def files(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("statistics")
    return {
        "aim": statistics(folder / "aim.safetensors", "aim", activations(trio.base), trio.base),
        "fisher": statistics(folder / "fisher.safetensors", "fisher", means(trio.base), trio.base),
    }


def entry(files: Mapping[str, Path], kind: str) -> dict[str, Any]:
    return {"kind": kind, "statistics": files[kind]} | ({"omega": OMEGA} if kind == "aim" else {})


def merged(trio: Trio, tmp_path: Path, recipe: Mapping[str, Any], **options: Any) -> dict[str, Tensor]:
    merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out", seed=5, **options)
    return read_folder(tmp_path / "out")


@pytest.mark.parametrize("kind", ["aim", "fisher"])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_scaled_deltas_are_those_of_float64(
    trio: Trio, files: Mapping[str, Path], tmp_path: Path, method: str, kind: str
) -> None:
    found = merged(trio, tmp_path, recipe_of(trio, method, entry(files, kind)))
    base, factors = read_folder(trio.base), ratios(kind, trio)
    plain = json.loads(json.dumps(recipe_of(trio, method, None), default=str))
    for name, expected in expected_tensors(plain, LAYERS):
        origin = base[name].float64
        right = origin + factors.get(name, np.array(1.0)) * (expected.value - origin)
        far = np.abs(found[name].float64 - right)[~expected.near]
        # Two deltas, weighted, summed, times lambda and a factor that is rounded too, plus the base: nine roundings of 2^-24.
        assert float(np.max(far / np.maximum(expected.largest[~expected.near], 1e-30))) < 9 * 2**-24, name
    assert set(found) == set(base)


@pytest.mark.parametrize("kind", ["aim", "fisher"])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_random_masks_are_the_same_scaled_or_not(
    trio: Trio, files: Mapping[str, Path], tmp_path: Path, method: str, kind: str
) -> None:
    plain = merged(trio, tmp_path, recipe_of(trio, method, None))
    found = merged(trio, tmp_path, recipe_of(trio, method, entry(files, kind)))
    base, factors = read_folder(trio.base), ratios(kind, trio)
    changed = 0
    for name, tensor in found.items():
        origin, whole = base[name].float64, plain[name].float64
        right = origin + factors.get(name, np.array(1.0)) * (whole - origin)
        assert np.allclose(tensor.float64, right, rtol=0, atol=4 * 2**-24 * np.abs(whole).max()), name
        changed += not np.array_equal(tensor.bits, plain[name].bits)
    assert changed > 10


@pytest.mark.parametrize("kind", ["aim", "fisher"])
def test_the_same_bytes_for_any_threads_and_blocks(
    trio: Trio, files: Mapping[str, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(trio, "ties", entry(files, kind))
    expected = {name: tensor.bits.tobytes() for name, tensor in merged(trio, tmp_path, recipe, threads=1).items()}
    engine = run.Engine
    for threads, block in ((2, None), (7, 4096), (3, 8192), (1, 1000), (7, 777)):
        monkeypatch.setattr(run, "Engine", functools.partial(engine, **({"block": block} if block else {})))
        found = {name: tensor.bits.tobytes() for name, tensor in merged(trio, tmp_path, recipe, threads=threads).items()}
        assert found == expected, (threads, block)


def test_a_read_error_while_distances_are_measured_ends_the_merge(
    trio: Trio, files: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last tensor fails late, when the other threads have nothing left but to wait for it."""
    count = len(read_folder(trio.base))
    started: list[int] = []

    def fails(*arguments: Any) -> float:
        started.append(1)
        if len(started) == count:
            time.sleep(0.3)
            raise CheckpointError("the disk came loose")
        return 1.0

    monkeypatch.setattr(scaling, "_squares", fails)
    with pytest.raises(CheckpointError, match="came loose"):
        merged(trio, tmp_path, recipe_of(trio, "ties", entry(files, "fisher")), threads=3)


def test_searched_weights_leave_alpha_alone(trio: Trio, files: Mapping[str, Path], tmp_path: Path) -> None:
    """A model of weight 0 still counts as moved, so that two models' scaled deltas add up to the delta of both."""
    base = read_folder(trio.base)
    deltas = []
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        recipe = recipe_of(trio, "task_arithmetic", entry(files, "fisher"))
        for model, weight in zip(recipe["models"][1:], weights, strict=True):
            model["parameters"]["weight"] = weight
        found = merged(trio, tmp_path, recipe)
        deltas.append({name: tensor.float64 - base[name].float64 for name, tensor in found.items()})
    for name, both in deltas[2].items():
        assert np.allclose(deltas[0][name] + deltas[1][name], both, rtol=0, atol=1e-6), name


def test_a_head_that_is_tied_and_stored_all_the_same(tmp_path: Path) -> None:
    """Statistics know it as a layer; the result does not have it."""
    trio = plain_trio(tmp_path / "trio", "F32", layers=1)
    for folder in trio.folders:
        tensors = read_folder(folder)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
        write_folder(folder, tensors, config)
    path = statistics(tmp_path / "s.safetensors", "aim", activations(trio.base, silent=""), trio.base)
    assert "lm_head.weight" in read_statistics(path).values
    found = merged(trio, tmp_path, recipe_of(trio, "ties", {"kind": "aim", "statistics": path}))
    assert "lm_head.weight" not in found


def test_the_manifest_names_the_statistics_and_another_file_is_another_merge(
    trio: Trio, files: Mapping[str, Path], tmp_path: Path
) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(files["aim"].read_bytes())
    recipe = write_recipe(tmp_path / "r.yml", recipe_of(trio, "task_arithmetic", {"kind": "aim", "statistics": own.name}))
    merge(recipe, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())
    assert found["scaling"] == {
        "kind": "aim",
        "omega": 0.4,
        "statistics": {
            "file": "own.safetensors",
            "sha256": hashlib.sha256(own.read_bytes()).hexdigest(),
            "model": "base",
            "model_digest": model_digest(Checkpoint.open(trio.base)),
            "data": "texts.jsonl",
            "data_digest": "0" * 64,
        },
    }
    assert merge(recipe, tmp_path / "out", resume=True).already
    values = {name: value + 1 for name, value in activations(trio.base).items()}
    statistics(own, "aim", values, trio.base)
    assert not merge(recipe, tmp_path / "out", resume=True).already


def test_without_scaling_the_manifest_says_nothing_of_it(trio: Trio, tmp_path: Path) -> None:
    merged(trio, tmp_path, recipe_of(trio, "ties", None))
    assert "scaling" not in json.loads((tmp_path / "out" / "modist_manifest.json").read_text())


# ---------------------------------------------------------------- what does not belong


def refused(trio: Trio, tmp_path: Path, path: Path, kind: str = "aim") -> str:
    recipe = recipe_of(trio, "ties", {"kind": kind, "statistics": path})
    with pytest.raises(RecipeError) as caught:
        merged(trio, tmp_path, recipe)
    message = str(caught.value)
    assert "\n" not in message and "r.yml:" in message and "scaling.statistics: " in message
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    return message.split("scaling.statistics: ")[1]


def test_statistics_of_another_model(trio: Trio, tmp_path: Path) -> None:
    path = statistics(tmp_path / "s.safetensors", "aim", activations(trio.one), trio.one)
    assert "was made for another model, 'one'; the base is 'base'" in refused(trio, tmp_path, path)


def test_statistics_of_another_kind(trio: Trio, files: Mapping[str, Path], tmp_path: Path) -> None:
    assert "holds statistics of kind 'fisher', not 'aim'" in refused(trio, tmp_path, files["fisher"])
    assert "holds statistics of kind 'aim', not 'fisher'" in refused(trio, tmp_path, files["aim"], "fisher")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "model.layers.0.mlp.up_prj.weight",
            np.ones(136),
            "is no tensor of the base; did you mean 'model.layers.0.mlp.up_proj",
        ),
        ("model.layers.0.mlp.up_proj.weight", np.ones(135), r"has the shape [135]; a tensor of [303, 136] needs [136]"),
        ("model.layers.0.mlp.up_proj.weight", np.array(1.0), "has the shape []; a tensor of [303, 136] needs [136]"),
        ("model.norm.weight", np.ones(136), "has the shape [136]; a tensor of [136] needs [136]"),
        ("model.layers.0.mlp.up_proj.weight", np.full(136, np.nan), "has negative, infinite or NaN values"),
        ("model.layers.0.mlp.up_proj.weight", np.full(136, -1.0), "has negative, infinite or NaN values"),
    ],
)
def test_tensors_that_do_not_fit(trio: Trio, tmp_path: Path, name: str, value: np.ndarray, words: str) -> None:
    path = statistics(tmp_path / "s.safetensors", "aim", activations(trio.base) | {name: value}, trio.base)
    assert words in refused(trio, tmp_path, path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": None}, "holds no statistics; modist statistics makes such a file"),
        ({"version": "7"}, "is of version '7', and '1' is read here; make it again"),
        ({"model_digest": None}, "does not say its model_digest"),
        ({"kind": None}, "does not say its kind"),
    ],
)
def test_files_of_something_else(trio: Trio, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = statistics(tmp_path / "s.safetensors", "aim", activations(trio.base), trio.base, changes)
    assert words in refused(trio, tmp_path, path)


def test_a_model_is_no_statistics_file(trio: Trio, tmp_path: Path) -> None:
    assert "holds no statistics" in refused(trio, tmp_path, trio.base / "model.safetensors")


def test_no_tensors_and_integers(trio: Trio, tmp_path: Path) -> None:
    path = statistics(tmp_path / "s.safetensors", "aim", {}, trio.base)
    assert "has no tensor of the base, so it would change nothing" in refused(trio, tmp_path, path)
    metadata = {"format": FORMAT, "version": VERSION, "kind": "aim", "model_digest": "x"}
    write_safetensors(path, {"a": Tensor("I64", np.ones(3, "<i8"))}, metadata)
    assert "'a' has the dtype I64; statistics are F32 or F64" in refused(trio, tmp_path, path)


def test_a_truncated_file(trio: Trio, files: Mapping[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(files["aim"].read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"s\.safetensors"):
        merged(trio, tmp_path, recipe_of(trio, "ties", {"kind": "aim", "statistics": path}))


# ---------------------------------------------------------------- parts


def test_relaxation_at_its_ends() -> None:
    factors = relaxation(np.array([0.0, 1.0, 2.0, 4.0]), 0.4)
    assert factors.dtype == np.float32
    assert np.allclose(factors, [1.0, 0.85, 0.7, 0.4])
    assert np.array_equal(relaxation(np.array([0.5, 3.0]), 1.0), np.ones(2, np.float32))
    assert relaxation(np.array([0.5, 3.0]), 0.0)[1] == 0.0
    assert np.array_equal(relaxation(np.zeros(3), 0.4), np.ones(3, np.float32))


def test_alpha_is_a_half_in_the_middle_and_less_where_more_hangs_on_it() -> None:
    names = frozenset({"a", "b", "c"})
    found = coefficients({"a": 1.0, "b": math.e**2, "c": math.e**4, "bias": math.e**2, "none": 0.0, "odd": math.nan}, names)
    assert found["b"] == found["bias"] == pytest.approx(0.5)
    z = math.sqrt(1.5)
    assert found["a"] == pytest.approx(1 / (1 + math.exp(-z))) and found["c"] == pytest.approx(1 / (1 + math.exp(z)))
    assert found["none"] == found["odd"] == 1.0
    # The scale of all sensitivities together says nothing.
    again = coefficients({"a": 1e-9, "b": 1e-9 * math.e**2, "c": 1e-9 * math.e**4}, names)
    assert again == pytest.approx({name: found[name] for name in "abc"})


def test_alpha_where_all_are_alike_or_one_dwarfs_all() -> None:
    assert coefficients({"a": 3.0, "b": 3.0 * (1 + 1e-15)}, frozenset("ab")) == {"a": 0.5, "b": 0.5}
    assert coefficients({"a": 3.0}, frozenset("a")) == {"a": 0.5}
    assert coefficients({"bias": 3.0}, frozenset()) == {"bias": 0.5}
    found = coefficients({"a": 1e-300, "b": 1e-300 * 1.001, "c": 1e300}, frozenset("ab"))
    assert found["c"] == 0.0 and 0 < found["b"] < 0.5 < found["a"]


def test_the_digest_knows_tensors_and_not_files(trio: Trio, tmp_path: Path) -> None:
    tensors = read_folder(trio.base)
    cut = write_folder(tmp_path / "cut", tensors, shards=3)
    digest = model_digest(Checkpoint.open(trio.base))
    assert model_digest(Checkpoint.open(cut)) == digest
    for place in (0, 136 * 303 // 2, 136 * 303 - 1):
        changed = dict(tensors)
        bits = tensors["model.layers.1.mlp.up_proj.weight"].bits.copy()
        bits.ravel()[place] += 1
        changed["model.layers.1.mlp.up_proj.weight"] = Tensor("F32", bits)
        assert model_digest(Checkpoint.open(write_folder(tmp_path / f"c{place}", changed))) != digest


def test_read_statistics_gives_what_was_written(files: Mapping[str, Path], trio: Trio) -> None:
    found = read_statistics(files["fisher"])
    assert found.kind == "fisher" and found.sha256 == hashlib.sha256(files["fisher"].read_bytes()).hexdigest()
    assert {name: float(value) for name, value in found.values.items()} == {
        name: float(value) for name, value in means(trio.base).items()
    }
