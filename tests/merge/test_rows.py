"""Rows aligned to another vocabulary, read in any pieces, against numpy indexing of the whole."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.checkpoint.dtype import narrow, widen
from modist.checkpoint.folder import Checkpoint
from modist.merge import rows as rows_module
from modist.merge.rows import AlignedRows
from modist.merge.source import FromCheckpoint, InMemory, TensorSource
from modist.vocabulary.alignment import MEAN, MEAN_OF_ALL, Alignment, Holder, Wish, align, pad
from tests.tiny_models import encode, write_folder


def whole(source: TensorSource) -> np.ndarray:
    return source.floats(0, source.size).reshape(-1, source.size // source.shape[0])


def plain(alignment: Alignment, index: int, tables: list[np.ndarray]) -> np.ndarray:
    """The plain twin: one row after the other, in float64."""
    made = np.zeros((alignment.rows, tables[0].shape[1]))
    for number in range(alignment.rows):
        own, donor = alignment.own[index, number], alignment.parent[number]
        if own >= 0:
            made[number] = tables[index][own]
        elif donor >= 0:
            made[number] = tables[donor][alignment.row[number]]
        elif donor == MEAN:
            held = [table[row] for table, row in zip(tables, alignment.held[:, number], strict=True) if row >= 0]
            made[number] = np.mean(held, axis=0, dtype=np.float64)
        elif donor == MEAN_OF_ALL:
            made[number] = made[: alignment.tokens].mean(0)
    return made


@settings(max_examples=120, deadline=None)
@given(data=st.data(), width=st.integers(1, 5))
def test_any_piece_of_any_alignment(data: st.DataObject, width: int) -> None:
    names = [f"t{number}" for number in range(9)]
    holders, tables = [], []
    generator = np.random.default_rng(data.draw(st.integers(0, 9)))
    for _ in range(data.draw(st.integers(1, 3))):
        listed = data.draw(st.permutations(names))[: data.draw(st.integers(1, 9))]
        rows = data.draw(st.integers(1, 11))
        holders.append(Holder({text: number for number, text in enumerate(listed)}, rows))
        tables.append(generator.standard_normal((rows, width)).astype(np.float32))
    output = {text: number for number, text in enumerate(data.draw(st.permutations([*names, "new"])))}
    wishes = {"t0": Wish(-1, 0, force=True)} if data.draw(st.booleans()) else {}
    base = data.draw(st.none() | st.just(0))
    alignment = align(output, holders, base=base, wishes=wishes, multiple=data.draw(st.none() | st.just(4)))
    sources = [InMemory(table) for table in tables]
    for index in range(len(tables)):
        made = AlignedRows(index, sources, alignment)
        expected = plain(alignment, index, tables)
        assert made.shape == (alignment.rows, width)
        start = data.draw(st.integers(0, made.size - 1))
        stop = data.draw(st.integers(start + 1, made.size))
        got = made.floats(start, stop)
        np.testing.assert_allclose(got, expected.reshape(-1)[start:stop], rtol=2e-6, atol=1e-7)
        got[:] = 99  # a new array each time
        assert np.array_equal(made.floats(start, stop), whole(made).reshape(-1)[start:stop])


def test_means_of_those_who_have_a_token() -> None:
    tables = [np.full((2, 1), value, np.float32) for value in (1, 2, 6)]
    holders = [Holder({"x": 0}, 2), Holder({"x": 1, "y": 0}, 2), Holder({"y": 1}, 2)]
    alignment = align({"x": 0, "y": 1, "w": 2}, [*holders, Holder({"w": 0}, 1)])
    made = AlignedRows(3, [*map(InMemory, tables), InMemory(np.zeros((1, 1), np.float32))], alignment)
    assert made.floats(0, 3).tolist() == [1.5, 4, 0]


def test_a_run_is_one_only_if_every_row_follows() -> None:
    table = np.arange(4, dtype=np.float32)[:, None]
    tokens = {"a": 0, "b": 1, "c": 2, "d": 3}
    made = AlignedRows(0, [InMemory(table)], align({"a": 0, "c": 1, "b": 2, "d": 3}, [Holder(tokens, 4)]))
    assert made.floats(0, 4).tolist() == [0, 2, 1, 3]


@pytest.fixture
def stored(tmp_path: Path) -> list[FromCheckpoint]:
    """A bfloat16 and a float32 table of 300 and 500 rows of 7, and a bias of each, on disk."""
    generator = np.random.default_rng(3)
    made = []
    for name, rows, dtype in (("one", 300, "BF16"), ("two", 500, "F32")):
        values = generator.standard_normal((rows, 7))
        folder = write_folder(tmp_path / name, {"lm_head.weight": encode(values, dtype)}, {"model_type": "llama"})
        made.append(FromCheckpoint(Checkpoint.open(folder), "lm_head.weight"))
    return made


def test_stored_elements_pass_untouched_and_others_are_rounded_once(stored: list[FromCheckpoint]) -> None:
    one, two = stored
    tokens = {f"t{number}": number for number in range(300)}
    other = {f"t{number}": 499 - number for number in range(500)}
    alignment = align({f"t{number}": (number * 7) % 400 for number in range(400)}, [Holder(tokens, 300), Holder(other, 500)])
    made = AlignedRows(0, stored, alignment)
    assert made.dtype == "BF16" and made.shape == (400, 7)
    bits = made.stored(0, made.size).reshape(400, 7)
    mine, theirs = one.stored(0, one.size).reshape(-1, 7), two.floats(0, two.size).reshape(-1, 7)
    for number in range(400):
        at = (number * 7) % 400
        assert np.array_equal(bits[at], mine[number] if number < 300 else narrow(theirs[499 - number], "BF16"))
    assert np.array_equal(made.converted(5, 90, "F32"), widen(made.stored(5, 90), "BF16"))
    assert made.finite(0, made.size)
    # What another parent gives is not rounded on the way to float32.
    at = (399 * 7) % 400
    assert np.array_equal(made.floats(at * 7, at * 7 + 7), theirs[499 - 399])


def test_a_run_of_own_rows_is_one_read(stored: list[FromCheckpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path and its plain twin give the same bytes, and far rows are not read with all between them."""
    one, two = stored
    alignment = pad([300, 500], lead=1)
    short, long = AlignedRows(0, stored, alignment), AlignedRows(1, stored, alignment)
    assert short.shape == long.shape == (500, 7)
    assert np.array_equal(long.stored(11, 3000), two.stored(11, 3000))
    assert np.array_equal(short.stored(3, 2000), one.stored(3, 2000))
    # Behind its own rows, the lead's.
    assert np.array_equal(short.stored(2100, 3500), narrow(two.floats(2100, 3500), "BF16"))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(two.checkpoint, "read", _counted(two.checkpoint.read, asked))
    long.stored(70, 700)
    assert asked == [(70, 700)]
    asked.clear()
    reverse = {f"t{number}": (number * 263) % 500 for number in range(500)}
    far = align({f"t{number}": number for number in range(500)}, [Holder(reverse, 500), Holder(reverse, 500)])
    fast = AlignedRows(1, stored, far).stored(0, 3500)
    assert asked == [(0, 3500)]
    asked.clear()
    monkeypatch.setattr(rows_module, "_SPAN", 0)
    monkeypatch.setattr(rows_module, "_STEP", 0)
    assert np.array_equal(AlignedRows(1, stored, far).stored(0, 3500), fast)
    assert len(asked) == 500 and max(stop - start for start, stop in asked) == 7


def _counted(read, asked):  # type: ignore[no-untyped-def]
    def counting(name: str, start: int, stop: int):  # type: ignore[no-untyped-def]
        asked.append((start, stop))
        return read(name, start, stop)

    return counting


def test_the_mean_is_made_once_for_all_threads() -> None:
    table = np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)
    tokens = {f"t{number}": number for number in range(600)}
    made = AlignedRows(0, [InMemory(table)], align(tokens, [Holder(tokens, 600)], multiple=512))
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(made.floats(1800, 3072))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mean = table.mean(0, dtype=np.float64).astype(np.float32)
    assert len(found) == 8 and all(np.array_equal(each.reshape(-1, 3), np.tile(mean, (424, 1))) for each in found)


def test_a_bias_of_one_row() -> None:
    bias = np.arange(5, dtype=np.float32)[None]
    tokens = {f"t{number}": number for number in range(5)}
    made = AlignedRows(0, [InMemory(bias, name="final_logits_bias")], align({"t4": 0, "t0": 1, "x": 2}, [Holder(tokens, 5)]))
    assert made.shape == (1, 3) and made.floats(0, 3).tolist() == [4, 0, 0]
    flat = AlignedRows(0, [InMemory(bias[0])], align({"t4": 0, "t0": 1}, [Holder(tokens, 5)]))
    assert flat.shape == (2,) and flat.floats(0, 2).tolist() == [4, 0]


def test_what_decides_the_rows_is_told() -> None:
    table = np.ones((2, 3), np.float32)
    tokens = {"a": 0, "b": 1}
    one = AlignedRows(0, [InMemory(table)], align({"a": 0, "b": 1}, [Holder(tokens, 2)]))
    two = AlignedRows(0, [InMemory(table)], align({"a": 1, "b": 0}, [Holder(tokens, 2)]))
    assert one.identity != two.identity and one.nbytes == 24
