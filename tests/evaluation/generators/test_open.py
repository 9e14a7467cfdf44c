"""Generators by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modist.errors import UserError
from modist.evaluation.generators import KINDS, open_generator, options_of


def test_kinds_and_options() -> None:
    assert KINDS == ("transformers", "mixture", "openai", "vllm")
    for kind in KINDS:
        assert "name" in options_of(kind) and "model" not in options_of(kind)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("transformer", {}, "there is no generator 'transformer'; did you mean 'transformers'"),
        ("openai", {"device": "cpu"}, "device is an option of the transformers and the mixture generator, not of openai"),
        ("openai", {"bse_url": "x"}, "has no option 'bse_url'; did you mean 'base_url'"),
        ("mixture", {"tensor_parallel_size": 2}, "an option of the vllm generator"),
    ],
)
def test_what_cannot_be_opened(kind: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_generator(kind, "m", **options)


def test_options_that_are_none_are_left_out() -> None:
    pytest.importorskip("openai")
    generator = open_generator("openai", "m", base_url="http://localhost:1/v1", device=None, nonsense=None, timeout=None)
    assert generator.describe()["base_url"] == "http://localhost:1/v1"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, modist.evaluation.generators as g; [g.options_of(k) for k in g.KINDS];"
        "print([m for m in ('torch', 'transformers', 'openai', 'vllm') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(("kind", "package"), [("transformers", "torch"), ("mixture", "torch"), ("openai", "openai")])
def test_a_package_that_is_not_here(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(UserError, match=rf"the {kind} generator needs {package}, .*pip install 'modist\[eval\]'"):
        open_generator(kind, "m")
