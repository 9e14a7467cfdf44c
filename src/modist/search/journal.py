"""A search's folder while it runs: every score on disk as soon as there is one.

    OUT/search.jsonl    the plan in the first line, then one line a score, each synced before the next is asked for
    OUT/lock            held while a process searches there

A search that is given again in the same folder replays its scores and goes on with what is missing, so the candidates are
those of a search that was never stopped.  What a kill or a crash left torn is dropped and scored again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.search.pool import SearchError

SCORES = "search.jsonl"
LOCK = "lock"
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One score.

    Attributes:
        stage: of the search: `start`, `cma`, `random`, ...
        number: within its stage.
        vector: the genes; empty for what is no candidate (a parent).
        score: higher is better.
        generation: of a candidate of CMA-ES, from 1; else 0.
        seconds: since the search was begun or gone on with.
    """

    stage: str
    number: int
    vector: tuple[float, ...]
    score: float
    generation: int = 0
    seconds: float = 0.0

    def line(self) -> bytes:
        return json.dumps(vars(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Entry:
        """The reverse of `line`; ValueError for anything else."""
        try:
            data = json.loads(line)
            entry = cls(
                str(data["stage"]),
                int(data["number"]),
                tuple(map(float, data["vector"])),
                float(data["score"]),
                int(data["generation"]),
                float(data["seconds"]),
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if not all(map(math.isfinite, (entry.score, *entry.vector))):
            raise ValueError("a number that is not finite")
        return entry


class Journal:
    """One search's folder, held by one process.

    Attributes:
        folder: made where it is not there.
        scores: (stage, number) -> what was scored, of this search so far.
        replayed: how many scores an earlier process left.
        dropped: how many lines of it did not count.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Take the folder, and read what an earlier process scored of the same search.

        Args:
            plan: what decides candidates and scores, as JSON; another one is another search.

        Raises:
            UserError: another process is searching there, it holds something else, or another search.
            SearchError: the disk is unwilling.
        """
        self.folder = folder
        self.scores: dict[tuple[str, int], Entry] = {}
        self.dropped = 0
        self._lock = self._file = -1
        try:
            self._take()
            self._begin({"format": _FORMAT, **plan})
        except OSError as error:
            self.close()
            raise self._unwilling(error) from None
        except BaseException:
            self.close()
            raise
        self.replayed = len(self.scores)

    def _take(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; a search needs a folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / LOCK).is_file():
            raise UserError(f"{self.folder}: is not empty and was not made by modist search; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.folder}: another process is searching there") from None

    def _begin(self, plan: dict[str, Any]) -> None:
        path = self.folder / SCORES
        raw = path.read_bytes() if path.exists() else b""
        # What follows the last newline was never finished.
        first, *lines = raw.split(b"\n")[:-1] or [b""]
        if first:
            self._check(first, plan)
        kept = [json.dumps(plan).encode() + b"\n"] if not first else [first + b"\n"]
        for line in lines:
            try:
                entry = Entry.read(line)
            except ValueError:
                self.dropped += 1
                continue
            if (entry.stage, entry.number) not in self.scores:
                self.scores[entry.stage, entry.number] = entry
                kept.append(line + b"\n")
        self.dropped += bool(raw and not raw.endswith(b"\n"))
        whole = b"".join(kept)
        if whole != raw:
            self._write_whole(whole)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _check(self, line: bytes, plan: dict[str, Any]) -> None:
        try:
            there = json.loads(line)
        except (ValueError, RecursionError):
            there = None
        if not isinstance(there, dict) or "format" not in there:
            raise UserError(f"{self.folder}: its {SCORES} is no search's; choose another folder")
        wanted = json.loads(json.dumps(plan))
        other = [key for key in dict.fromkeys((*there, *wanted)) if there.get(key) != wanted.get(key)]
        if other:
            what = "; ".join(_difference(key, there.get(key), wanted.get(key)) for key in other)
            raise UserError(f"{self.folder}: holds another search ({what}); choose another folder, or remove this one")

    def find(self, stage: str, number: int) -> Entry | None:
        """What an earlier process scored, or this one."""
        return self.scores.get((stage, number))

    def add(self, entry: Entry) -> None:
        """Put one score on disk.

        Raises:
            SearchError: the disk is unwilling; nothing of the score stays.
        """
        data = entry.line()
        try:
            before = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, data)
                while written < len(data):
                    written += os.write(self._file, data[written:])
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)
                raise
        except OSError as error:
            raise self._unwilling(error) from None
        self.scores[entry.stage, entry.number] = entry

    def close(self) -> None:
        """Let the folder go; calling it twice does nothing more."""
        for name in ("_file", "_lock"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write_whole(self, name: str, data: bytes) -> None:
        """A file of the folder that is there whole or as it was before.

        Raises:
            SearchError: the disk is unwilling.
        """
        try:
            self._replace(name, data)
        except OSError as error:
            raise self._unwilling(error, name) from None

    def _write_whole(self, data: bytes) -> None:
        self._replace(SCORES, data)

    def _replace(self, name: str, data: bytes) -> None:
        fresh = self.folder / f"{name}.new"
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.folder / name)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unwilling(self, error: OSError, name: str = SCORES) -> SearchError:
        return SearchError(f"{self.folder / name}: cannot be written ({error.strerror})")


def _difference(key: str, there: object, wanted: object) -> str:
    def short(value: object) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:36]} ..."

    one, two = short(there), short(wanted)
    return f"{key} was {one}, is {two}" if one != two else f"{key} has changed"
