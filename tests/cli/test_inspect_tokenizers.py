"""`modist inspect --tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modist.cli.app import app
from modist.cli.inspect_tokenizers import side_lines
from modist.errors import UserError
from modist.vocabulary.coverage import Coverage, Stretch
from tests.vocabulary.small_tokenizers import SHARED, byte_level, metaspace


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path / "cache"))
    for name, tokenizer in (("bytes", byte_level()), ("pieces", metaspace())):
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    return [str(tmp_path / "bytes"), str(tmp_path / "pieces")]


def run(*args: str) -> str:
    found = CliRunner().invoke(app, ["inspect", "--tokenizers", *args])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.stdout


def test_json_counts_add_up(pair: list[str], tmp_path: Path) -> None:
    told = json.loads(run(*pair, "--json", "--text", "the dog é"))
    assert told["exact"] + told["role"] + told["edit"] == told["aligned"]
    assert told["aligned"] + told["unaligned"] == told["source_tokens"] == 400
    assert sum(told["distances"].values()) == told["edit"]
    assert "".join("".join(stretch["source"]) for stretch in told["stretches"]).startswith("the dog")
    assert told["text"] == "the dog é" and sum(told["positions"].values()) >= 3
    assert len(list((tmp_path / "cache" / "alignment").iterdir())) == 1
    assert json.loads(run(*pair, "--json", "--text", "the dog é")) == told


def test_people_see_counts_worst_and_a_sentence(pair: list[str]) -> None:
    told = run(*pair)
    assert "bytes in the tokens of pieces" in told and "worst matches" in told and "by edit distance" in told
    lines = told.splitlines()
    above = next(place for place, line in enumerate(lines) if line.startswith("bytes ") and "|" in line)
    assert lines[above + 1].startswith("pieces") and lines[above].count("|") == lines[above + 1].count("|")


def test_a_tokenizer_and_itself(pair: list[str]) -> None:
    told = json.loads(run(pair[0], pair[0] + "/tokenizer.json", "--json"))
    assert told["exact"] == told["source_tokens"] == 400 and told["worst"] == [] and told["unaligned"] == 0
    assert told["source"] != told["target"]
    assert set(told["positions"]) >= {"same"} and told["positions"]["same"] == sum(told["positions"].values())


def test_stretches_stand_in_columns() -> None:
    stretches = (Stretch((" the",), ("t", "he")), Stretch(("你好",), ("你", "好")), Stretch(("x",), ("x",)))
    found = Coverage("a", "bb", "", "", 0, 0, 0, 0, 0, 0, 0, {}, (), (), "", stretches)
    assert side_lines(found, 80) == ["a  | ␣the | 你好  | x ", "bb | t he | 你 好 | x ", ""]
    assert side_lines(found, 22) == ["a  | ␣the | 你好  ", "bb | t he | 你 好 ", "", "a  | x ", "bb | x ", ""]


def test_what_cannot_be_is_said(pair: list[str]) -> None:
    with pytest.raises(UserError, match="--tokenizers compares two: 1 named"):
        run(pair[0])
    with pytest.raises(UserError, match="compares two: 3 named"):
        run(*pair, pair[0])
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        run(pair[0], "./nowhere")
    with pytest.raises(UserError, match="goes without --base"):
        run(*pair, "--base", pair[0])
    found = CliRunner().invoke(app, ["inspect", pair[0], "--text", "a"])
    assert isinstance(found.exception, UserError) and "--text is for --tokenizers" in str(found.exception)


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")
def test_folders_with_a_tokenizer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path))
    told = json.loads(run(*(str(SHARED / "models" / name) for name in ("stories260K", "babyllama-tok105")), "--json"))
    assert (told["exact"], told["source_tokens"], told["target_tokens"]) == (193, 512, 105)
