"""Shards are whole or absent, and what is not the recorded bytes is made again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import UserError
from modist.fusion import store as store_module
from modist.fusion.store import Part, Store, StoreError, shard_bytes


def plan(count: int = 5, **more: Any) -> dict[str, Any]:
    return {"kind": "test", **more, "shards": [{"rows": [number]} for number in range(count)]}


def arrays(number: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(number)
    return {
        "ids": generator.integers(0, 100, (7, 3)).astype(np.int32),
        "log_probs": generator.standard_normal((7, 3)).astype(np.float16),
        "rows": np.arange(3, dtype=np.int64),
        "nats": generator.standard_normal(3),
    }


def filled(folder: Path, numbers: list[int] | None = None, part: Part | None = None) -> None:
    with Store(folder, plan(), part) as store:
        for number in store.missing if numbers is None else numbers:
            store.add(number, arrays(number))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    with Store(tmp_path / "s", plan(), write=False) as store:
        store.verify()
        for number in range(5):
            for name, array in store.read(number).items():
                np.testing.assert_array_equal(array, arrays(number)[name])
                assert array.dtype == arrays(number)[name].dtype


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors.numpy import load

    found = load(shard_bytes(arrays(1)))
    for name, array in arrays(1).items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "torn journal", "no journal line"])
def test_damage_is_found_and_made_again(tmp_path: Path, damage: str) -> None:
    filled(tmp_path / "s")
    wanted = contents(tmp_path / "s")
    path, journal = tmp_path / "s" / "shard-00002.safetensors", tmp_path / "s" / "journal.jsonl"
    raw = path.read_bytes()
    if damage == "flip":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(raw[:-8])
    elif damage == "gone":
        path.unlink()
    else:
        lines = journal.read_bytes().splitlines(keepends=True)
        lines[2] = lines[2][:10] if damage == "torn journal" else b""
        journal.write_bytes(b"".join(lines[:3]) if damage == "torn journal" else b"".join(lines))
    with Store(tmp_path / "s", plan()) as store:
        assert store.damaged == ([2] if damage in ("flip", "cut", "gone") else [])
        # A torn line takes the lines behind it along.
        assert store.missing == ([2, 3, 4] if damage == "torn journal" else [2])
        for number in store.missing:
            store.add(number, arrays(number))
    assert contents(tmp_path / "s") == wanted
    with Store(tmp_path / "s", plan(), write=False) as store:
        store.verify()


def test_a_reader_refuses_what_is_damaged_or_lacking(tmp_path: Path) -> None:
    filled(tmp_path / "s", [0, 1, 3, 4])
    with Store(tmp_path / "s", plan(), write=False) as store, pytest.raises(StoreError, match=r"1 of 5 shards .* such as 2"):
        store.verify()
    with Store(tmp_path / "s", plan(), write=False) as store, pytest.raises(StoreError, match="shard 2 is not there"):
        store.read(2)
    filled(tmp_path / "s")
    path = tmp_path / "s" / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with Store(tmp_path / "s", plan(), write=False) as store, pytest.raises(StoreError, match=r"00001.* was changed"):
        store.verify()
    path.write_bytes(b"no")
    with Store(tmp_path / "s", plan(), write=False) as store, pytest.raises(StoreError, match="is damaged"):
        store.read(1)


def test_parts_together_are_the_whole(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    for index in (2, 3, 1):
        filled(tmp_path / "parts", part=Part(index, 3))
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    with Store(tmp_path / "parts", plan(), write=False) as store:
        store.verify()
    # The whole, asked for later, finds all done.
    with Store(tmp_path / "parts", plan()) as store:
        assert store.missing == []


def test_two_parts_may_write_at_once_and_two_processes_of_one_part_may_not(tmp_path: Path) -> None:
    with Store(tmp_path / "s", plan(), Part(1, 2)), Store(tmp_path / "s", plan(), Part(2, 2)) as two:
        assert two.missing == [1, 3]
        with pytest.raises(UserError, match="another process is writing here"):
            Store(tmp_path / "s", plan(), Part(1, 2))


def test_another_plan_is_told_by_what_differs(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    for other, words in (
        (plan(top_k=10), "top_k None there, 10 here"),
        (plan(kind="other") | {"data": [1]}, "another data; kind test there, other here"),
        ({**plan(), "shards": plan()["shards"][:4]}, "its rows are cut or tokenized otherwise"),
    ):
        with pytest.raises(UserError, match=words):
            Store(tmp_path / "s", other)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1-4", "a/b", "1/", ""])
def test_bad_parts(text: str) -> None:
    with pytest.raises(UserError, match="write it as 2/4"):
        Part.parse(text)
    assert Part.parse("2/4") == Part(2, 4)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made by modist fuse"):
        Store(tmp_path / "s", plan())
    assert os.listdir(tmp_path / "s") == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        Store(tmp_path / "file", plan())


class Killed(BaseException):
    """What no handler of the code under test may catch."""


@pytest.mark.parametrize("at", range(12))
def test_killed_at_any_call_to_the_system_and_gone_on_with(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "whole")

    class Dying:
        left = at

        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in ("write", "fsync", "open"):
                return real

            def call(*given: Any) -> Any:
                Dying.left -= 1
                if Dying.left == -1:
                    if name == "write":
                        real(given[0], given[1][: len(given[1]) // 2])
                    raise Killed
                return real(*given)

            return call

    monkeypatch.setattr(store_module, "os", Dying())
    with pytest.raises(Killed):
        filled(tmp_path / "s")
    monkeypatch.undo()
    filled(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "s" / "plan.json").read_bytes()) == plan()
    assert not list((tmp_path / "s").glob(".*.part"))
