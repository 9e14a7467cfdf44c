"""`modist recommend`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mixtures import GENERAL, MATH, ROOT, Modist

QUESTIONS = ROOT / "examples" / "experts" / "questions"


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Modist:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path / "cache"))
    return Modist(monkeypatch, capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = (QUESTIONS / "answers.dev.jsonl").read_text(encoding="utf-8").splitlines()[:16]
    file = tmp_path / "some chats.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_the_report_the_files_and_the_next_commands(modist: Modist, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "advice"
    status, text, err = modist("recommend", GENERAL, MATH, "--data", data, "--out", out)
    assert status == 0, err
    lines = text.splitlines()
    place = lines.index("next:")
    assert place <= 12 and lines[0].startswith("mix: general 0.5, math 0.5 --gate bayes")
    assert sorted(path.name for path in out.iterdir()) == ["merge.yml", "mix.yml", "recommendation.json"]

    # The next commands, as they stand there.
    chat, search = (shlex.split(line) for line in lines[place + 1 :])
    status, said, err = modist(*chat[1:], stdin=b"How long is honey?\n")
    assert status == 0 and said.strip(), err
    assert search[1:3] == ["search", "mixture"] and str(data) in search

    # The merge beside it is one that `modist merge` takes.
    status, _, err = modist("merge", out / "merge.yml", "--dry-run")
    assert status == 0, err

    found = modist.json("recommend", GENERAL, MATH, "--data", data, "--out", out)
    kept = json.loads((out / "recommendation.json").read_text())
    assert (found["verdict"], found["weights"]) == (kept["verdict"], kept["weights"]) == ("mix", kept["weights"])
    assert found["report"][: place - 2] == lines[: place - 2]
    assert set(found["likelihood"]["scores"]) == {
        "general", "math", "the mixture", "linear", "slerp", "task_arithmetic", "ties"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([GENERAL, "--data", "DATA"], "name at least two"),
        ([GENERAL, MATH], "--data FILE"),
        ([GENERAL, GENERAL, "--data", "DATA"], "is named twice"),
        ([GENERAL, MATH, "--data", "gone.jsonl"], "gone.jsonl: there is no such file"),
        ([GENERAL, ROOT / "examples" / "experts" / "math-chars", "--data", "DATA"], "nothing but fusing can be recommended"),
        ([GENERAL, "no/such/folder", "--data", "DATA"], "no such folder"),
        ([GENERAL, MATH, "--data", "DATA", "-b", QUESTIONS / "math.yml"], "is a test set"),
        ([GENERAL, MATH, "--data", "DATA", "--base", "no/such/base"], "no such folder"),
        ([GENERAL, MATH, "--data", "DATA", "--dtype", "float31"], "float31"),
    ],
)
def test_what_it_refuses_in_one_line(modist: Modist, data: Path, words: list[Any], said: str) -> None:
    error = modist.refused("recommend", *(data if word == "DATA" else word for word in words))
    assert said in error


def test_data_that_an_expert_cannot_read(modist: Modist, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    row = {"messages": [{"role": "user", "content": "hm"}, {"role": "assistant", "content": ""}]}
    file.write_text(2 * (json.dumps(row) + "\n"))
    assert "d.jsonl:1: nothing to score" in modist.refused("recommend", GENERAL, MATH, "--data", file)
    file.write_text(json.dumps({"text": "a b c"}) + "\nnot json\n")
    assert "d.jsonl:2: not JSON" in modist.refused("recommend", GENERAL, MATH, "--data", file)


def test_nothing_is_written_over(modist: Modist, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    error = modist.refused("recommend", GENERAL, MATH, "--data", data, "--out", folder)
    assert "'letter.txt', which modist recommend did not write" in error
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def test_help_says_the_rule(modist: Modist) -> None:
    status, text, _ = modist("recommend", "--help")
    assert status == 0
    assert "by more than sampling error" in " ".join(text.split())
