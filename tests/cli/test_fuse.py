"""`modist fuse` as a user meets it: what is printed, what JSON holds, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mixtures import Modist
from tests.fusion.rooms import make_rooms, write_recipe


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root)
    return root


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def test_price_extract_fuse_verify(rooms: Path, modist: Modist, tmp_path: Path) -> None:
    recipe = write_recipe(rooms, f"{tmp_path.name}.yml", training={"max_steps": 2})
    status, out, _ = modist("fuse", recipe, "--dry-run", "--distributions", tmp_path / "d", "--json")
    priced: dict[str, Any] = json.loads(out)
    assert status == 0 and priced["steps"] == 2 and [one["there"] for one in priced["experts"]] == [0, 0]
    assert not list(tmp_path.iterdir())

    status, out, _ = modist("fuse", "extract", recipe, tmp_path / "d", "--expert", "expert", "--shard", "1/1", "--json")
    told = json.loads(out)
    assert status == 0 and told[0]["expert"] == "expert" and told[0]["positions"] == priced["experts"][1]["positions"]
    # What was promised is what it takes, but for headers.
    assert priced["experts"][1]["nbytes"] <= told[0]["nbytes"] <= priced["experts"][1]["nbytes"] + 3000

    status, out, _ = modist("fuse", recipe, "--dry-run", "--distributions", tmp_path / "d")
    assert status == 0 and "extract expert" in out and "100% of it there" in out and "a dense one has" in out

    status, out, err = modist("fuse", recipe, tmp_path / "out", "--distributions", tmp_path / "d", "--device", "cpu")
    assert status == 0, err
    assert "trained pivot: 2 steps" in out and "targets for pivot" in out and "{'loss'" not in out
    status, out, _ = modist("fuse", recipe, tmp_path / "out", "--distributions", tmp_path / "d", "--resume")
    assert status == 0 and "is already the finished result of this fusion" in out
    status, out, _ = modist("verify", tmp_path / "out", "--recipe", recipe)
    assert status == 0 and "FAILED" not in out


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["fuse", "RECIPE"], 2, "OUT is missing: modist fuse RECIPE OUT"),
        (["fuse", "nothing.yml", "out"], 2, "nothing.yml: there is no such recipe"),
        (["fuse", "extract", "RECIPE", "d", "--shard", "3/2"], 2, "--shard 3/2: write it as 2/4"),
        (["fuse", "extract", "RECIPE", "d", "--expert", "x"], 2, "--expert x: there is none of this name"),
        (["fuse", "extract", "RECIPE", "d", "--shard", "1/2", "--ray", "local"], 2, "--ray divides the work by itself"),
        (["fuse", "RECIPE", "PIVOT"], 2, "this is the input pivot"),
        (["fuse", "RECIPE", "out", "--seed", "-1"], 2, "--seed -1: must be from 0"),
    ],
)
def test_one_line_for_what_is_wrong(rooms: Path, modist: Modist, words: list[str], status: int, line: str) -> None:
    names = {"RECIPE": str(rooms / "recipe.yml"), "PIVOT": str(rooms / "pivot")}
    found, out, err = modist(*[names.get(word, word) for word in words])
    assert found == status and line in err and not out and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
