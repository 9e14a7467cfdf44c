"""Targets of whole chats: the mixture's law as a teacher, resuming, chats that not all can read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.fusion import extract, targets
from modist.fusion.distributions import Distributions
from modist.fusion.run import Prepared, prepare
from modist.fusion.store import Store, StoreError
from modist.fusion.targets import TargetSummary, Teacher, make_targets
from tests.fusion.rooms import make_rooms, tiny_model, write_recipe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the others, and `twin`: another model with the pivot's tokenizer."""
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root)
    shutil.copytree(root / "pivot", root / "twin")
    tiny_model(root / "twin", 5, json.loads((root / "pivot" / "config.json").read_text())["vocab_size"], hidden=24)
    return root


def make(prepared: Prepared, store: Path, out: Path, **more: Any) -> TargetSummary:
    teachers = [
        Teacher(
            participant,
            planned.readings,
            Distributions(store / participant.slug, planned.plan),
            0.0 if prepared.recipe.weights is None else prepared.recipe.weights[prepared.participants.all.index(participant)],
            participant is prepared.participants.pivot,
        )
        for participant, planned in zip(prepared.teachers, prepared.plans, strict=True)
    ]
    return make_targets(prepared.recipe, teachers, prepared.participants.pivot, prepared.readings, prepared.chats, out, **more)


def read(folder: Path) -> list[dict[str, np.ndarray]]:
    with Store(folder, json.loads((folder / "plan.json").read_bytes()), write=False) as store:
        return [store.read(number) for number in range(store.shards)]


def test_weights_are_the_mixture_of_modist_generate(rooms: Path, tmp_path: Path) -> None:
    """p = sum_i a_i p_i over a whole vocabulary, against `modist.mixture` itself."""
    from modist.mixture import load_experts
    from modist.mixture.law import mix_log_probs
    from modist.recipe import parse_recipe

    pivot = {"source_model": str(rooms / "pivot"), "weight": 0.3}
    twin = {"source_model": str(rooms / "twin"), "weight": 0.7}
    fusion = {"target": "weights", "top_k": 1000}
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", pivot=pivot, experts=[twin], fusion=fusion)
    extract(recipe, tmp_path / "d", device="cpu")
    prepared = prepare(recipe)
    summary = make(prepared, tmp_path / "d", tmp_path / "t")
    assert summary.aligned == 1 and summary.shares == pytest.approx({"pivot": 0.3, "twin": 0.7})
    text = f'{{"experts": [{{"source_model": "{rooms}/pivot"}}, {{"source_model": "{rooms}/twin"}}], "weights": [0.3, 0.7]}}'
    experts = load_experts(parse_recipe(text), device="cpu", dtype="float32")
    shard = read(tmp_path / "t")[0]
    position = 0
    for row in range(4):
        reading = prepared.readings[row]
        ids = torch.from_numpy(reading.ids.astype(np.int64))[None]
        with torch.inference_mode():
            logits = [model(input_ids=ids).logits for model in experts.models]
            law = mix_log_probs(logits, experts.log_weights, experts.vocabulary)[0, reading.first - 1 : -1].exp().numpy()
        found = np.zeros_like(law)
        for place in range(reading.count):
            there = shard["ids"][position + place] >= 0
            found[place, shard["ids"][position + place][there]] = shard["probs"][position + place][there]
        # float16 log-probabilities lie between.
        np.testing.assert_allclose(found, law, atol=2e-3)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
        position += reading.count


def test_killed_while_aligning_and_gone_on_with(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "SHARD_POSITIONS", 90)
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml")
    extract(recipe, tmp_path / "d", device="cpu")
    prepared = prepare(recipe)
    make(prepared, tmp_path / "d", tmp_path / "whole")

    class Killed(BaseException):
        pass

    def die(phase: str, done: int, total: int) -> None:
        if phase == "fuse" and done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        make(prepared, tmp_path / "d", tmp_path / "t", advance=die)
    told: list[int] = []
    summary = make(prepared, tmp_path / "d", tmp_path / "t", advance=lambda phase, done, total: told.append(done))
    assert told[0] > summary.positions / 4 and told[-1] == summary.positions
    for one in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert one.read_bytes() == (tmp_path / "t" / one.name).read_bytes()


def test_chats_that_one_teacher_cannot_read_are_the_others(rooms: Path, tmp_path: Path) -> None:
    # Letters take more tokens than pieces: some chats are too long for the expert alone.
    recipe = write_recipe(
        rooms, f"{tmp_path.name}.yml", fusion={"too_long": "skip", "target": "avgce"}, training={"max_length": 52}
    )
    told = extract(recipe, tmp_path / "d", device="cpu")
    assert told[0].skipped < told[1].skipped
    summary = make(prepare(recipe), tmp_path / "d", tmp_path / "t")
    assert summary.chats == 24 - told[0].skipped
    alone = [shard["shares"][shard["shares"][:, 1] == 0] for shard in read(tmp_path / "t")]
    assert sum(map(len, alone)) == told[1].skipped - told[0].skipped and all((one[:, 0] == 1).all() for one in alone)


def test_nothing_to_train_on(rooms: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        rooms, f"{tmp_path.name}.yml", fusion={"too_long": "skip", "include_pivot": False}, training={"max_length": 52}
    )
    prepared = prepare(recipe)
    extract(recipe, tmp_path / "d", device="cpu")
    nobody = Prepared(prepared.recipe, prepared.participants, prepared.chats, prepared.plans, (None,) * 24)
    with pytest.raises(StoreError, match="nothing to train on"):
        make(nobody, tmp_path / "d", tmp_path / "t")
