"""Stop strings: across tokens, several at once, held back while streaming, and never part of the text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.mixture import decode as module
from modist.mixture.decode import Run, Settings
from tests.mixture.fakes import FakeCore, Logits, decode, fake_experts, table

torch.set_num_threads(1)


class Words:
    """A tokenizer of fixed pieces; a piece of bytes may be a part of a character."""

    def __init__(self, pieces: Sequence[str | bytes]) -> None:
        self.pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        self.chat_template = None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return b"".join(self.pieces[number] for number in ids).decode(errors="replace")


PIECES = ["a", "b", "EN", "D", "\n", "Q:", " x", "END", "\n\n", "cEN"]


def scripted(script: Sequence[int], size: int) -> Logits:
    """Says the ids of a script one after the other; the prompt is one token."""

    def logits(tokens: Sequence[int]) -> np.ndarray:
        found = np.full(size, -30.0)
        found[script[min(len(tokens) - 1, len(script) - 1)]] = 0.0
        return found

    return logits


def spoken(script: Sequence[int], settings: Settings, pieces: Sequence[str | bytes] = PIECES) -> Any:
    experts = fake_experts([0.5, 0.5], [len(pieces)] * 2, tokenizer=Words(pieces))
    (found,), ledger, _ = decode(experts, [scripted(script, len(pieces))] * 2, [[0]], settings)
    return found, ledger


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stream a script of tokens; the pieces, then the result."""

    def run(script: Sequence[int], settings: Settings, pieces: Sequence[str | bytes] = PIECES) -> tuple[list[str], Any]:
        experts: Any = fake_experts([0.5, 0.5], [len(pieces)] * 2, tokenizer=Words(pieces))

        def start(experts: Any, prompts: Any, settings: Settings) -> Run:
            return Run(
                experts, [[[0]], [[0]]], settings, [FakeCore(scripted(script, len(pieces)), len(pieces)) for _ in range(2)]
            )

        monkeypatch.setattr(module, "start", start)
        *texts, last = module.stream(experts, "", settings)
        return [str(text) for text in texts], last[0]  # type: ignore[index]

    return run


MODES = [
    {"temperature": None},
    {"temperature": 1.0},
    {"temperature": None, "eager": True},
    {"temperature": 0.8, "warp": "mixture"},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "script, stop, text, count",
    [
        ([0, 1, 7, 0], ("END",), "ab", 3),
        ([0, 2, 3, 0], ("END",), "a", 3),  # across two tokens
        ([0, 9, 3, 0], ("END",), "ac", 3),  # it begins inside a token
        ([0, 2, 1, 2, 3, 0], ("END",), "aENb", 5),  # a false start
        ([0, 1, 4, 5, 0], ("Q:", "END"), "ab\n", 4),  # several: whichever comes first
        ([0, 1, 8, 0], ("\n",), "ab", 3),  # what follows it in the same token goes too
        ([0, 4, 4, 1], ("\n\n",), "a", 3),
        ([0, 9, 3, 0], ("ND", "cEND"), "a", 3),  # two end at once: the text ends before the earlier
        ([0, 1, 0, 1, 0, 1], ("zzz",), "ababab", 6),
    ],
)
def test_where_a_response_ends(
    mode: dict[str, Any], script: list[int], stop: tuple[str, ...], text: str, count: int, streamed: Any
) -> None:
    settings = Settings(6, stop=stop, **mode)
    found, ledger = spoken(script, settings)
    assert found.text == text and found.token_ids == tuple(script[:count]) == tuple([*script, *script[-1:] * 6][:count])
    assert found.finish_reason == ("length" if count == 6 else "stop")
    assert len(found.logprobs) == len(found.responsibilities) == count == ledger.tokens == ledger.steps
    pieces, result = streamed(script, settings)
    assert result == found and "".join(pieces) == text


def test_what_may_become_a_stop_string_is_held_back(streamed: Any) -> None:
    pieces, _ = streamed([0, 2, 1, 2, 3], Settings(5, 1.0, stop=("END",)))
    assert "".join(pieces) == "aENb"
    for shown in itertools.accumulate(pieces):
        assert "aENb".startswith(shown), "nothing shown is ever taken back"


def test_without_stop_strings_nothing_is_held_back(streamed: Any) -> None:
    pieces, _ = streamed([0, 2, 1, 2, 3], Settings(5, 1.0))
    assert pieces == ["a", "EN", "b", "EN", "D"]


def test_half_a_character_is_held_back(streamed: Any) -> None:
    heart = "♥".encode()
    pieces, result = streamed([0, 1, 2, 3, 0], Settings(5, 1.0), ["a", heart[:1], heart[1:2], heart[2:]])
    assert pieces == ["a", "♥", "a"] and result.text == "a♥a"
    pieces, result = streamed([0, 1, 2], Settings(3, 1.0), ["a", heart[:1], heart[1:2], heart[2:]])
    assert result.text == "".join(pieces), "cut off in the middle of a character, the text says so, and so does the stream"


def test_rows_of_a_batch_stop_one_by_one() -> None:
    pieces = PIECES
    experts = fake_experts([0.5, 0.5], [len(pieces)] * 2, tokenizer=Words(pieces))
    parts = [table(seed, len(pieces), spread=0.7) for seed in (1, 2)]
    prompts = [[number] for number in range(6)]
    plain, _, _ = decode(experts, parts, prompts, Settings(30, 1.0, seed=9))
    found, _, _ = decode(experts, parts, prompts, Settings(30, 1.0, seed=9, stop=("END", "\n\n")))
    eager, _, _ = decode(experts, parts, prompts, Settings(30, 1.0, seed=9, stop=("END", "\n\n"), eager=True))
    assert [row.token_ids for row in found] == [row.token_ids for row in eager]
    lengths = set()
    for free, row in zip(plain, found, strict=True):
        cuts = [free.text.index(stop) for stop in ("END", "\n\n") if stop in free.text]
        assert row.text == (free.text[: min(cuts)] if cuts else free.text)
        assert row.token_ids == free.token_ids[: len(row.token_ids)]
        assert row.finish_reason == ("stop" if cuts else "length")
        lengths.add(len(row.token_ids))
    assert len(lengths) > 2


def test_greedy_forgets_what_it_had_guessed_beyond_the_stop() -> None:
    experts = fake_experts([0.5, 0.5], [len(PIECES)] * 2, tokenizer=Words(PIECES))
    script = [0, 1] * 10 + [7] + [0, 1] * 10
    (found,), ledger, (run,) = decode(experts, [scripted(script, len(PIECES))] * 2, [[0]], Settings(60, stop=("END",)))
    assert found.text == "ab" * 10 and ledger.steps == ledger.tokens == 21 == run.state.length == len(found.logprobs)


def test_an_empty_stop_string() -> None:
    with pytest.raises(UserError, match="empty stop string"):
        Settings(stop=("a", ""))
