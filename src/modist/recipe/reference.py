"""How a recipe names a model: a local folder or a hub id, perhaps with `@revision` and `+adapter`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 4096
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelReference:
    """One model as a recipe names it.

    Attributes:
        source: a folder, or a hub id such as `Qwen/Qwen2.5-1.5B-Instruct`.
        revision: a branch, tag or commit of a hub id; None for the default branch.
        adapter: what stands behind a `+` (a LoRA adapter), or None.
    """

    source: str
    revision: str | None = None
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read `source[@revision][+adapter]`; an existing folder is taken as it stands, whatever its name holds.

        Raises:
            ValueError: the text is empty or names neither a folder nor a possible hub id.
        """
        text = text.strip()
        if not text:
            raise ValueError("a model is a folder or a hub id such as 'Qwen/Qwen2.5-1.5B-Instruct', not an empty string")
        if len(text) > _LONGEST or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            raise ValueError(f"{text[:60]!r} is no name of a folder or a hub id")
        if is_folder(text):
            return cls(text)
        source, plus, adapter = text.partition("+")
        source, at, revision = source.rpartition("@") if "@" in source else (source, "", "")
        if (plus and not adapter) or (at and not revision) or not source:
            raise ValueError(f"{text!r} does not read as 'source[@revision][+adapter]'")
        return cls(source, revision or None, adapter or None)

    @property
    def folder(self) -> Path:
        return _expanded(self.source)

    @property
    def is_local(self) -> bool:
        """Whether this names a folder: one that exists, or a text that can only be a path."""
        return is_folder(self.source) or not _HUB_ID.fullmatch(self.source) or self.source.startswith(".")

    @property
    def name(self) -> str:
        """What to call the model in tables and cards: the hub id, or the folder's last part."""
        return (self.folder.resolve().name or self.source) if self.is_local else self.source

    def __str__(self) -> str:
        return self.source + (f"@{self.revision}" if self.revision else "") + (f"+{self.adapter}" if self.adapter else "")


def is_folder(text: str) -> bool:
    """Whether a folder of this name exists; a name the system cannot take (too long, `~nobody`) is none."""
    try:
        return _expanded(text).is_dir()
    except OSError:
        return False


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        # `~nobody`: there is no such user, so it can only be a name as it stands.
        return Path(text)
