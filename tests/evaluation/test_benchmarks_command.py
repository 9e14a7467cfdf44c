"""`modist benchmarks` and `modist benchmarks download`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modist.cli.benchmarks import benchmarks_app
from modist.errors import HubError, ModistError, UserError
from modist.evaluation.benchmarks import known
from tests.evaluation.test_download import BODIES, Host, host

__all__ = ["host"]  # a fixture
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def benchmarks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("MODIST_DATA", str(tmp_path / "default"))

    def run(*words: Any) -> str:
        benchmarks_app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    return run


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not beside the repository (../shared/data)")
def test_all_rows_are_there(benchmarks: Any) -> None:
    rows = json.loads(benchmarks("--data", DATA, "--json"))
    assert [row["name"] for row in rows] == list(known())
    assert all(row["rows"] == row["expected"] and row["problem"] is None for row in rows)
    assert sum(row["rows"] for row in rows[:12]) == 19_541
    shown = benchmarks("--data", DATA)
    assert "college_math" in shown and "2,818" in shown and "QwenLM/Qwen2.5-Math" in shown and "!" not in shown
    # The folder of the twelve alone will do too.
    rows = json.loads(benchmarks("--data", DATA / "math", "--json"))
    assert [row["rows"] for row in rows[:12]] == [row["expected"] for row in rows[:12]]
    assert {row["name"] for row in rows if row["rows"] is None} == {"bbh", "humaneval", "mbpp"}


def test_none_is_there(benchmarks: Any) -> None:
    rows = json.loads(benchmarks("--json"))
    assert {row["rows"] for row in rows} == {None}
    assert set(rows[0]) >= {"name", "rows", "expected", "source"}
    shown = benchmarks()
    assert "modist benchmarks download" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.strip().startswith("gsm8k ")] == ["-"]


def test_too_few_and_damaged_are_flagged(benchmarks: Any, tmp_path: Path) -> None:
    for name, text in (
        ("amc23", BODIES["amc23"].decode() + "\n"),
        ("aime24", "{}"),
        ("gsm8k", '{"question": 1, "answer": "#### 1"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(text)
    rows = {row["name"]: row for row in json.loads(benchmarks("--data", tmp_path, "--json"))}
    assert (rows["amc23"]["rows"], rows["amc23"]["problem"]) == (40, None)
    assert (rows["gsm8k"]["rows"], rows["gsm8k"]["problem"]) == (1, "1 rows where 1,319 are expected")
    assert rows["aime24"]["rows"] is None
    assert "test.jsonl:1: no key 'question'" in rows["aime24"]["problem"]
    shown = benchmarks("--data", tmp_path)
    assert "! gsm8k: 1 rows where 1,319 are expected" in shown
    assert "! aime24: " in shown


def test_a_folder_that_is_not_there(benchmarks: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        benchmarks("--data", tmp_path / "x")


def test_download(benchmarks: Any, tmp_path: Path, host: Host) -> None:
    out = benchmarks("download", "amc23", "--data", tmp_path / "d", "--mirror", host.url)
    assert out == f"amc23: fetched into {tmp_path}/d/amc23/test.jsonl\n"
    # --data before the command, and the default folder.
    assert "is there" in benchmarks("--data", tmp_path / "d", "download", "amc23")
    benchmarks("download", "aime24", "--mirror", host.url)
    assert (tmp_path / "default" / "aime24" / "test.jsonl").read_bytes() == BODIES["aime24"]


def test_a_download_that_fails_says_which(benchmarks: Any, tmp_path: Path, host: Host, capsys: Any) -> None:
    host.files["o/r/amc23.jsonl"] = b"x"
    host.breaks["o/r/amc23.jsonl"] = []
    with pytest.raises(HubError, match=r"not here: amc23, bbh \(see above\)") as raised:
        benchmarks("download", "amc23", "aime24", "bbh", "--data", tmp_path, "--mirror", host.url)
    assert raised.value.exit_status == 1
    out = capsys.readouterr().out
    assert "bbh: no source was verified, so nothing is fetched; put bbh/*.json of github.com/suzgunmirac" in out
    assert (tmp_path / "aime24" / "test.jsonl").exists()


def test_json_goes_with_the_list_only(benchmarks: Any) -> None:
    with pytest.raises(ModistError, match="--json lists"):
        benchmarks("--json", "download", "amc23")
