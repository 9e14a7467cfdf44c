"""The built wheel, alone in an empty environment."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import plain_trio, write_recipe

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def run(*line: Any, **options: Any) -> str:
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (found,) = folder.glob("modist-*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "modist").rglob("*.py")}
    assert sources <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"modist"}


def test_the_wheel_merges_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    binary = tmp_path / "venv" / "bin"
    run(binary / "python", "-m", "pip", "install", "--quiet", wheel)
    listed = {entry["name"].lower() for entry in json.loads(run(binary / "python", "-m", "pip", "list", "--format", "json"))}
    assert not listed & {"torch", "transformers", "safetensors", "pytest"}

    trio = plain_trio(tmp_path / "models")
    experts = [{"source_model": trio.one}, {"source_model": trio.two}]
    tuned = [{"model": trio.one, "parameters": {"weight": 1}}, {"model": trio.two, "parameters": {"weight": 1}}]
    recipes = {
        "mod": {"experts": experts, "weights": [0.7, 0.3]},
        "ties": {"merge_method": "ties", "base_model": trio.base, "models": tuned, "parameters": {"density": 0.5}},
    }
    for name, recipe in recipes.items():
        path, out = write_recipe(tmp_path / f"{name}.yml", recipe), tmp_path / name
        report = json.loads(run(binary / "modist", "merge", path, out, "--json", cwd="/", env={}))
        assert Path(report["out"]) == out
        assert "FAILED" not in run(binary / "modist", "verify", out, "--recipe", path, cwd="/", env={})
    assert "dare_ties" in run(binary / "modist", "methods", cwd="/", env={})
    assert "experts" in run(binary / "modist", "recipe", "schema", cwd="/", env={})
    assert "modist 0" in run(binary / "modist", "--version", cwd="/", env={})
