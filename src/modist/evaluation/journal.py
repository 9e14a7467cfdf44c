"""A run's folder while it runs: the plan, and answers that arrive in whole batches.

    RUN/plan.json        what will be asked, in which batches; whole or absent
    RUN/answers.jsonl    one line an answer, a batch's lines in one write, on disk before the next batch is told as done
    RUN/lock             held while a process writes

Only whole batches count: a killed process leaves at most one torn, and the next run drops it and asks it again from its first
question to its last, since the padding of a batch may change an answer.  A batch may be there twice, where it was asked
again after errors: the later copy counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.plan import differences
from modist.evaluation.record import Record, read_record
from modist.evaluation.results import ANSWERS, PLAN, batch_keys, read_plan

LOCK = "lock"


class Journal:
    """One run's folder, held by one process.

    Attributes:
        folder: made where it is not there.
        finished: number of a batch -> its records, in order.
        dropped: how many lines of an earlier run did not count.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Take the folder, and read what an earlier run finished of the same plan.

        Raises:
            UserError: another process is writing there, it holds something else, or a run with another plan.
            EvaluationError: the disk is unwilling.
        """
        self.folder = folder
        self.finished: dict[int, list[Record]] = {}
        self.dropped = 0
        self._planned = batch_keys(plan)
        self._lock = self._answers = -1
        try:
            self._take()
            self._begin(plan)
        except OSError as error:
            self.close()
            raise self._unwilling(folder, error) from None
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            self.folder = self.folder.resolve()
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; a run needs a folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / LOCK).is_file():
            raise UserError(f"{self.folder}: is not empty and was not made by modist eval; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.folder}: another process is running this evaluation") from None

    def _begin(self, plan: dict[str, Any]) -> None:
        if (self.folder / PLAN).exists():
            wrong = differences(read_plan(self.folder), plan)
            if wrong:
                raise UserError(
                    f"{self.folder}: holds another run ({'; '.join(wrong)}); choose another folder, or remove this one"
                )
        elif (self.folder / ANSWERS).exists():
            raise EvaluationError(f"{self.folder}: has {ANSWERS} and no {PLAN}; choose another folder, or remove this one")
        else:
            self._write_whole(PLAN, json.dumps(plan, indent=1).encode() + b"\n")
        self._read()

    def _read(self) -> None:
        """Keep what is whole, and put the file in order where something in it is not."""
        path = self.folder / ANSWERS
        raw = path.read_bytes() if path.exists() else b""
        kept: dict[int, bytes] = {}
        rows: list[Record] = []
        lines: list[bytes] = []
        # What follows the last newline was never finished.
        *ended, tail = raw.split(b"\n")
        for line in ended:
            try:
                record = read_record(line)
                keys = self._planned[record.batch]
            except (ValueError, IndexError):
                rows, lines = [], []
                continue
            if (rows and record.batch != rows[0].batch) or keys[len(rows) : len(rows) + 1] != [record.key]:
                rows, lines = [], []
            if keys[len(rows)] != record.key:
                continue
            rows.append(record)
            lines.append(line + b"\n")
            if len(rows) == len(keys):
                self.finished[record.batch], kept[record.batch] = rows, b"".join(lines)
                rows, lines = [], []
        whole = b"".join(kept[batch] for batch in sorted(kept))
        self.dropped = len(ended) + bool(tail) - sum(map(len, self.finished.values()))
        if whole != raw:
            self._write_whole(ANSWERS, whole)
        self._answers = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._sync_folder()

    @property
    def missing(self) -> list[int]:
        """Batches still to be asked, in order."""
        return [batch for batch in range(len(self._planned)) if batch not in self.finished]

    def add(self, records: Sequence[Record]) -> None:
        """Put one whole batch on disk, by one write.

        Raises:
            EvaluationError: the disk is unwilling; nothing of the batch stays.
        """
        batch = records[0].batch
        if [record.key for record in records] != self._planned[batch]:
            raise AssertionError(f"batch {batch} is not as planned")
        data = b"".join(record.line() for record in records)
        path = self.folder / ANSWERS
        try:
            before = os.fstat(self._answers).st_size
            try:
                written = os.write(self._answers, data)
                while written < len(data):
                    written += os.write(self._answers, data[written:])
                os.fsync(self._answers)
            except OSError:
                os.ftruncate(self._answers, before)
                raise
        except OSError as error:
            raise self._unwilling(path, error) from None
        self.finished[batch] = list(records)

    def tidy(self) -> None:
        """Put the batches in their order, each once: the file of a finished run does not tell how often it was killed."""
        whole = b"".join(record.line() for batch in sorted(self.finished) for record in self.finished[batch])
        path = self.folder / ANSWERS
        try:
            if path.read_bytes() != whole:
                self._write_whole(ANSWERS, whole)
        except OSError as error:
            raise self._unwilling(path, error) from None

    def close(self) -> None:
        for name in ("_answers", "_lock"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write_whole(self, name: str, data: bytes) -> None:
        """A file that is there whole or as it was before."""
        fresh = self.folder / f"{name}.new"
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.folder / name)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _unwilling(path: Path, error: OSError) -> EvaluationError:
        return EvaluationError(f"{path}: cannot be written ({error.strerror})")
