"""What reaches a user when something fails: one line, the right status, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modist import cli
from modist.cli.amount import read_amount, show_amount
from modist.errors import CheckpointError, HubError, MergeError, ModistError, RecipeError, UserError, nearest


def left(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit status of `modist` when a verb raises."""

    def app() -> None:
        raise error

    monkeypatch.setattr("modist.cli.app.app", app)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("x"), 2),
        (RecipeError("x"), 2),
        (CheckpointError("x"), 1),
        (HubError("x"), 1),
        (MergeError("x"), 1),
        (ModistError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_status_says_whose_hand_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    assert left(monkeypatch, error) == status
    assert capsys.readouterr() == ("", "modist: error: x\n")


def test_what_nobody_foresaw_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MODIST_TRACEBACK", raising=False)
    assert left(monkeypatch, ZeroDivisionError("one\n  two")) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("modist: error: ZeroDivisionError: one two (") and shown.count("\n") == 1
    assert left(monkeypatch, KeyError()) == 1
    assert "modist: error: KeyError: KeyError" in capsys.readouterr().err
    assert left(monkeypatch, MemoryError()) == 1
    assert capsys.readouterr().err == "modist: error: out of memory\n"


def test_developers_may_see_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODIST_TRACEBACK", "1")
    monkeypatch.setattr("modist.cli.app.app", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert left(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "modist: stopped\n"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\nb", "a b"),
        ("a\r\nb", "a\\r b"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\u2028b", "a\\u2028b"),
        ("a\x00b", "a\\x00b"),
        ("füße 模型", "füße 模型"),
    ],
)
def test_names_cannot_break_the_line_or_colour_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message: str, line: str
) -> None:
    left(monkeypatch, UserError(message))
    assert capsys.readouterr().err == f"modist: error: {line}\n"


def test_no_line_is_endless(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    left(monkeypatch, UserError("x" * 1_000_000))
    assert 3900 < len(capsys.readouterr().err) < 4100


def modist(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "modist", *arguments], capture_output=True, env={**os.environ, **environment}, timeout=60
    )


def test_a_name_the_terminal_cannot_show(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff\xc3\xa9.yml")
    ran = modist("merge", name, tmp_path / "out", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"modist: error: ") and ran.stderr.count(b"\n") == 1
    assert b"there is no such recipe" in ran.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    ran = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m modist recipe schema | head -c 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=60,
    )
    assert b"Traceback" not in ran.stderr and b"BrokenPipe" not in ran.stderr


@pytest.mark.parametrize("line", [["merg"], ["merge", "--sed", "1", "r.yml", "o"], ["merge", "r.yml", "o", "--threads", "x"]])
def test_words_the_command_line_does_not_know(line: list[str]) -> None:
    ran = modist(*line)
    assert ran.returncode == 2
    assert b"Traceback" not in ran.stderr and b"Error: " in ran.stderr


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1GiB", 1 << 30), ("1gib", 1 << 30), ("500MB", 500_000_000), ("1.5g", 1_500_000_000), (" 10 k ", 10_000), ("7", 7)],
)
def test_amounts(text: str, amount: int) -> None:
    assert read_amount(text, "--memory") == amount


@pytest.mark.parametrize("text", ["", "x", "-1", "1i", "1ib", "0", "0.1", "1 2", "1e9", "inf", "nan", "1GiBs", "٣"])
def test_amounts_that_are_none(text: str) -> None:
    if text == "٣":
        assert read_amount(text, "--memory") == 3  # a digit is a digit
        return
    with pytest.raises(UserError, match="--memory"):
        read_amount(text, "--memory")


def test_amounts_are_shown_as_people_write_them() -> None:
    shown = [show_amount(count) for count in (0, 999, 1000, 15_200, 988_000_000, 15_231_000_000, 10**13)]
    assert shown == ["0 bytes", "999 bytes", "1.0 kB", "15.2 kB", "988 MB", "15.2 GB", "10000 GB"]


def test_nearest_words() -> None:
    assert nearest("lniear", ["linear", "slerp"]) == "; did you mean 'linear'?"
    assert nearest("xyz", ["linear", "slerp"]) == ""
