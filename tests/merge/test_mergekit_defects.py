"""Defects found in mergekit 0.1.5, each with a test that modist does not have it.

Numbered as they were found.  4 (a crash on architectures with name aliases) and 10 (options and commands that
do nothing) have no counterpart here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.merge.reference import CASES
from tests.tiny_models import (
    Tensor,
    Trio,
    encode,
    llama_config,
    llama_shapes,
    plain_trio,
    random_tensors,
    read_folder,
    tuned,
    write_folder,
    write_recipe,
)

Command = Callable[..., subprocess.CompletedProcess[str]]


def contents(folder: Path) -> dict[str, str]:
    """File -> SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in contents(folder).items() if "safetensors" in name}


def refused(done: subprocess.CompletedProcess[str], out: Path, *words: str, status: int | None = 2) -> None:
    """The command said no, in words a person can use, and wrote nothing."""
    assert done.returncode not in (0, -signal.SIGSEGV), done.stdout
    if status is not None:
        assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    said = " ".join(done.stderr.split())
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    assert not out.exists() and not out.with_name(out.name + ".partial").exists()


# -------------------------------------------------------------- 1: whose config the result carries


def test_1_config_and_tokenizer_come_from_the_first_model(tmp_path: Path, command: Command) -> None:
    """mergekit takes them from any model, as PYTHONHASHSEED will have it; here it is the first, always."""
    tensors = random_tensors(llama_shapes(), 1)
    folders = []
    for number in range(4):
        config = llama_config(tensors, rms_norm_eps=1e-6 * (number + 1))
        folder = write_folder(tmp_path / f"model{number}", tuned(tensors, number, 0.02), config)
        (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.1 * (number + 1)}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 100 + number}))
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "marker": number}))
        folders.append(folder)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f, "parameters": {"weight": 0.25}} for f in folders],
    }
    seen = []
    for seed in ("0", "1", "2", "3"):
        done = command(recipe, name=f"out{seed}", process=True, env={"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        seen.append(contents(tmp_path / f"out{seed}"))
    carried = (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    )
    assert all(one[name] == seen[0][name] for one in seen for name in carried)
    out = tmp_path / "out0"
    assert json.loads((out / "config.json").read_text())["rms_norm_eps"] == 1e-6
    assert json.loads((out / "generation_config.json").read_text())["temperature"] == 0.1
    assert json.loads((out / "tokenizer.json").read_text())["marker"] == 0
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 100


def test_1_rope_that_differs_is_no_silent_choice(tmp_path: Path, command: Command) -> None:
    tensors = random_tensors(llama_shapes(), 1)
    folders = [
        write_folder(tmp_path / f"rope{theta:.0f}", tensors, llama_config(tensors, rope_theta=theta)) for theta in (1e4, 5e5)
    ]
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f, "parameters": {"weight": 0.5}} for f in folders],
    }
    refused(command(recipe), tmp_path / "out", "rope", "--allow rope", status=None)
    done = command(recipe, "--allow", "rope")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 1e4


# -------------------------------------------------------------- 2: the seed


def test_2_random_methods_have_a_seed_and_tell_it(llama: Trio, command: Command, tmp_path: Path) -> None:
    recipe = {
        "merge_method": "dare_ties",
        "base_model": llama.base,
        "models": [{"model": f, "parameters": {"weight": 0.5, "density": 0.4}} for f in (llama.one, llama.two)],
    }
    for name, flags in (
        ("a", ()),
        ("b", ()),
        ("zero", ("--seed", "0")),
        ("seven", ("--seed", "7")),
        ("again", ("--seed", "7")),
    ):
        done = command(recipe, *flags, name=name)
        assert done.returncode == 0, done.stderr
    made = {name: weights(tmp_path / name) for name in ("a", "b", "zero", "seven", "again")}
    assert made["a"] == made["b"] == made["zero"]
    assert made["seven"] == made["again"] != made["a"]
    recorded = {name: json.loads((tmp_path / name / "modist_manifest.json").read_text())["seed"] for name in ("a", "seven")}
    assert recorded == {"a": 0, "seven": 7}


# -------------------------------------------------------------- 3: stacking


def stack(*ranges: tuple[int, tuple[int, int]]) -> Callable[[Trio], dict[str, Any]]:
    return lambda trio: {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [
                    {
                        "model": trio.folders[which],
                        "layer_range": list(layers),
                        "parameters": {"weight": 1.0},
                    },
                ]
            }
            for which, layers in ranges
        ],
    }


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (stack((0, (0, 3)), (0, (1, 4))), "sfsfsf"),
        (stack((0, (0, 2)), (1, (2, 4))), "sfsf"),
        (stack((0, (1, 4))), "fsf"),
    ],
    ids=["repeated", "of-two-models", "headless"],
)
def test_3_layer_types_follow_the_layers(
    make: Callable[[Trio], dict[str, Any]], kinds: str, llama: Trio, command: Command, tmp_path: Path
) -> None:
    """mergekit writes all the weights of such a merge, then fails on the config of most architectures."""
    words = {"s": "sliding_attention", "f": "full_attention"}
    folders = [tmp_path / name for name in ("base", "one", "two")]
    for folder, of in zip(folders, llama.folders, strict=True):
        shutil.copytree(of, folder)
        config = json.loads((folder / "config.json").read_text()) | {"layer_types": [words[kind] for kind in "sfsf"]}
        (folder / "config.json").write_text(json.dumps(config))
    done = command(make(Trio(*folders)))
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_types"] == [words[kind] for kind in kinds]
    assert config["num_hidden_layers"] == len(kinds)


def test_3_layers_outside_the_model_are_refused_before_anything_is_written(
    llama: Trio, command: Command, tmp_path: Path
) -> None:
    refused(command(stack((0, (0, 9)))(llama)), tmp_path / "out", "layer_range", ".yml:", "did you mean [0, 4]")


# -------------------------------------------------------------- 5: the same output folder again


def test_5_a_second_merge_leaves_nothing_of_the_first(llama: Trio, command: Command, tmp_path: Path) -> None:
    """mergekit leaves old shards and the old index, and then reads the old model back."""
    many, single = CASES["linear"](llama), CASES["ties"](llama)
    done = command(many, "--shard-size", "20KB")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert len(list(out.glob("*.safetensors"))) > 2
    before = contents(out)
    fresh = command(single, name="fresh")
    assert fresh.returncode == 0, fresh.stderr
    again = command(single)
    if again.returncode:  # to ask before it replaces is fair as well, if the old output is then as it was
        assert contents(out) == before
        assert str(out) in again.stderr and "Traceback" not in again.stderr
        return
    assert set(contents(out)) == set(contents(tmp_path / "fresh"))
    assert weights(out) == weights(tmp_path / "fresh")
    assert not (tmp_path / "out.partial").exists()


def test_5_from_one_file_to_shards(llama: Trio, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = command(CASES["ties"](llama))
    assert first.returncode == 0, first.stderr
    before = weights(out)
    second = command(CASES["linear"](llama), "--shard-size", "20KB")
    if second.returncode:
        assert weights(out) == before
        return
    assert not (out / "model.safetensors").exists()
    read_folder(out)  # asserts that index and files agree
    verified = subprocess.run([sys.executable, "-m", "modist", "verify", str(out)], capture_output=True, text=True, timeout=60)
    assert verified.returncode == 0, verified.stderr


# -------------------------------------------------------------- 6: typos and values out of range


def spoiled(change: Callable[[dict[str, Any]], None], case: str = "ties") -> Callable[[Trio], dict[str, Any]]:
    def make(trio: Trio) -> dict[str, Any]:
        recipe = CASES[case](trio)
        change(recipe)
        return recipe

    return make


def parameters(recipe: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = recipe["models"][1]["parameters"]
    return found


WRONG: dict[str, tuple[Callable[[Trio], dict[str, Any]], tuple[str, ...]]] = {
    "unknown-key": (
        spoiled(lambda r: r.update(tokeniser_source="base")),
        ("tokeniser_source", "tokenizer_source"),
    ),
    "misspelt-density": (spoiled(lambda r: parameters(r).update(densty=0.3)), ("densty", "'density'")),
    "misspelt-normalize": (
        spoiled(lambda r: r.update(parameters={"normalise": True})),
        ("normalise", "'normalize'"),
    ),
    "misspelt-method": (spoiled(lambda r: r.update(merge_method="tise")), ("tise", "ties")),
    "density-high": (spoiled(lambda r: parameters(r).update(density=1.7)), ("1.7", "density")),
    "density-low": (spoiled(lambda r: parameters(r).update(density=-0.2)), ("-0.2", "density")),
    "density-in-a-gradient": (
        spoiled(lambda r: parameters(r).update(density=[0.5, 1.7])),
        ("1.7", "density"),
    ),
    "density-in-a-filter": (
        spoiled(lambda r: parameters(r).update(density=[{"filter": "mlp", "value": -0.2}, {"value": 1}])),
        ("-0.2", "density"),
    ),
    "filter-without-a-match": (
        spoiled(lambda r: parameters(r).update(density=[{"filter": "mpl", "value": 0.2}, {"value": 1}])),
        ("mpl",),
    ),
    "filter-key": (
        spoiled(lambda r: parameters(r).update(density=[{"filtr": "mlp", "value": 0.2}])),
        ("filtr",),
    ),
    "missing-weight": (spoiled(lambda r: parameters(r).pop("weight")), ("weight",)),
    "missing-base": (spoiled(lambda r: r.pop("base_model")), ("base_model",)),
    "weight-word": (spoiled(lambda r: parameters(r).update(weight="much")), ("much", "weight")),
    "missing-folder": (
        spoiled(lambda r: r["models"][1].update(model="./no/such/folder")),
        ("./no/such/folder",),
    ),
    "mod-weights": (spoiled(lambda r: r.update(weights=[0.9, 0.2]), "mod"), ("weights", "1.1")),
    "mod-normalize": (spoiled(lambda r: r.update(normalize="minmaks"), "mod"), ("minmaks", "minmax")),
    "slerp-t": (spoiled(lambda r: r["parameters"].update(t=1.4), "slerp"), ("1.4",)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_6_typos_and_ranges_are_refused(wrong: str, llama: Trio, command: Command, tmp_path: Path) -> None:
    make, words = WRONG[wrong]
    done = command(make(llama))
    refused(done, tmp_path / "out", *words)
    said = " ".join(done.stderr.split())
    assert "out.yml:" in said, said
    line = said.split("out.yml:")[1].split(":")[0]
    assert line.isdigit() and 1 <= int(line) <= len((tmp_path / "out.yml").read_text().splitlines())


def test_6_the_line_is_the_right_one(llama: Trio, command: Command, tmp_path: Path) -> None:
    recipe = CASES["ties"](llama)
    parameters(recipe)["densty"] = 0.3
    done = command(recipe, process=True)
    lines = (tmp_path / "out.yml").read_text().splitlines()
    right = 1 + next(number for number, line in enumerate(lines) if "densty" in line)
    assert f"out.yml:{right}:" in " ".join(done.stderr.split())


# -------------------------------------------------------------- 7: NaN and infinity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F16"])
def test_7_what_is_not_finite_is_refused(value: float, dtype: str, tmp_path: Path, command: Command) -> None:
    """One element of one tensor, and the message names both the tensor and the parent."""
    trio = plain_trio(tmp_path / "models", dtype)
    name = "model.layers.2.mlp.down_proj.weight"
    tensors = read_folder(trio.two)
    bits = tensors[name].bits.copy()
    bits[3, 5] = {"BF16": np.float32(value).view(np.uint32) >> 16}.get(dtype, value)
    write_folder(trio.two, {**tensors, name: Tensor(dtype, bits)})
    recipe = CASES["ties"](trio)
    done = command(recipe)
    out = tmp_path / "out"
    assert done.returncode in (1, 2), done.stderr
    assert f"'{name}'" in done.stderr and f"{trio.two.name}:" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not out.exists()
    allowed = command(recipe, "--allow", "nonfinite", name="allowed")
    assert allowed.returncode == 0, allowed.stderr
    assert not np.isfinite(read_folder(tmp_path / "allowed")[name].float64[3, 5])


def test_7_parents_in_folders_of_one_name_are_told_apart(tmp_path: Path, command: Command) -> None:
    """run-a/final and run-b/final: `final` alone names neither."""
    tensors = random_tensors(llama_shapes(), 1)
    good, bad = (write_folder(tmp_path / run / "final", tensors) for run in ("run-a", "run-b"))
    bits = tensors["model.norm.weight"].bits.copy()
    bits[0] = 0x7FC0
    write_folder(bad, {**tensors, "model.norm.weight": Tensor("BF16", bits)})
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f, "parameters": {"weight": 0.5}} for f in (good, bad)],
    }
    done = command(recipe)
    assert done.returncode in (1, 2)
    assert "run-b" in done.stderr and "run-a" not in done.stderr


def test_7_an_overflow_of_the_output_is_no_secret(tmp_path: Path, command: Command) -> None:
    """Finite parents whose sum float16 cannot hold: refused, or told."""
    tensors = random_tensors(llama_shapes(), 1, "F32")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = encode(np.full(tensors[name].bits.shape, 6e4), "F32")
    folders = [write_folder(tmp_path / f"m{i}", tensors) for i in range(2)]
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f, "parameters": {"weight": 1.0}} for f in folders],
        "parameters": {"normalize": False},
        "dtype": "float16",
    }
    done = command(recipe)
    assert name in "".join(done.stderr.split())
    if done.returncode:
        assert not (tmp_path / "out").exists()


# -------------------------------------------------------------- 8: the output is an input


@pytest.mark.parametrize("way", ["same", "dots", "link", "inside", "around", "base"])
def test_8_an_output_that_is_an_input_is_refused(way: str, tmp_path: Path, command: Command) -> None:
    trio = plain_trio(tmp_path / "models")
    before = contents(tmp_path / "models")
    (tmp_path / "link").symlink_to(trio.one, target_is_directory=True)
    target = {
        "same": "models/one",
        "dots": "models/two/../one",
        "link": "link",
        "inside": "models/one/merged",
        "around": "models",
        "base": "models/base",
    }[way]
    done = command(write_recipe(tmp_path / "recipe.yml", CASES["ties"](trio)), name=target)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path / "models") == before
    assert not list(tmp_path.rglob("*.partial"))


def test_8_also_for_inputs_in_folders_of_one_name_that_are_merges(llama: Trio, command: Command, tmp_path: Path) -> None:
    """Old outputs of modist may be replaced by their next version, but never while they are read."""
    for run, model in (("run-a", llama.one), ("run-b", llama.two)):
        made = command(
            {
                "merge_method": "linear",
                "models": [{"model": m, "parameters": {"weight": 1}} for m in (model, llama.base)],
            },
            name=f"{run}/final",
        )
        assert made.returncode == 0, made.stderr
    before = {run: contents(tmp_path / run / "final") for run in ("run-a", "run-b")}
    models = [{"model": tmp_path / run / "final", "parameters": {"weight": 0.5}} for run in before]
    recipe = write_recipe(tmp_path / "recipe.yml", {"merge_method": "linear", "models": models})
    for run in before:
        done = command(recipe, name=f"{run}/final")
        assert done.returncode == 2, f"{run}: {done.stdout}"
    assert {run: contents(tmp_path / run / "final") for run in before} == before


# -------------------------------------------------------------- 9: killed


def test_9_killed_and_resumed(tmp_path: Path, command: Command) -> None:
    """After SIGKILL the output is absent, never half there; resumed, it is what an undisturbed run gives."""
    trio = plain_trio(tmp_path / "models", hidden=512, inner=1536, vocabulary=2048)
    recipe = write_recipe(tmp_path / "recipe.yml", CASES["ties"](trio))
    clean = command(recipe, "--threads", "1", name="clean", process=True)
    assert clean.returncode == 0, clean.stderr
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    line = [sys.executable, "-m", "modist", "merge", str(recipe), str(out), "--threads", "1"]
    killed = 0
    for delay in (0.0, 0.05, 0.15):
        process = subprocess.Popen(
            [*line, *(["--resume"] if killed else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not partial.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        if process.poll() is None:
            process.kill()
            killed += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        if out.exists():  # it was faster, and then must be whole
            break
        assert partial.exists()
    assert killed
    resumed = command(recipe, "--resume", "--threads", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert weights(out) == weights(tmp_path / "clean")
    assert set(contents(out)) == set(contents(tmp_path / "clean"))
    assert not partial.exists()
    finished = command(recipe, "--resume")
    assert finished.returncode == 0, finished.stderr


def test_9_what_a_killed_run_left_does_not_harm_a_fresh_one(tmp_path: Path, command: Command) -> None:
    """mergekit leaves a file of its own beside the new ones; here another merge starts over and leaves nothing."""
    trio = plain_trio(tmp_path / "models", hidden=512, inner=1536, vocabulary=2048)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    recipe = write_recipe(tmp_path / "recipe.yml", CASES["ties"](trio))
    line = [sys.executable, "-m", "modist", "merge", str(recipe), str(out), "--threads", "1"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(partial.rglob("*.safetensors")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert partial.exists() and not out.exists()
    other = CASES["linear"](trio)
    resumed = command(other, "--resume")
    assert resumed.returncode == 2 and "another recipe" in resumed.stderr, resumed.stderr
    for name in ("out", "clean"):
        done = command(other, name=name)
        assert done.returncode == 0, done.stderr
    assert weights(out) == weights(tmp_path / "clean")
    assert set(contents(out)) == set(contents(tmp_path / "clean"))
    assert not partial.exists()


def test_9_a_folder_of_that_name_that_is_not_ours_is_left_alone(llama: Trio, tmp_path: Path, command: Command) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "notes.txt").write_text("mine")
    for flags in ((), ("--resume",)):
        done = command(CASES["linear"](llama), *flags)
        assert done.returncode == 2 and str(partial) in done.stderr
    assert contents(partial) == {"notes.txt": hashlib.sha256(b"mine").hexdigest()}


# -------------------------------------------------------------- 11: tied and untied heads


def tying(tmp_path: Path) -> dict[str, Path]:
    untied = random_tensors(llama_shapes(), 1)
    tied = {name: tensor for name, tensor in tuned(untied, 2, 0.02).items() if name != "lm_head.weight"}
    return {
        "untied": write_folder(tmp_path / "untied", untied),
        "tied": write_folder(tmp_path / "tied", tied),
    }


@pytest.mark.parametrize("order", [("tied", "untied"), ("untied", "tied")], ids="-".join)
def test_11_tied_and_untied(order: tuple[str, str], tmp_path: Path, command: Command) -> None:
    """Refused with the flag that allows it; allowed, config and tensors say the same."""
    folders = tying(tmp_path)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": folders[name], "parameters": {"weight": 0.5}} for name in order],
    }
    refused(command(recipe), tmp_path / "out", "--allow tying", status=None)
    done = command(recipe, "--allow", "tying")
    assert done.returncode == 0, done.stderr
    consistent(tmp_path / "out")


def test_11_two_tied_models_stay_tied(tmp_path: Path, command: Command) -> None:
    folder = tying(tmp_path)["tied"]
    other = write_folder(tmp_path / "other", tuned(read_folder(folder), 5, 0.02))
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f, "parameters": {"weight": 0.5}} for f in (folder, other)],
    }
    done = command(recipe)
    assert done.returncode == 0, done.stderr
    assert consistent(tmp_path / "out")["tie_word_embeddings"] is True


def consistent(out: Path) -> Mapping[str, Any]:
    config: dict[str, Any] = json.loads((out / "config.json").read_text())
    assert ("lm_head.weight" in read_folder(out)) == (not config["tie_word_embeddings"])
    return config
