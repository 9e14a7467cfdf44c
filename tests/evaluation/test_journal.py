"""The run's folder: whole batches, put in order, each once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modist.evaluation.journal import Journal
from modist.evaluation.plan import Settings, make_plan
from modist.evaluation.record import Record, read_record
from tests.evaluation.fake_runs import FakeGenerator, rows, sums

PLAN = make_plan(FakeGenerator(), [sums(7)], None, Settings())


def batch(number: int, output: str = "so") -> list[Record]:
    return [
        Record("sums", item.id, 0, number, "p", output, "stop", 1, 2, 0.5, item.gold, "", "", True, False)
        for item, _ in PLAN.batches[number]
    ]


def test_lines_come_back() -> None:
    record = dataclasses.replace(batch(0)[0], output='\ud800 "\u2028\x00\n', seconds=0.1 + 0.2)
    assert read_record(record.line()[:-1]) == record and record.line().count(b"\n") == 1 and record.line().isascii()


def test_a_later_copy_of_a_batch_counts(tmp_path: Path) -> None:
    with Journal(tmp_path / "a", PLAN.data) as journal:
        assert journal.missing == [0, 1, 2]
        for number, output in ((0, "x"), (2, "y"), (0, "z")):
            journal.add(batch(number, output))
        assert journal.missing == [1]
    assert len(rows(tmp_path / "a")) == 7
    with Journal(tmp_path / "a", PLAN.data) as journal:
        assert {number: records[0].output for number, records in journal.finished.items()} == {0: "z", 2: "y"}
        assert journal.dropped == 3 and journal.missing == [1]
        assert [row["output"] for row in rows(tmp_path / "a")] == ["z"] * 3 + ["y"]
        journal.add(batch(1, "w"))
        journal.tidy()
    assert [(row["batch"], row["output"]) for row in rows(tmp_path / "a")] == [(0, "z")] * 3 + [(1, "w")] * 3 + [(2, "y")]


def test_only_planned_batches_are_taken(tmp_path: Path) -> None:
    with Journal(tmp_path / "a", PLAN.data) as journal:
        for records in (batch(0)[:2], batch(0)[::-1], [*batch(0), *batch(1)]):
            with pytest.raises(AssertionError):
                journal.add(records)
        assert not rows(tmp_path / "a") and journal.missing == [0, 1, 2]


def test_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "disk")
    with Journal(tmp_path / "a", PLAN.data) as journal:
        journal.add(batch(0))
    assert (tmp_path / "a").is_symlink() and len(rows(tmp_path / "disk")) == 3


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    for _ in range(3):
        with Journal(tmp_path / "a", PLAN.data):
            pass
    with pytest.raises(ZeroDivisionError), Journal(tmp_path / "a", PLAN.data):
        raise ZeroDivisionError
    with Journal(tmp_path / "a", PLAN.data):
        pass
