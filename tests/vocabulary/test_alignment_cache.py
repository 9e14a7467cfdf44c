"""Finished alignments on disk."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest

from modist.errors import UserError
from modist.vocabulary import IdMap, PairCounts, align_ids, align_positions, alignment_cache, cache_folder
from modist.vocabulary import id_map as module
from tests.vocabulary.test_id_map import made

ONE, TWO = made([b"abc", b"b", b"q", b""], bos=3), made([b"b", b"abd", b""], bos=2)


def same(one: IdMap, two: IdMap) -> bool:
    fields = ("source", "target", "target_size")
    return all(getattr(one, f) == getattr(two, f) for f in fields) and all(
        np.array_equal(getattr(one, f), getattr(two, f)) and getattr(one, f).dtype == getattr(two, f).dtype
        for f in ("ids", "reason", "distance")
    )


@pytest.fixture
def made_count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each alignment that was really made."""
    told: list[str] = []
    real = module._align

    def counting(*args: object) -> IdMap:
        told.append(str(args[2]))
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_align", counting)
    return told


def test_a_kept_map_is_read_back_whole(tmp_path: Path, made_count: list[str]) -> None:
    first = align_ids(ONE, TWO, cache=tmp_path / "new" / "place")
    again = align_ids(ONE, TWO, cache=tmp_path / "new" / "place")
    assert same(first, again) and same(first, align_ids(ONE, TWO)) and made_count == ["edit", "edit"]
    assert [path.suffix for path in (tmp_path / "new" / "place").iterdir()] == [".ids"]


def test_each_question_has_a_file_of_its_own(tmp_path: Path, made_count: list[str]) -> None:
    counts = PairCounts.between(ONE, TWO)
    for _ in range(2):
        align_ids(ONE, TWO, cache=tmp_path)
        align_ids(TWO, ONE, cache=tmp_path)
        align_ids(ONE, TWO, "exact", cache=tmp_path)
        align_ids(ONE, TWO, "statistics", statistics=counts, cache=tmp_path)
    assert made_count == ["edit", "edit", "exact", "statistics"]
    counts.add([0], [0], align_positions([(0, 1)], [(0, 1)]))
    align_ids(ONE, TWO, "statistics", statistics=counts, cache=tmp_path)
    assert len(made_count) == 5 and len(list(tmp_path.iterdir())) == 5


def test_what_the_caller_gave_is_not_kept(tmp_path: Path) -> None:
    assert align_ids(ONE, TWO, given={2: 0}, cache=tmp_path).ids[2] == 0
    assert align_ids(ONE, TWO, cache=tmp_path).ids[2] == -1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "swapped"])
def test_a_damaged_file_is_made_again(tmp_path: Path, made_count: list[str], damage: str) -> None:
    whole = align_ids(ONE, TWO, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    if damage == "swapped":  # whole and sealed, but for another source
        align_ids(TWO, ONE, cache=tmp_path / "other")
        file.write_bytes(next((tmp_path / "other").iterdir()).read_bytes())
    else:
        file.write_bytes({"cut": good[: len(good) // 2], "empty": b"", "text": b"not a map"}[damage])
    made_count.clear()
    assert same(align_ids(ONE, TWO, cache=tmp_path), whole) and made_count == ["edit"]
    assert same(align_ids(ONE, TWO, cache=tmp_path), whole) and made_count == ["edit"]


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    whole = align_ids(ONE, TWO, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    for place in range(0, len(good), 7):
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        assert same(align_ids(ONE, TWO, cache=tmp_path), whole), place


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": np.array([{}] * 4, dtype=object), "reason": np.zeros(4), "distance": np.zeros(4)},  # a pickle
        {"ids": np.zeros(4, np.int32), "reason": np.zeros(4, np.uint8)},
        {"ids": np.full(4, 9, np.int32), "reason": np.zeros(4, np.uint8), "distance": np.zeros(4, np.int32)},  # no such target
    ],
)
def test_a_sealed_file_of_something_else_is_made_again(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    whole = align_ids(ONE, TWO, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    file.write_bytes(hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
    assert same(align_ids(ONE, TWO, cache=tmp_path), whole)


def test_many_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    found: list[IdMap] = []
    threads = [threading.Thread(target=lambda: found.append(align_ids(ONE, TWO, cache=tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(same(one, found[0]) for one in found)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/below: the alignment cannot be kept there"):
        align_ids(ONE, TWO, cache=tmp_path / "file" / "below")


def test_where_maps_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODIST_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "alignment"
    monkeypatch.delenv("MODIST_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "modist" / "alignment"
    assert alignment_cache._EDITION >= 1
