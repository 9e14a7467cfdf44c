"""A whole fusion on tiny models: the result is an ordinary checkpoint; a kill costs time and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import ModistError, UserError
from modist.fusion import Watch, extract, fuse, trainer, training
from modist.fusion import run as run_module
from modist.fusion.dataset import FusionDataset, collate
from modist.fusion.training import steps_of
from modist.merge.verify import verify
from modist.recipe.fusion import load_fusion_recipe
from tests.fusion.rooms import make_rooms, write_recipe
from tests.tiny_models import read_folder

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, with their distributions extracted once."""
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root)
    extract(root / "recipe.yml", root / "d", device="cpu")
    return root


@pytest.fixture(scope="module")
def fused(rooms: Path) -> Path:
    """A finished fusion, never stopped."""
    fuse(rooms / "recipe.yml", rooms / "fused", distributions=rooms / "d", seed=3, device="cpu")
    return rooms / "fused"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_result_is_an_ordinary_checkpoint(rooms: Path, fused: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert verify(fused).passed and not (rooms / "fused.partial").exists()
    manifest = json.loads((fused / "modist_manifest.json").read_text())
    assert manifest["method"] == "fuse" and manifest["seed"] == 3 and manifest["config_from"] == "pivot"
    assert {entry["model"] for entry in manifest["inputs"]} == {"pivot", "expert"}
    assert manifest["fusion"]["targets"]["pivot"]["chats"] == 24
    for name in ("README.md", "fusion_losses.png", "fusion_losses.json", "tokenizer.json", "chat_template.jinja"):
        assert name in manifest["files"]
    assert (fused / "tokenizer.json").read_bytes() == (rooms / "pivot" / "tokenizer.json").read_bytes()
    # The pivot's names, shapes and dtype; other numbers.
    before, after = read_folder(rooms / "pivot"), read_folder(fused)
    assert {n: (t.dtype, t.bits.shape) for n, t in before.items()} == {n: (t.dtype, t.bits.shape) for n, t in after.items()}
    assert any(not np.array_equal(before[name].bits, after[name].bits) for name in before)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(fused), AutoTokenizer.from_pretrained(fused)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[0] == 1
    card = (fused / "README.md").read_text()
    assert "UMM-style" in card and "base_model: pivot" in card and "24 chats" in card
    curve = json.loads((fused / "fusion_losses.json").read_text())["pivot"]
    assert len(curve) == 6 and curve[-1]["clm"] < curve[0]["clm"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(rooms: Path, fused: Path, tmp_path: Path) -> None:
    for seed, same in ((3, True), (4, False)):
        fuse(rooms / "recipe.yml", tmp_path / "out", distributions=rooms / "d", seed=seed, device="cpu")
        assert (weights(tmp_path / "out") == weights(fused)) is same


def test_lambda_one_is_training_on_labels(rooms: Path, tmp_path: Path) -> None:
    """Against a loop of one's own with transformers' loss: nothing of the targets is left."""
    from transformers import AutoModelForCausalLM

    one_step = {"lambda": 1.0, "max_steps": 1, "global_batch": 24, "batch_size": 24, "warmup": 0.0, "max_grad_norm": 0.0}
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training=one_step)
    fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(rooms / "pivot", dtype=torch.float32).train()
    dataset = FusionDataset(_targets(rooms, tmp_path))
    batch = collate([dataset[row] for row in range(len(dataset))])
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss.backward()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    optimiser.step()
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for (name, one), two in zip(model.named_parameters(), trained.parameters(), strict=True):
        # Adam's first step is the sign of the gradient, so where that is nearly 0 rounding decides.
        close = torch.isclose(one, two, atol=1e-5).float().mean()
        assert float(close) > 0.99, name


def _targets(rooms: Path, tmp_path: Path) -> Path:
    """The targets that a fusion of the recipe trains on."""
    kept = {}
    real = run_module._train

    def keep(prepared: Any, place: Path, *rest: Any) -> Any:
        kept["targets"] = shutil.copytree(place / "targets", tmp_path / "targets")
        raise KeyboardInterrupt

    run_module._train = keep
    try:
        with pytest.raises(KeyboardInterrupt):
            fuse(rooms / "recipe.yml", tmp_path / "stopped", distributions=rooms / "d", device="cpu")
    finally:
        run_module._train = real
    return kept["targets"]


class Killed(BaseException):
    """What no handler of the code under test may catch."""


@pytest.mark.parametrize("step", [2, 5])
def test_killed_in_training_and_gone_on_with_to_the_same_bytes(rooms: Path, fused: Path, tmp_path: Path, step: int) -> None:
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"save_every": 2})
    notes: list[str] = []

    def die(phase: str, done: int, total: int) -> None:
        if phase == "train" and done == step:
            raise Killed

    with pytest.raises(Killed):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu", watch=Watch(advance=die))
    assert not (tmp_path / "out").exists()
    fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu", resume=True, watch=Watch(note=notes.append))
    assert [note for note in notes if "going on" in note] == ([f"going on from step {step // 2 * 2}"] if step > 2 else [])
    assert weights(tmp_path / "out") == weights(fused)
    # Asked again, there is nothing to do.
    again = fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu", resume=True)
    assert again.already


def test_a_torn_checkpoint_is_passed_over(rooms: Path, fused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"save_every": 2})
    real, calls = trainer.mark, []

    def torn(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:
            (folder / "optimizer.pt").write_bytes(b"torn")
            raise Killed
        real(folder)

    monkeypatch.setattr(trainer, "mark", torn)
    with pytest.raises(Killed):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu")
    monkeypatch.undo()
    notes: list[str] = []
    fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu", resume=True, watch=Watch(note=notes.append))
    assert "going on from step 2" in notes and weights(tmp_path / "out") == weights(fused)


def test_accumulation_and_batches_give_the_same_training(rooms: Path, fused: Path, tmp_path: Path) -> None:
    """The loss is a mean over the positions of the whole step, however it is cut."""
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"batch_size": 8})
    fuse(recipe, tmp_path / "out", distributions=rooms / "d", seed=3, device="cpu")
    one, two = (json.loads((folder / "fusion_losses.json").read_text())["pivot"] for folder in (fused, tmp_path / "out"))
    assert [point["clm"] for point in one] == pytest.approx([point["clm"] for point in two], rel=1e-3)


@pytest.mark.parametrize("target", ["mince_position", "avgce", "weights"])
def test_every_target_trains(rooms: Path, tmp_path: Path, target: str) -> None:
    parts: dict[str, Any] = {"fusion": {"target": target}, "training": {"max_steps": 1}}
    if target == "weights":
        parts |= {
            "pivot": {"source_model": str(rooms / "pivot"), "weight": 0.3},
            "experts": [{"source_model": str(rooms / "expert"), "weight": 0.7}],
        }
    report = fuse(
        write_recipe(rooms, f"{tmp_path.name}.yml", **parts), tmp_path / "out", distributions=rooms / "d", device="cpu"
    )
    summary = report.targets["pivot"]
    assert sum(summary.shares.values()) == pytest.approx(1) and 0 < summary.aligned <= 1
    if target == "weights":
        assert summary.shares == pytest.approx({"pivot": 0.3, "expert": 0.7})


@pytest.mark.parametrize("align", ["exact", "statistics"])
def test_every_alignment(rooms: Path, tmp_path: Path, align: str) -> None:
    recipe = write_recipe(
        rooms, f"{tmp_path.name}.yml", fusion={"align": align, "include_pivot": False}, training={"max_steps": 1}
    )
    summary = fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu").targets["pivot"]
    # The expert's letters make up every token of the pivot's; the label alone is left where that is not wanted.
    assert summary.shares == {"expert": 1.0} and summary.aligned == 1 and summary.ids["expert"] > 0.9


def test_lora_is_merged_into_a_plain_checkpoint(rooms: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = {"lora": {"rank": 2, "targets": ["q_proj", "down_proj"]}, "gradient_checkpointing": True, "learning_rate": 1e-2}
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training=settings)
    report = fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu")
    trained = report.trained["pivot"]
    assert trained.parameters < trained.of / 10 and verify(tmp_path / "out").passed
    before, after = read_folder(rooms / "pivot"), read_folder(tmp_path / "out")
    changed = {name for name in before if not np.array_equal(before[name].bits, after[name].bits)}
    assert before.keys() == after.keys()
    assert changed and all("q_proj" in name or "down_proj" in name for name in changed)


def test_without_peft(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"lora": {}})
    with pytest.raises(UserError, match=r"training\.lora needs peft.*modist\[fuse\]"):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number(rooms: Path, tmp_path: Path) -> None:
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup": 0.0})
    with pytest.raises(ModistError, match=r"the loss is no number at step \d"):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu")
    assert not (tmp_path / "out").exists()


def test_an_output_that_would_overwrite(rooms: Path, tmp_path: Path) -> None:
    for out, words in ((rooms / "pivot", "this is the input pivot"), (rooms / "expert" / "x", "lies inside the input expert")):
        with pytest.raises(UserError, match=words):
            fuse(rooms / "recipe.yml", out, distributions=rooms / "d", device="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="was not written by modist"):
        fuse(rooms / "recipe.yml", tmp_path / "mine", distributions=rooms / "d", device="cpu")


def test_steps() -> None:
    settings = load_settings(global_batch=8, batch_size=4, epochs=2.0)
    assert steps_of(settings, 24) == (6, 2) and steps_of(settings, 25) == (8, 2) and steps_of(settings, 24, 2) == (6, 1)
    with pytest.raises(UserError, match="no multiple of 4 chats on each of 3 devices"):
        steps_of(settings, 24, 3)


def load_settings(**given: Any) -> Any:
    from modist.recipe.fusion_schema import TrainingSettings

    return TrainingSettings(**given)


def test_pairs_are_merged(rooms: Path, tmp_path: Path) -> None:
    from modist.merge import find_method

    try:
        find_method("sce")
    except UserError:
        pytest.skip("the merge method sce is not here")
    from tests.fusion.rooms import byte_tokenizer, tiny_model

    other = tmp_path / "other"
    tiny_model(other, 9, byte_tokenizer(other, 5), hidden=24, layers=1)
    experts = [{"source_model": str(rooms / "expert")}, {"source_model": str(other)}]
    recipe = write_recipe(
        rooms, f"{tmp_path.name}.yml", experts=experts, fusion={"mode": "pairwise_then_merge"}, training={"max_steps": 2}
    )
    report = fuse(recipe, tmp_path / "out", distributions=tmp_path / "d", device="cpu")
    assert set(report.trained) == {"expert", "other"} and verify(tmp_path / "out", recipe).passed
    manifest = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())
    assert manifest["fusion"]["merge"]["method"] == "sce" and not (tmp_path / "out.partial").exists()
    assert "merged by SCE" in (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "modist_merge_recipe.yml").read_text()


def test_the_recipe_of_an_unfinished_fusion_may_not_change(rooms: Path, tmp_path: Path) -> None:
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml")

    def die(phase: str, done: int, total: int) -> None:
        if phase == "train":
            raise Killed

    with pytest.raises(Killed):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu", watch=Watch(advance=die))
    write_recipe(rooms, f"{tmp_path.name}.yml", training={"epochs": 1})
    with pytest.raises(UserError, match="unfinished merge of another recipe"):
        fuse(recipe, tmp_path / "out", distributions=rooms / "d", device="cpu", resume=True)
    assert load_fusion_recipe(recipe).training.epochs == 1
