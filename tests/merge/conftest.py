"""Tiny models and the two ways of merging them: the Python call and the command."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import Trio, make_trio, plain_trio, write_recipe

Recipe = Mapping[str, Any]


@pytest.fixture(scope="session")
def family_trio(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trio]:
    """`family_trio("gemma", "F32", shard_size="100KB")`: made once a session for each set of arguments."""
    made: dict[tuple[str, str, str], Trio] = {}

    def give(family: str, dtype: str = "BF16", shard_size: str = "5GB") -> Trio:
        key = (family, dtype, shard_size)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
            made[key] = make_trio(folder, family, dtype, shard_size=shard_size)
        return made[key]

    return give


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """A small bfloat16 Llama and two fine-tunes, made without torch."""
    return plain_trio(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def llama32(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """The same in float32."""
    return plain_trio(tmp_path_factory.mktemp("llama32"), "F32", seed=7)


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., Path]:
    """`merge(recipe, "out", seed=3)` merges by the Python call and gives the output folder."""

    def run(recipe: Recipe, name: str = "out", **options: Any) -> Path:
        from modist.merge import merge as merge_models

        out = tmp_path / name
        merge_models(write_recipe(tmp_path / f"{name}.yml", recipe), out, **options)
        return out

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command(recipe, "--seed", "3", name="out")` runs `modist merge`; with `process` in a process of its own.

    The other way calls the command's entry point here, which is ten times as fast.
    """

    def run(
        recipe: Recipe | Path,
        *flags: str,
        name: str = "out",
        process: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        path = recipe if isinstance(recipe, Path) else write_recipe(tmp_path / f"{name}.yml", recipe)
        line = ["merge", str(path), str(tmp_path / name), *flags]
        if process:
            return subprocess.run(
                [sys.executable, "-m", "modist", *line],
                env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
                capture_output=True,
                text=True,
                timeout=120,
            )
        return called(line)

    def called(line: list[str]) -> subprocess.CompletedProcess[str]:
        from modist.cli import main

        monkeypatch.setattr(sys, "argv", ["modist", *line])
        out, err = io.StringIO(), io.StringIO()
        status: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as left:
                status = left.code
        return subprocess.CompletedProcess(line, int(status or 0), out.getvalue(), err.getvalue())

    return run
