"""SHA-256 of the output's files while they are written: a thread that follows the finished part of each file."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from modist.checkpoint.shards import Shard, ShardFiles

_CHUNK = 1 << 22
SYNC_EVERY_S = 30.0


class Hasher(threading.Thread):
    """Reads each file behind its writers, from the page cache as a rule, and has the kernel start writing it to disk.

    Attributes:
        digests: file name -> hexadecimal SHA-256, complete after `join`.
        failure: what stopped it, if anything did.
    """

    def __init__(self, files: ShardFiles, folder: Path, checkpoint: Callable[[], None]) -> None:
        """`checkpoint` is called about every SYNC_EVERY_S seconds, to sync what is written and say so in the journal."""
        super().__init__(daemon=True)
        self.digests: dict[str, str] = {}
        self.failure: BaseException | None = None
        self._files = files
        self._folder = folder
        self._checkpoint = checkpoint
        self._pending = {shard.name: {tensor.name for tensor in shard.tensors} for shard in files.shards}
        self._changed = threading.Condition()
        self._stopped = False

    def finished(self, tensor: str) -> None:
        """Say that all bytes of a tensor are written."""
        with self._changed:
            for names in self._pending.values():
                names.discard(tensor)
            self._changed.notify()

    def stop(self) -> None:
        """Leave off; the digests stay incomplete."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        try:
            synced = time.monotonic()
            for shard in self._files.shards:
                digest = hashlib.sha256()
                position = 0
                while position < shard.size:
                    ready = self._wait_beyond(shard, position)
                    if ready is None:
                        return
                    while position < ready:
                        position += self._add(shard, digest, position, min(ready, position + _CHUNK))
                    if time.monotonic() - synced > SYNC_EVERY_S:
                        self._checkpoint()
                        synced = time.monotonic()
                self.digests[shard.name] = digest.hexdigest()
        except BaseException as error:
            self.failure = error

    def _wait_beyond(self, shard: Shard, position: int) -> int | None:
        with self._changed:
            while not self._stopped:
                ready = self._prefix(shard, self._pending[shard.name])
                if ready > position:
                    return ready
                self._changed.wait()
        return None

    @staticmethod
    def _prefix(shard: Shard, pending: set[str]) -> int:
        return min((tensor.offset for tensor in shard.tensors if tensor.name in pending), default=shard.size)

    def _add(self, shard: Shard, digest: hashlib._Hash, start: int, stop: int) -> int:
        buffer = memoryview(bytearray(stop - start))
        count = self._files.read(shard, self._folder, buffer, start)
        if count <= 0:
            raise OSError(f"{shard.name}: ends at {start} bytes while it is written")
        digest.update(buffer[:count])
        self._files.start_writeback(shard, self._folder, start, count)
        return count


def sha256_file(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file on disk, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress(count)
    return digest.hexdigest()


def all_digests(files: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in files}
