"""Where a checkpoint grows before anyone can see it: `OUT.partial`, with a journal of what is finished.

    OUT.partial/journal.jsonl    one line a finished tensor; a killed run goes on from here
    OUT.partial/lock             held while a process writes
    OUT.partial/model/           the output to be; renamed to OUT when whole
    OUT.partial/replaced/        an older output, for the moment between two renames, where the system cannot swap folders

The journal is trusted as far as the data can be: within one boot of the machine everything written before a kill is there to
be read; after a crash of the machine itself, only what was synced before the last `synced` line.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from modist.checkpoint.shards import disk_error
from modist.errors import MergeError, UserError

MANIFEST = "modist_manifest.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


class Staging:
    """One output under construction.

    Attributes:
        out: where it will be.
        model: the folder in which it is built.
        finished: tensors that an earlier run finished -> what it noted of them.
    """

    def __init__(self, out: Path) -> None:
        # A link is followed: the folder it names is replaced, by a rename beside that folder.
        self.out = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
        self.root = building_place(self.out)
        self.model = self.root / "model"
        self.finished: dict[str, Any] = {}
        self._journal = self.root / "journal.jsonl"
        self._aside = self.root / "replaced"
        self._descriptor = -1
        self._lock_descriptor = -1
        self._lines = 0
        self._mutex = threading.Lock()

    def begin(self, fingerprint: str, resume: bool) -> bool:
        """Take the folder and open the journal.

        Args:
            fingerprint: of everything that decides the output's bytes.
            resume: go on from an earlier run's journal, if there is one.

        Returns:
            Whether an earlier run is being continued.

        Raises:
            UserError: the earlier run was of another merge, or another process is writing.
            MergeError: the disk is unwilling.
        """
        try:
            self._refuse_strange()
            self.root.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._restore()
            entries = self._read_journal() if resume else []
            if entries and entries[0].get("fingerprint") != fingerprint:
                raise UserError(
                    f"{self.root}: holds the unfinished merge of another recipe, seed or input;"
                    " run without --resume to start over"
                )
            if entries and not self._holds_another(fingerprint):
                self._trust(entries)
            if not self.finished:
                self._clear()
                self.model.mkdir()
            self._write_journal(fingerprint)
            return bool(self.finished)
        except OSError as error:
            raise disk_error(self.root, error) from None

    def _take_lock(self) -> None:
        self._lock_descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1
            raise UserError(f"{self.root}: another process is writing this output") from None

    def _refuse_strange(self) -> None:
        if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
            raise UserError(f"{self.root}: is in the way; the result is built there, so move it elsewhere")
        if self.root.is_dir() and any(self.root.iterdir()) and not (self.root / "lock").is_file():
            raise UserError(f"{self.root}: was not made by modist; the result is built there, so move it elsewhere")

    def _restore(self) -> None:
        """Bring back an older output, if a run was killed after moving it aside and before the new one took its place."""
        if self._aside.is_dir() and not self.out.exists():
            self._aside.rename(self.out)

    def _holds_another(self, fingerprint: str) -> bool:
        """Whether `model` is an older output that a swap left here, or is gone: either way the journal does not speak of it."""
        try:
            manifest = json.loads((self.model / MANIFEST).read_bytes())
        except FileNotFoundError:
            return not self.model.is_dir()
        except (ValueError, RecursionError):
            return False  # torn: ours, killed while it was written
        return not isinstance(manifest, dict) or manifest.get("fingerprint") != fingerprint

    def _write_journal(self, fingerprint: str) -> None:
        """A new journal with what is finished already, in place of the old one only when it is complete."""
        fresh = self.root / "journal.new"
        self._descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._lines = 0
        self._append({"fingerprint": fingerprint, "boot": boot_id()})
        for name, note in self.finished.items():
            self._append({"tensor": name, "note": note})
        fresh.rename(self._journal)

    def _clear(self) -> None:
        for path in self.root.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _read_journal(self) -> list[dict[str, Any]]:
        try:
            raw = self._journal.read_bytes()
        except FileNotFoundError:
            return []
        entries = []
        # The last line may be torn; whatever follows the last newline was never finished.
        for line in raw.split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict):
                break
            entries.append(entry)
        return entries

    def _trust(self, entries: list[dict[str, Any]]) -> None:
        header, lines = entries[0], entries[1:]
        if header.get("boot") != boot_id() or boot_id() == "unknown":
            synced = [entry["synced"] for entry in lines if isinstance(entry.get("synced"), int)]
            lines = [entry for entry in lines if "tensor" in entry][: max(synced, default=0)]
        self.finished = {entry["tensor"]: entry.get("note") for entry in lines if isinstance(entry.get("tensor"), str)}

    def _append(self, entry: dict[str, Any]) -> None:
        with self._mutex:
            line = json.dumps(entry).encode() + b"\n"
            if os.write(self._descriptor, line) != len(line):
                raise MergeError(f"{self._journal}: cannot be written: the disk is full")
            self._lines += "tensor" in entry

    def finish(self, tensor: str, note: Any) -> None:
        """Record that all bytes of a tensor have been written."""
        try:
            self._append({"tensor": tensor, "note": note})
        except OSError as error:
            raise disk_error(self._journal, error) from None

    @property
    def recorded(self) -> int:
        """How many tensors the journal holds; give it to `synced` once their data is on disk."""
        return self._lines

    def synced(self, count: int) -> None:
        """Record that the data of the journal's first `count` tensors is on disk."""
        try:
            self._append({"synced": count})
            os.fsync(self._descriptor)
        except OSError as error:
            raise disk_error(self._journal, error) from None

    def write_text(self, name: str, text: str) -> None:
        """Put a small file into the output to be, and on disk."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        path = self.model / name
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(path, error) from None

    def commit(self) -> None:
        """Make the output visible by one rename, which swaps it with an older output where there is one."""
        try:
            _sync_folder(self.model)
            if self.out.is_dir() and any(self.out.iterdir()):
                self._replace()
            else:
                self.model.rename(self.out)
            _sync_folder(self.out.parent)
        except OSError as error:
            raise disk_error(self.out, error) from None
        self.discard()

    def _replace(self) -> None:
        if swap_folders(self.model, self.out):
            return
        if self._aside.exists():
            shutil.rmtree(self._aside)
        self.out.rename(self._aside)
        try:
            self.model.rename(self.out)
        except OSError:
            self._restore()
            raise

    def close(self) -> None:
        for name in ("_descriptor", "_lock_descriptor"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def discard(self) -> None:
        """Delete the whole folder, still under the lock, so that nobody starts in a folder that is going away."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.close()

    def sweep(self) -> None:
        """Delete what an earlier run left, unless it is still running."""
        try:
            if (self.root / "lock").is_file() and not self.root.is_symlink():
                self._take_lock()
                self.discard()
        except (OSError, UserError):
            return

    def abandon_if_empty(self) -> None:
        """Leave nothing behind where nothing was finished."""
        if self._lock_descriptor >= 0 and not self._lines and not self.finished:
            self.discard()
            return
        self.close()
        with suppress(OSError):
            self.root.rmdir()  # only where it is empty


def building_place(out: Path) -> Path:
    """The folder in which an output is built, beside it and on the same disk."""
    return out.with_name(out.name + ".partial")


def swap_folders(one: Path, two: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot (Linux's renameat2 is meant)."""
    if _RENAMEAT2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if _RENAMEAT2(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number))


def _find_renameat2() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


_RENAMEAT2 = _find_renameat2()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(out: Path, inputs: dict[str, Path]) -> None:
    """Refuse an output that would overwrite an input, or anything that modist did not write.

    Args:
        out: where the user wants the result.
        inputs: what the user called each parent -> its folder.

    Raises:
        UserError: naming the clash.
    """
    try:
        real = out.resolve()
        for path in (out, building_place(real) if real.name else real):
            path.exists()  # raises where the name is too long
    except (OSError, RuntimeError) as error:
        raise UserError(f"{out}: cannot be a folder ({getattr(error, 'strerror', None) or 'a link to itself'})") from None
    if not real.name:
        raise UserError(f"{out}: is the root of the file system; write the result elsewhere")
    for label, folder in inputs.items():
        parent, place = folder.resolve(), building_place(real)
        if real == parent or (out.exists() and out.samefile(folder)):
            raise UserError(f"{out}: this is the input {label}; write the result elsewhere")
        if real in parent.parents:
            raise UserError(f"{out}: the input {label} lies inside it; write the result elsewhere")
        if parent in real.parents:
            raise UserError(f"{out}: lies inside the input {label}; write the result elsewhere")
        if place == parent or place in parent.parents:
            raise UserError(f"{out}: would be built in {place}, where the input {label} lies; write the result elsewhere")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out}: is a link to nowhere")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; the result is a folder")
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not present:
        return
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        ours = set(manifest["files"]) | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{out}: is not empty and was not written by modist; choose another folder, or empty it") from None
    strange = sorted(present - ours)
    if strange:
        raise UserError(f"{out}: holds {strange[0]!r}, which modist did not write and would lose; move it away first")
