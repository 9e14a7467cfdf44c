"""`modist grade`: rows in, the same rows with both graders' words out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mixtures import Modist


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [
    {"gold": "18", "answer": "So she makes $\\boxed{18}$.", "id": "a", "other": [1, {"é": None}]},
    {"gold": "204", "answer": "2.04"},
    {"gold": "84, 69", "answer": "\\boxed{69,84}"},
    {"gold": "B", "answer": "The answer is a function, so (B)", "kind": "choice", "choices": ["x", "y"]},
    {"gold": "valid", "answer": "So the answer is invalid.", "kind": "text"},
    {"gold": 7, "answer": "A=7 or 8", "pattern": "A=(\\d)"},
    {"gold": "x+1", "answer": "1+x"},
    {"gold": "5", "answer": "word " * 20_000},
]


def test_rows_come_back_in_order_with_four_more_keys(modist: Modist, tmp_path: Path) -> None:
    status, out, err = modist("grade", write(tmp_path / "a.jsonl", *ROWS))
    assert status == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    added = ("equal", "equal_compatible", "extracted", "extracted_compatible")
    assert [{key: value for key, value in row.items() if key not in (*added, "note")} for row in found] == ROWS
    assert all(set(added) < set(row) for row in found)
    assert [row["equal"] for row in found] == [True, False, True, True, False, True, True, False]
    assert [row["equal_compatible"] for row in found[:3]] == [True, True, False]
    assert [row["extracted"] for row in found[:4]] == ["18", "2.04", "69,84", "B"]
    assert ["note" in row for row in found] == [False] * 7 + [True]


def test_totals_and_disagreements_on_stderr(modist: Modist, tmp_path: Path) -> None:
    _, _, err = modist("grade", write(tmp_path / "a.jsonl", *ROWS[:3], "", ROWS[6]))
    lines = err.splitlines()
    assert lines[0].split() == ["rows", "4"]
    assert lines[1].split() == ["equal", "3", "(75.0%)"]
    assert lines[2].split() == ["equal_compatible", "3", "(75.0%)"]
    assert lines[3].split() == ["disagreements", "2"]
    assert lines[4:] == [
        "  line 2: gold 204, answer 2.04: not equal, compatible equal",
        "  line 3: gold 84, 69, answer 69,84: equal, compatible not equal",
    ]


def test_many_disagreements_are_counted_and_some_shown(modist: Modist, tmp_path: Path) -> None:
    _, _, err = modist("grade", write(tmp_path / "a.jsonl", *[ROWS[1]] * 700))
    assert "disagreements     700" in err
    assert err.count("  line ") == 20
    assert "  and 680 more" in err


def test_stdin_kind_and_a_byte_order_mark(modist: Modist) -> None:
    row = {"gold": "C", "answer": "I say (C)"}
    status, out, err = modist("grade", "-", "--kind", "choice", stdin=b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\n")
    assert status == 0, err
    assert json.loads(out)["extracted"] == "C"


def test_what_an_earlier_run_added_is_graded_anew(modist: Modist, tmp_path: Path) -> None:
    row = {"gold": "1", "answer": "2", "equal": True, "note": "old", "extracted": "9"}
    _, out, _ = modist("grade", write(tmp_path / "a.jsonl", row))
    assert json.loads(out) == {
        "gold": "1", "answer": "2", "equal": False, "equal_compatible": False, "extracted": "2", "extracted_compatible": "2"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ":2: a row is an object with 'gold' and 'answer', not list"),
        ({"gold": "1"}, ":2: there is no 'answer'"),
        ({"gold": "1", "answr": "1"}, ":2: there is no 'answer'; did you mean 'answr'?"),
        ({"gold": None, "answer": "1"}, ":2: 'gold' must be a string, not NoneType"),
        ({"gold": "1", "answer": ["1"]}, ":2: 'answer' must be a string, not list"),
        (
            {"gold": "1", "answer": "1", "kind": "maths"},
            ":2: 'kind': there is no kind 'maths'; one of math, choice, text; did you",
        ),
        ({"gold": "1", "answer": "1", "kind": "code"}, ":2: 'kind': code is graded by running it"),
        ({"gold": "A", "answer": "1", "choices": "AB"}, ":2: 'choices' must be a list of strings"),
        ({"gold": "A", "answer": "1", "choices": list("abcdefghijk")}, ":2: 11 choices: at most 10"),
        ({"gold": "A", "answer": "1", "pattern": "("}, ":2: 'pattern': missing )"),
        ({"gold": "A", "answer": "1", "pattern": "a"}, ":2: 'pattern': 'a' has no group"),
    ],
)
def test_a_bad_line_stops_it_before_anything_is_printed(modist: Modist, tmp_path: Path, row: Any, words: str) -> None:
    file = write(tmp_path / "a.jsonl", ROWS[0], row)
    assert f"{file}{words}" in modist.refused("grade", file)


def test_bad_files_and_options(modist: Modist, tmp_path: Path) -> None:
    assert "there is no such file" in modist.refused("grade", tmp_path / "no.jsonl")
    assert "this is a folder" in modist.refused("grade", tmp_path)
    assert "holds no rows" in modist.refused("grade", write(tmp_path / "e.jsonl", "", ""))
    assert "stdin: holds no rows" in modist.refused("grade", "-")
    file = write(tmp_path / "a.jsonl", ROWS[0])
    assert "--kind: there is no kind 'txt'" in modist.refused("grade", file, "--kind", "txt")
    assert "time limit of 0 seconds" in modist.refused("grade", file, "--seconds", "0")
    (tmp_path / "b.jsonl").write_bytes(b'{"gold": "\xff"}\n')
    assert "b.jsonl:1: not UTF-8 text (byte 10)" in modist.refused("grade", tmp_path / "b.jsonl")
