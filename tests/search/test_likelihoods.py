"""The cache of scores: the numbers of `modist score`, kept on disk, made again only where something changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import ModistError, UserError
from modist.mixture import Experts, load_experts
from modist.mixture.score import score
from modist.recipe import parse_recipe
from modist.search import likelihoods
from modist.search.likelihoods import Likelihoods, Passage, model_digest, read_passages, score_passages
from tests.mixture.tiny_experts import saved, tiny

torch.set_num_threads(1)
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
TEXTS = ["word10 word11 word12", "word13 word14 word15 word16 word17 word18", "word19 word20 word21 word22"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("experts")
    return [saved(root / f"e{i}", tiny(i, vocab=size), size=size) for i, size in enumerate((160, 160, 160, 152))]


def load(folders: list[Path]) -> Experts:
    weights = [1 / len(folders)] * len(folders)
    recipe = json.dumps({"experts": [{"source_model": str(folder)} for folder in folders], "weights": weights})
    experts = load_experts(parse_recipe(recipe), dtype="float32", device="cpu")
    for place, tokenizer in enumerate(experts.tokenizers):
        tokenizer.chat_template = TEMPLATE + " user" * place  # each its own reading of the same chat
    return experts


@pytest.fixture
def pair(folders: list[Path]) -> Experts:
    return load(folders[:2])


def passages(texts: list[Any] = TEXTS) -> list[Passage]:
    return [Passage(f"data.jsonl:{number}", text) for number, text in enumerate(texts, 1)]


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def shards(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npz"))


def test_the_numbers_are_those_of_score(pair: Experts, tmp_path: Path) -> None:
    rows = [*TEXTS, chat("word30 word31", "word32 word33 word34"), chat("word40", "word41")]
    found = score_passages(pair, passages(rows), tmp_path)
    assert found.log_probs.dtype == np.float32 and found.log_masses is None
    assert found.lengths.tolist() == [2, 5, 3, 3, 1]
    assert found.scored == (5, 5) and found.tokens == 14
    ends = np.cumsum(found.lengths)
    for row, end, length in zip(rows, ends, found.lengths, strict=True):
        expected = score(pair, row)
        assert expected.tokens == length
        assert -found.log_probs[end - length : end].mean(0) == pytest.approx(expected.experts, abs=1e-5)


def test_masked_ids_come_with_their_masses(folders: list[Path], tmp_path: Path) -> None:
    experts = load([folders[0], folders[3]])
    found = score_passages(experts, passages(), tmp_path)
    assert found.log_masses is not None
    joint = np.exp(found.log_probs.astype(float)).mean(1) / np.exp(found.log_masses.astype(float)).mean(1)
    expected = sum(score(experts, text).log_likelihood for text in TEXTS)
    assert np.log(joint).sum() == pytest.approx(expected, abs=1e-4)
    # The same expert beside another whole one has nothing masked, so its masses are others.
    assert score_passages(load(folders[:2]), passages(), tmp_path).scored[0] == 3


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("scored although it is in the cache")


def same(one: Likelihoods, two: Likelihoods) -> bool:
    return np.array_equal(one.log_probs, two.log_probs) and np.array_equal(one.lengths, two.lengths)


def test_a_second_run_runs_no_model(pair: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score_passages(pair, passages(), tmp_path)
    monkeypatch.setattr("modist.mixture.score.expert_scores", never)
    second = score_passages(pair, passages(), tmp_path)
    assert same(first, second) and second.scored == (0, 0)


def test_an_expert_that_is_added_is_the_only_one_scored(folders: list[Path], tmp_path: Path) -> None:
    score_passages(load(folders[:2]), passages(), tmp_path)
    found = score_passages(load([folders[2], folders[1], folders[0]]), passages(), tmp_path)
    assert found.scored == (3, 0, 0)
    assert same(found, score_passages(load([folders[2], folders[1], folders[0]]), passages(), tmp_path / "fresh"))


def test_rows_that_are_added_or_changed_are_scored_and_no_others(
    pair: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihoods, "BLOCK_TOKENS", 1)  # a file a row
    score_passages(pair, passages(), tmp_path)
    assert len(shards(tmp_path)) == 6
    assert score_passages(pair, passages([*TEXTS, "word50 word51"]), tmp_path).scored == (1, 1)
    assert score_passages(pair, passages([TEXTS[0], "word60 word61", TEXTS[2]]), tmp_path).scored == (1, 1)
    assert score_passages(pair, passages(TEXTS[::-1]), tmp_path).scored == (0, 0)


def test_blocks_end_by_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihoods, "BLOCK_TOKENS", 10)
    found = list(likelihoods._blocks(np.array([4, 4, 4, 30, 1, 1])))
    assert found == [slice(0, 3), slice(3, 4), slice(4, 6)]


def test_another_template_is_other_ids(pair: Experts, tmp_path: Path) -> None:
    rows = passages([chat("word30 word31", "word32 word33 word34")])
    score_passages(pair, rows, tmp_path)
    pair.tokenizers[1].chat_template = TEMPLATE + " word99"
    assert score_passages(pair, rows, tmp_path).scored == (0, 1)


def test_a_killed_run_goes_on(pair: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihoods, "BLOCK_TOKENS", 1)

    class Killed(BaseException):
        pass

    def kill(share: float) -> None:
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        score_passages(pair, passages(), tmp_path, kill)
    shares: list[float] = []
    found = score_passages(pair, passages(), tmp_path, shares.append)
    assert 0 < sum(found.scored) < 6 and len(shares) == sum(found.scored) and shares[-1] == 1
    assert same(found, score_passages(pair, passages(), tmp_path / "fresh"))


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "other", "nan", "not a zip", "without scores"])
def test_a_damaged_file_is_made_again(pair: Experts, tmp_path: Path, harm: str) -> None:
    first = score_passages(pair, passages(), tmp_path)
    victim = shards(tmp_path)[0]
    data = bytearray(victim.read_bytes())
    scores = np.load(victim)["scores"]
    if harm == "cut":
        victim.write_bytes(data[: len(data) // 2])
    elif harm == "empty":
        victim.write_bytes(b"")
    elif harm == "flipped":
        data[len(data) // 2] ^= 4
        victim.write_bytes(data)
    elif harm == "other":
        np.savez(victim, scores=scores[:, 1:])
    elif harm == "nan":
        np.savez(victim, scores=scores * np.nan)
    elif harm == "not a zip":
        victim.write_bytes(b"nonsense" * 100)
    else:
        np.savez(victim, other=scores)
    found = score_passages(pair, passages(), tmp_path)
    assert sum(found.scored) == 3 and same(found, first)
    assert score_passages(pair, passages(), tmp_path).scored == (0, 0)


def test_a_file_is_there_whole_or_not_at_all(pair: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Path]] = []

    def save(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        seen.append(shards(tmp_path))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", save)
    with pytest.raises(UserError, match="the cache cannot be written"):
        score_passages(pair, passages(), tmp_path)
    assert seen == [[]] and [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_digest_changes_with_the_numbers_alone(folders: list[Path], tmp_path: Path) -> None:
    model, folder = tiny(0), shutil.copytree(folders[0], tmp_path / "copy")
    found = model_digest(model, folder)
    assert model_digest(model, folder) == found == model_digest(tiny(5), folder)  # by the files
    assert model_digest(tiny(0), None) == model_digest(model, None) != model_digest(tiny(1), None)
    assert model_digest(model.to(torch.bfloat16), folder) != found
    model, file = model.float(), folder / "model.safetensors"
    data, times = bytearray(file.read_bytes()), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    data[-3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=times)
    assert model_digest(model, folder) != found
    data[-3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=times)
    assert model_digest(model, folder) == found
    os.utime(file, ns=(times[0], times[1] + 10**9))
    assert model_digest(model, folder) != found
    one = tiny(0)
    with torch.no_grad():
        one.lm_head.weight[3, 3] += 1e-3
    assert model_digest(one, None) != model_digest(tiny(0), None)


def test_what_cannot_be_scored_is_said_with_its_line(pair: Experts, folders: list[Path], tmp_path: Path) -> None:
    for rows, words in (
        ([], "no rows"),
        ([TEXTS[0], "word10"], "data.jsonl:2: nothing to score"),
        ([chat("word1", "")], "data.jsonl:1: nothing to score"),
    ):
        with pytest.raises(UserError, match=words):
            score_passages(pair, passages(rows), tmp_path)
    with pytest.raises(UserError, match="no expert has a tokenizer"):
        score_passages(dataclasses.replace(pair, tokenizer=None), passages(), tmp_path)
    short = load([folders[0], folders[3]])
    last = short.tokenizer.convert_ids_to_tokens(155)
    with pytest.raises(UserError, match=r"data.jsonl:2: e3: cannot read id 155 in the middle"):
        score_passages(short, passages([TEXTS[0], f"word10 {last} word11"]), tmp_path)
    short.tokenizers[1].chat_template = short.tokenizers[0].chat_template = None
    with pytest.raises(UserError, match=r"data.jsonl:1: e0: has no chat template"):
        score_passages(short, passages([chat("word1", "word2")]), tmp_path)


def test_a_model_that_gives_nan_is_named(folders: list[Path], tmp_path: Path) -> None:
    experts = load(folders[:2])
    with torch.no_grad():
        experts.models[1].lm_head.weight[:] = torch.nan
    with pytest.raises(ModistError, match=r"data.jsonl:1: e1 gives NaN"):
        score_passages(experts, passages(), tmp_path)
    assert all("e0" in str(path) for path in shards(tmp_path))


def test_a_token_an_expert_does_not_have_is_impossible_to_it(folders: list[Path], tmp_path: Path) -> None:
    experts = load([folders[0], folders[3]])
    last = experts.tokenizer.convert_ids_to_tokens(155)
    found = score_passages(experts, passages([f"word10 word11 {last}"]), tmp_path)
    assert np.isneginf(found.log_probs).tolist() == [[False, False], [False, True]]


# -------------------------------------------------------------- the data file


def test_rows_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    messages = chat("a", "b")
    rows = [{"text": "one\u2028two"}, {"messages": messages, "domain": "maths"}]
    file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8-sig")
    assert read_passages(file) == [Passage(f"{file}:1", "one\u2028two"), Passage(f"{file}:3", messages, "maths")]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "holds no rows, so there are no tokens"),
        (b" \n\n", "holds no rows"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"text": "a b"}\n{"text": ', ":2: not JSON"),
        (b"[1]", ":1: a row is an object"),
        (b'{"domain": "x"}', "either 'text' or 'messages'"),
        (b'{"text": "a", "messages": []}', "either 'text' or 'messages'"),
        (b'{"text": 3}', "'text' must be a string, not 3"),
        (b'{"text": "a", "domain": 3}', "'domain' must be a string, not 3"),
        (b'{"messages": "hello"}', "a list of at least two"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "a list of at least two"),
        (b'{"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]}', r"messages\[0\] must have"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "a"}]}', "not the user's"),
        (b'{"text": "\\ud800"}', "half a character"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_passages(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_passages(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_passages(tmp_path)
