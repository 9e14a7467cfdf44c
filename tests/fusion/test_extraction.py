"""What is stored is what the model says; the same bytes however it came about; and errors a person can use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import ModistError, UserError
from modist.fusion import Part, extract, extraction, plan
from modist.fusion.distributions import Distributions
from modist.fusion.models import Participants
from modist.fusion.plan import Chats, plan_distributions
from modist.fusion.positions import picked_positions
from modist.fusion.store import StoreError
from modist.recipe.fusion import load_fusion_recipe
from tests.fusion.rooms import make_rooms, tiny_model, write_chats, write_recipe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root)
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and shards so small that there are several."""
    monkeypatch.setattr(plan, "BATCH_TOKENS", 256)
    monkeypatch.setattr(plan, "SHARD_POSITIONS", 90)


def planned(recipe: Path, name: str) -> Any:
    read = load_fusion_recipe(recipe)
    participants = Participants.of(read)
    chosen = participants.named([name], read)[0]
    return chosen, plan_distributions(read, chosen, Chats.of(read))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("name", ["pivot", "expert"])
def test_against_one_forward_a_chat(rooms: Path, tmp_path: Path, small: None, name: str) -> None:
    found = extract(rooms / "recipe.yml", tmp_path / "d", experts=[name], device="cpu")[0]
    who, wanted = planned(rooms / "recipe.yml", name)
    assert found.chats == 24 and found.positions == wanted.positions and found.lacking == 0 and len(wanted.plan["shards"]) > 2
    # 64 bytes a position, 20 a chat, and a header.
    assert found.nbytes <= 64 * found.positions + 20 * found.chats + 1000 * len(wanted.plan["shards"])
    stored = Distributions(tmp_path / "d" / who.slug, wanted.plan)
    model = who.load("cpu", "float32")
    for row, reading in enumerate(wanted.readings):
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(reading.ids.astype(np.int64))[None]).logits[0].double()
        log_p = torch.log_softmax(logits, -1)[reading.first - 1 : -1].numpy()
        gold = log_p[np.arange(reading.count), reading.response]
        said = stored[row]
        assert said.nats == pytest.approx(-gold.sum(), rel=1e-5)
        # float16: a relative 2^-11 of the logarithm.
        np.testing.assert_allclose(said.gold, gold, rtol=6e-4, atol=1e-4)
        probs = np.exp(log_p)
        named = np.take_along_axis(probs, said.ids.astype(np.int64), 1)
        np.testing.assert_allclose(said.probs, named, rtol=1e-2, atol=1e-4)
        np.testing.assert_allclose(said.tail, 1 - named.sum(1), atol=1e-3)
        np.testing.assert_allclose(np.sort(probs, 1)[:, -10:].sum(1), named.sum(1), rtol=1e-5)
        np.testing.assert_allclose(said.probs.sum(1) + said.tail, 1, atol=1e-12)


def test_parts_and_runs_give_the_same_bytes(rooms: Path, tmp_path: Path, small: None) -> None:
    recipe = rooms / "recipe.yml"
    extract(recipe, tmp_path / "whole", device="cpu")
    for index in (3, 1, 2):
        told = extract(recipe, tmp_path / "parts", part=Part(index, 3), device="cpu")
    assert all(one.lacking == 0 for one in told)
    extract(recipe, tmp_path / "runs", experts=["expert"], device="cpu")
    extract(recipe, tmp_path / "runs", experts=["pivot"], device="cpu")
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts") == contents(tmp_path / "runs")


def test_a_damaged_shard_is_made_again_and_nothing_else(rooms: Path, tmp_path: Path, small: None) -> None:
    recipe = rooms / "recipe.yml"
    extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
    before = contents(tmp_path / "d")
    path = tmp_path / "d" / "expert" / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 64
    path.write_bytes(raw)
    notes: list[str] = []
    told = extract(recipe, tmp_path / "d", experts=["expert"], device="cpu", say=notes.append)[0]
    assert (told.made, told.repaired) == (1, 1) and "1 shards were damaged, such as 1" in notes[0]
    assert contents(tmp_path / "d") == before
    assert extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")[0].made == 0


class Killed(BaseException):
    """What no handler of the code under test may catch."""


@pytest.mark.parametrize("batch", [0, 1, 3, 4])
def test_killed_at_a_batch_and_gone_on_with(
    rooms: Path, tmp_path: Path, small: None, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = rooms / "recipe.yml"
    extract(recipe, tmp_path / "whole", experts=["expert"], device="cpu")
    real, left = extraction.batch_distributions, iter(range(batch + 1))

    def dying(*given: Any) -> Any:
        if next(left) == batch:
            raise Killed
        return real(*given)

    monkeypatch.setattr(extraction, "batch_distributions", dying)
    with pytest.raises(Killed):
        extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
    monkeypatch.undo()
    monkeypatch.setattr(plan, "BATCH_TOKENS", 256)
    monkeypatch.setattr(plan, "SHARD_POSITIONS", 90)
    extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_the_head_sees_response_positions_only(rooms: Path) -> None:
    who, wanted = planned(rooms / "recipe.yml", "expert")
    model, seen = who.load("cpu", "float32"), []
    model.get_output_embeddings().register_forward_hook(lambda module, given, out: seen.append(out.shape))
    with picked_positions(model) as picked:
        extraction.batch_distributions(picked, model, "expert", [0, 1], wanted, None)
    assert seen == [(1, wanted.readings[0].count + wanted.readings[1].count, model.config.vocab_size)]
    # The hook is gone.
    assert model(input_ids=torch.zeros(1, 5, dtype=torch.long)).logits.shape[:2] == (1, 5)


def test_a_batch_says_what_each_chat_alone_says(rooms: Path) -> None:
    """Padding on the right is never looked at."""
    who, wanted = planned(rooms / "recipe.yml", "pivot")
    model = who.load("cpu", "float32")
    rows = [0, 6, 3]  # of different lengths
    with picked_positions(model) as picked:
        whole = extraction.batch_distributions(picked, model, "pivot", rows, wanted, None)
        alone = [extraction.batch_distributions(picked, model, "pivot", [row], wanted, None) for row in rows]
    np.testing.assert_array_equal(whole["ids"], np.concatenate([one["ids"] for one in alone]))
    np.testing.assert_allclose(whole["nats"], np.concatenate([one["nats"] for one in alone]), rtol=1e-5)


# -------------------------------------------------------------- what cannot be


def spoiled(rooms: Path, tmp_path: Path, row: dict[str, Any], at: int = 3) -> Path:
    """The rooms with one row replaced."""
    lines = (rooms / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    lines[at] = json.dumps(row)
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return write_recipe(rooms, f"{tmp_path.name}.yml", data=str(tmp_path / "bad.jsonl"))


def chat(answer: str, asked: str = "What?") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (chat("  \n "), r"bad\.jsonl:4: the assistant's message is empty"),
        (chat("word " * 200), r"bad\.jsonl:4: pivot reads [\d,]+ tokens, and training\.max_length is 256"),
        ({"text": "plain"}, r"bad\.jsonl:4: holds 'text'; fusing needs chats"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"bad\.jsonl:4: 'messages' must be a list of at least two"),
    ],
)
def test_rows_that_cannot_be_learned_from(rooms: Path, tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        extract(spoiled(rooms, tmp_path, row), tmp_path / "d", device="cpu")
    assert not (tmp_path / "d").exists()


def test_chats_too_long_are_left_out_where_the_recipe_says_so(rooms: Path, tmp_path: Path) -> None:
    spoiled(rooms, tmp_path, chat("word " * 200))
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", data=str(tmp_path / "bad.jsonl"), fusion={"too_long": "skip"})
    notes: list[str] = []
    told = extract(recipe, tmp_path / "d", experts=["pivot"], device="cpu", say=notes.append)[0]
    assert (told.chats, told.skipped) == (23, 1) and "1 chats are too long" in notes[0]


def test_a_template_that_raises(rooms: Path, tmp_path: Path) -> None:
    shutil.copytree(rooms / "expert", tmp_path / "expert")
    template = "{% if messages|length > 1 %}{{ raise_exception('I take one message') }}{% endif %}{{ messages[0].content }}"
    (tmp_path / "expert" / "chat_template.jinja").write_text(template)
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", experts=[{"source_model": str(tmp_path / "expert")}])
    with pytest.raises(UserError, match=r"chats\.jsonl:1: expert: its chat template refuses this chat: I take one message"):
        extract(recipe, tmp_path / "d", device="cpu")


def test_a_template_that_hides_the_answer(rooms: Path, tmp_path: Path) -> None:
    shutil.copytree(rooms / "expert", tmp_path / "expert")
    (tmp_path / "expert" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {% endfor %}")
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", experts=[{"source_model": str(tmp_path / "expert")}])
    with pytest.raises(UserError, match="does not print the assistant's message as it is"):
        extract(recipe, tmp_path / "d", device="cpu")


def test_no_template(rooms: Path, tmp_path: Path) -> None:
    shutil.copytree(rooms / "expert", tmp_path / "expert")
    (tmp_path / "expert" / "chat_template.jinja").unlink()
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", experts=[{"source_model": str(tmp_path / "expert")}])
    with pytest.raises(UserError, match="expert: has no chat template"):
        extract(recipe, tmp_path / "d", device="cpu")


def test_logits_that_are_no_numbers(rooms: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(rooms / "expert", tmp_path / "expert")
    weights = load_file(tmp_path / "expert" / "model.safetensors")
    weights["lm_head.weight"][40] = float("nan")
    save_file(weights, tmp_path / "expert" / "model.safetensors", {"format": "pt"})
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", experts=[{"source_model": str(tmp_path / "expert")}])
    with pytest.raises(ModistError, match=r"chats\.jsonl:\d+: expert gives NaN or infinite logits") as told:
        extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
    assert told.value.exit_status == 1


def test_distributions_of_another_vocabulary_or_model_are_refused(rooms: Path, tmp_path: Path) -> None:
    recipe = rooms / "recipe.yml"
    extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
    before = contents(tmp_path / "d")
    shutil.copytree(rooms / "pivot", tmp_path / "expert")  # another tokenizer under the same name
    other = write_recipe(rooms, f"{tmp_path.name}.yml", experts=[{"source_model": str(tmp_path / "expert")}])
    with pytest.raises(UserError, match=r"holds something else \(tokenizer .* there, .* here; vocabulary \d+ there, \d+ here"):
        extract(other, tmp_path / "d", experts=["expert"], device="cpu")
    shutil.rmtree(tmp_path / "expert")
    shutil.copytree(rooms / "expert", tmp_path / "expert")
    tiny_model(
        tmp_path / "expert",
        77,
        json.loads((rooms / "expert" / "config.json").read_text())["vocab_size"],
        family="llama",
        hidden=48,
        layers=1,
    )
    with pytest.raises(UserError, match=r"holds something else \(weights "):
        extract(other, tmp_path / "d", experts=["expert"], device="cpu")
    assert contents(tmp_path / "d") == before


def test_fusing_what_is_not_whole(rooms: Path, tmp_path: Path, small: None) -> None:
    extract(rooms / "recipe.yml", tmp_path / "d", experts=["expert"], part=Part(1, 2), device="cpu")
    who, wanted = planned(rooms / "recipe.yml", "expert")
    with pytest.raises(StoreError, match="shards are not there, such as 1"):
        Distributions(tmp_path / "d" / who.slug, wanted.plan)


def test_names_of_experts(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--expert expret: there is none of this name; did you mean 'expert'\? \(pivot, expert\)"
    ):
        extract(rooms / "recipe.yml", tmp_path / "d", experts=["expret"], device="cpu")


def test_more_chats_are_other_distributions(rooms: Path, tmp_path: Path) -> None:
    extract(rooms / "recipe.yml", tmp_path / "d", experts=["expert"], device="cpu")
    write_chats(tmp_path / "more.jsonl", 25)
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", data=str(tmp_path / "more.jsonl"))
    with pytest.raises(UserError, match="another data"):
        extract(recipe, tmp_path / "d", experts=["expert"], device="cpu")
