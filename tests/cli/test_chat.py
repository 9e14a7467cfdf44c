"""`modist chat`, on a pipe and as on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mixtures import GENERAL, GRIMM, MATH, QUESTION, Modist, recipe


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def test_each_line_is_a_turn(modist: Modist, tmp_path: Path) -> None:
    path = recipe(tmp_path)
    first = json.loads(modist("generate", path, "--chat", "How long is honey?", "--json")[1])["text"]
    fresh = json.loads(modist("generate", path, "--chat", QUESTION, "--json")[1])["text"]
    lines = f"How long is honey?\n\n/new\n{QUESTION}\n/quit\nnever asked\n"
    status, out, err = modist("chat", path, stdin=lines.encode())
    assert (status, out, err) == (0, f"{first}\n{fresh}\n", "")


def test_the_second_turn_remembers_the_first(modist: Modist, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stream(experts: Any, messages: Any, settings: Any) -> Iterator[Any]:
        asked.append(messages)
        yield from real(experts, messages, settings)

    from modist.mixture import decode

    real = decode.stream
    monkeypatch.setattr(decode, "stream", stream)
    modist("chat", GENERAL, "--system", "Be brief.", stdin=b"How long is honey?\nHow long is sea?")
    roles = [[message["role"] for message in messages] for messages in asked]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert asked[1][2]["content"]


def test_turns_draw_afresh(modist: Modist) -> None:
    words = ("chat", GENERAL, "--temperature", 5, "--max-new-tokens", 8)
    lines = b"How long is honey?\n/new\nHow long is honey?\nHow long is honey?\n"
    first, again, second = modist(*words, stdin=lines)[1].splitlines()
    assert first == again and second[:4] != first[:4]


def test_attribution_and_ledger(modist: Modist, tmp_path: Path) -> None:
    status, out, err = modist("chat", recipe(tmp_path), "--attribute", "--ledger", stdin=b"How long is honey?\n")
    assert status == 0 and "A general, weight 0.6" in out and "tokens/s" in err


def test_a_conversation_that_outgrows_the_context(modist: Modist) -> None:
    long = b"nuts and " * 200 + b"\n"
    shown = modist.refused("chat", MATH, stdin=long)
    assert "context" in shown and "/new" in shown


def test_no_template(modist: Modist) -> None:
    if not GRIMM.exists():
        pytest.skip("no fine-tunes here")
    assert "chat template" in modist.refused("chat", GRIMM, stdin=b"Hello\n")


class Terminal:
    """What a person types: lines, or an interrupt in its place."""

    def __init__(self, *lines: Any) -> None:
        self._lines = list(lines)

    def __call__(self, prompt: str = "") -> str:
        if not self._lines:
            raise EOFError
        line = self._lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return str(line)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes chat believe in a terminal on which these lines are typed."""

    def types(*lines: Any) -> None:
        monkeypatch.setattr("builtins.input", Terminal(*lines))
        monkeypatch.setattr("modist.cli.chat._on_terminal", lambda: True)

    yield types


def test_ctrl_c_stops_the_answer_and_not_the_chat(modist: Modist, typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modist.mixture import decode

    real, asked = decode.stream, []

    def stream(experts: Any, messages: Any, settings: Any) -> Iterator[Any]:
        asked.append(messages)
        if len(asked) == 1:
            yield "Well"
            raise KeyboardInterrupt
        yield from real(experts, messages, settings)

    monkeypatch.setattr(decode, "stream", stream)
    typed("How long is honey?", KeyboardInterrupt(), "How long is sea?")
    status, out, err = modist("chat", GENERAL)
    assert status == 0 and out.startswith("Well\n") and len(out) > len("Well\n\n")
    assert "(stopped)" in err and "/quit" in err
    assert [message["content"] for message in asked[1]] == ["How long is honey?", "Well", "How long is sea?"]


def test_an_error_ends_the_turn_only(modist: Modist, typed: Any) -> None:
    typed("nuts and " * 200, "How long is honey?")
    status, out, err = modist("chat", GENERAL)
    assert status == 0 and "context" in err and "/new" in err and out.strip()


def test_a_pipe_that_is_interrupted(modist: Modist, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(experts: Any, messages: Any, settings: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("modist.mixture.decode.stream", stream)
    assert modist("chat", GENERAL, stdin=b"x\n")[0] == 130
