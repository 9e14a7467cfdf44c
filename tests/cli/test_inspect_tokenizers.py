"""`modist inspect --tokenizers`."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.cli.inspect_tokenizers import side_lines
from modist.vocabulary.coverage import Coverage, Stretch
from tests.cli.mixtures import Modist
from tests.vocabulary.small_tokenizers import SHARED, byte_level, metaspace


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path / "cache"))
    for name, tokenizer in (("bytes", byte_level()), ("pieces", metaspace())):
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    return [str(tmp_path / "bytes"), str(tmp_path / "pieces")]


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def test_json_counts_add_up(modist: Modist, pair: list[str], tmp_path: Path) -> None:
    told = modist.json("inspect", "--tokenizers", *pair, "--text", "the dog é")
    assert told["exact"] + told["role"] + told["edit"] == told["aligned"]
    assert told["aligned"] + told["unaligned"] == told["source_tokens"] == 400
    assert sum(told["distances"].values()) == told["edit"]
    assert "".join("".join(stretch["source"]) for stretch in told["stretches"]).startswith("the dog")
    assert told["text"] == "the dog é" and sum(told["positions"].values()) >= 3
    assert len(list((tmp_path / "cache" / "alignment").iterdir())) == 1
    assert modist.json("inspect", "--tokenizers", *pair, "--text", "the dog é") == told


def test_people_see_counts_worst_and_a_sentence(modist: Modist, pair: list[str]) -> None:
    status, told, err = modist("inspect", "--tokenizers", *pair)
    assert (status, err) == (0, "")
    assert "bytes in the tokens of pieces" in told and "worst matches" in told and "by edit distance" in told
    lines = told.splitlines()
    above = next(place for place, line in enumerate(lines) if line.startswith("bytes ") and "|" in line)
    assert lines[above + 1].startswith("pieces") and lines[above].count("|") == lines[above + 1].count("|")


def test_a_tokenizer_and_itself(modist: Modist, pair: list[str]) -> None:
    told = modist.json("inspect", "--tokenizers", pair[0], pair[0] + "/tokenizer.json")
    assert told["exact"] == told["source_tokens"] == 400 and told["worst"] == [] and told["unaligned"] == 0
    assert told["source"] != told["target"]
    assert set(told["positions"]) >= {"same"} and told["positions"]["same"] == sum(told["positions"].values())


def test_stretches_stand_in_columns() -> None:
    stretches = (Stretch((" the",), ("t", "he")), Stretch(("你好",), ("你", "好")), Stretch(("x",), ("x",)))
    found = Coverage("a", "bb", "", "", 0, 0, 0, 0, 0, 0, 0, {}, (), (), "", stretches)
    assert side_lines(found, 80) == ["a  | ␣the | 你好  | x ", "bb | t he | 你 好 | x ", ""]
    assert side_lines(found, 20) == ["a  | ␣the | 你好  ", "bb | t he | 你 好 ", "", "a  | x ", "bb | x ", ""]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ONE"], "--tokenizers compares two: 1 named"),
        (["ONE", "TWO", "ONE"], "--tokenizers compares two: 3 named"),
        (["ONE", "./nowhere"], "./nowhere: there is no such folder"),
        (["ONE", "TWO", "--base", "ONE"], "goes without --base"),
        (["ONE", "TWO", "--plot", "x.png"], "goes without --plot"),
        (["ONE", "EMPTY"], "there is no tokenizer.json here"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    modist: Modist, pair: list[str], tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    meant = {"ONE": pair[0], "TWO": pair[1], "EMPTY": str(tmp_path / "empty")}
    line = modist.refused("inspect", "--tokenizers", *(meant.get(word, word) for word in words))
    assert told in line and line.count("\n") == 1


def test_text_alone_is_refused(modist: Modist, pair: list[str]) -> None:
    assert "--text is for --tokenizers" in modist.refused("inspect", pair[0], "--text", "a")


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")
def test_models_with_other_tokenizers(modist: Modist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path))
    folders = [SHARED / "models" / name for name in ("stories260K", "babyllama-tok105")]
    told = modist.json("inspect", "--tokenizers", *folders)
    assert (told["exact"], told["source_tokens"], told["target_tokens"]) == (193, 512, 105)
