"""`modist inspect` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inspection.conftest import family
from tests.tiny_models import Trio


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return family(tmp_path_factory.mktemp("trio"))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modist", "inspect", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_one_model(trio: Trio) -> None:
    done = run(trio.base)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("LlamaForCausalLM", "4, hidden size 32", "memory to run", "a token for keys and values"):
        assert text in done.stdout


def test_three_models(trio: Trio) -> None:
    done = run(trio.two, trio.base, trio.one)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("base is the ancestor of two and one.", "the ancestor by the evidence, though two comes first", "kinship"):
        assert text in done.stdout


def test_json_is_one_object(trio: Trio) -> None:
    done = run(*trio.folders, "--json")
    found = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found["base"] == "base" and len(found["models"]) == 3 and len(found["kinships"]) == 1
    assert found["verdicts"][0]["kind"] == "ancestor"
    assert run(trio.one, "--json").stdout.count("\n") == 1


def test_base(trio: Trio) -> None:
    found = json.loads(run(trio.one, trio.two, "--base", trio.base, "--json").stdout)
    assert found["base"] == "base" and [model["name"] for model in found["models"]] == ["base", "one", "two"]


def test_plot(trio: Trio, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    done = run(*trio.folders, "--plot", tmp_path / "picture.png")
    assert done.returncode == 0 and "drawn into" in done.stdout
    assert (tmp_path / "picture.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["./no/such/folder"], 2, "there is no such folder"),
        (["BASE", "BASE"], 2, "named twice"),
        (["BASE", "--plot", "picture.bmp"], 2, "must be one of"),
        (["BASE", "--base", "./nowhere"], 2, "there is no such folder"),
        (["BROKEN"], 1, "truncated"),
    ],
)
def test_errors_are_one_line(words: list[str], status: int, text: str, trio: Trio, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"\0" * 5)
    places = {"BASE": str(trio.base), "BROKEN": str(broken)}
    done = run(*(places.get(word, word) for word in words))
    assert done.returncode == status and done.stdout == ""
    assert text in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_torch_is_not_needed(trio: Trio) -> None:
    code = (
        "import sys; from modist.inspection import inspect_models;"
        f"inspect_models([{str(trio.base)!r}, {str(trio.one)!r}]);"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
