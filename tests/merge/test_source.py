"""Inputs of a merge: every way to read one says the same, and rounds once at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import HOLDERS, narrow, widen
from modist.merge.source import Absent, FromCheckpoint, InMemory, TensorSource, open_source
from tests.tiny_models import encode, write_folder

VALUES = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)


def stored_as(folder: Path, dtype: str) -> FromCheckpoint:
    write_folder(folder, {"t": encode(VALUES.astype(np.float64), dtype)}, {"model_type": "llama"})
    source = open_source(Checkpoint.open(folder, "model"), "t")
    assert isinstance(source, FromCheckpoint)
    return source


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("wanted", ["BF16", "F16", "F32"])
def test_a_stored_tensor_reads_as_itself(tmp_path: Path, dtype: str, wanted: str) -> None:
    source = stored_as(tmp_path, dtype)
    assert (source.model, source.name, source.dtype, source.shape, source.size) == ("model", "t", dtype, (6, 7), 42)
    assert source.nbytes == 42 * HOLDERS[dtype].itemsize
    floats = source.floats(5, 20)
    np.testing.assert_array_equal(floats, encode(VALUES.astype(np.float64), dtype).float64.reshape(-1)[5:20])
    np.testing.assert_array_equal(widen(source.stored(5, 20), dtype), floats)
    np.testing.assert_array_equal(source.converted(5, 20, wanted), narrow(floats, wanted))
    assert source.converted(5, 20, wanted).dtype == HOLDERS[wanted]


class Halved(TensorSource):
    """A kind that has `floats` alone."""

    def __init__(self, of: TensorSource) -> None:
        super().__init__(of.model, of.name, "BF16", of.shape, of.nbytes)
        self.of = of

    def floats(self, start: int, stop: int) -> np.ndarray:
        return self.of.floats(start, stop) / np.float32(3)


def test_another_kind_needs_floats_alone() -> None:
    source = Halved(InMemory(VALUES))
    exact = VALUES.reshape(-1) / np.float32(3)
    np.testing.assert_array_equal(source.stored(0, 42), narrow(exact, "BF16"))
    # To float32 it does not pass through its own bfloat16.
    np.testing.assert_array_equal(source.converted(3, 9, "F32"), exact[3:9])
    assert source.finite(0, 42)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_where_it_is(odd: float) -> None:
    values = VALUES.copy()
    values[3, 2] = odd
    for source in (InMemory(values), Halved(InMemory(values))):
        assert not source.finite(20, 30)
        assert source.finite(0, 20) and source.finite(30, 42)


def test_what_memory_gives_may_be_overwritten() -> None:
    values = VALUES.copy()
    InMemory(values).floats(0, 42)[:] = 0
    np.testing.assert_array_equal(values, VALUES)


def test_an_absent_tensor_says_so_and_reads_nothing(tmp_path: Path) -> None:
    stored_as(tmp_path, "F32")
    source = open_source(Checkpoint.open(tmp_path, "model"), "u")
    assert isinstance(source, Absent) and not source.present and source.nbytes == 0
    with pytest.raises(LookupError, match="has no tensor 'u'"):
        source.floats(0, 1)
