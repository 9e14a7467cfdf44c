"""Bars are drawn in a terminal, once the wait is worth one, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from modist.cli import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_S", -1.0)
    monkeypatch.setenv("TERM", "xterm")


def count(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, **how: bool) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress.counting("scoring", 4, **how) as advance:
        advance(1)
        advance(2, 8)
    return stderr.getvalue()


@pytest.mark.usefixtures("impatient")
def test_counting_in_a_terminal_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    said = count(monkeypatch, Terminal())
    assert "scoring" in said and "2/8" in said
    assert count(monkeypatch, io.StringIO()) == ""


def test_a_short_wait_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(monkeypatch, Terminal()) == ""


@pytest.mark.usefixtures("impatient")
def test_no_bar_between_the_lines_of_one_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert count(monkeypatch, Terminal(), printing=True) == ""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert "scoring" in count(monkeypatch, Terminal(), printing=True)


@pytest.mark.usefixtures("impatient")
def test_stages_replace_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.stages() as advance:
        advance("scoring", 0.5)
        advance("answering", 0.25)
    said = terminal.getvalue()
    assert "answering" in said and "25%" in said
