"""Recipes of the repository's own tiny experts, and the command line run on them in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modist import cli

ROOT = Path(__file__).parents[2]
GENERAL, MATH = ROOT / "examples" / "experts" / "general", ROOT / "examples" / "experts" / "math"
MODELS = ROOT.parent / "shared" / "models"
GRIMM, GSM8K = MODELS / "stories260K-ft-grimm", MODELS / "stories260K-ft-gsm8k"
QUESTION = "Leo has 97 nuts and buys 85 more. How many nuts does Leo have?"

torch.set_num_threads(1)


def recipe(
    folder: Path, weights: Sequence[Any] = (0.6, 0.4), models: Sequence[Any] = (GENERAL, MATH), name: str = "r.yml"
) -> Path:
    """A recipe's file."""
    lines = ["experts:", *(f"  - source_model: {model}" for model in models), f"weights: [{', '.join(map(str, weights))}]"]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Stdin(io.TextIOWrapper):
    """A pipe that holds some bytes."""

    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Modist:
    """Runs `modist` in this process: (exit status, stdout, stderr)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: Any, stdin: bytes = b"", terminal: bool = False) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["modist", *map(str, words)])
        self._monkeypatch.setattr(sys, "stdin", Stdin(stdin, terminal))
        self._capsys.readouterr()
        status: Any = 0
        try:
            cli.main()
        except SystemExit as left:
            status = left.code or 0
        shown = self._capsys.readouterr()
        return int(status), shown.out, shown.err

    def json(self, *words: Any, **more: Any) -> dict[str, Any]:
        """The object `--json` prints."""
        status, out, err = self(*words, "--json", **more)
        assert status == 0, err
        assert out.count("\n") == 1
        found = json.loads(out)
        assert isinstance(found, dict)
        return found

    def refused(self, *words: Any, **more: Any) -> str:
        """The one line with which it leaves, exit status 2."""
        status, out, err = self(*words, **more)
        assert (status, out) == (2, ""), (status, out, err)
        assert err.startswith("modist: error: ") and err.count("\n") == 1, err
        return err
