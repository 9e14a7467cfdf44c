"""What tells one model's files from another's without reading all of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_WHOLE = 1 << 20
_SAMPLES = 32
_SAMPLE = 1 << 12
# Papers and a merge's own records change no answer.
_KINDS = (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".py")
_PAPERS = ("readme", "license", "licence", "notice", "modist")


def fingerprint(folder: Path) -> str:
    """SHA-256, 64 hexadecimal digits, over a model folder's file names and sizes, its small files, and evenly spread
    samples (32 of 4 KiB) of each large one.

    A model merged anew with another weight differs in nearly every block; a file with one changed number may not be told.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix not in _KINDS or path.name.lower().startswith(_PAPERS):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for number in range(_SAMPLES):
                file.seek((size - _SAMPLE) * number // (_SAMPLES - 1), os.SEEK_SET)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
