"""How a recipe names a model: a local folder or a hub id, perhaps with `@revision` and `+adapter`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

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
        if not text or "\0" in text:
            raise ValueError("a model is a folder or a hub id such as 'Qwen/Qwen2.5-1.5B-Instruct', not an empty string")
        if Path(text).expanduser().is_dir():
            return cls(text)
        source, plus, adapter = text.partition("+")
        source, at, revision = source.rpartition("@") if "@" in source else (source, "", "")
        if (plus and not adapter) or (at and not revision) or not source:
            raise ValueError(f"{text!r} does not read as 'source[@revision][+adapter]'")
        return cls(source, revision or None, adapter or None)

    @property
    def folder(self) -> Path:
        return Path(self.source).expanduser()

    @property
    def is_local(self) -> bool:
        """Whether this names a folder: one that exists, or a text that can only be a path."""
        return self.folder.is_dir() or not _HUB_ID.fullmatch(self.source) or self.source.startswith(".")

    @property
    def name(self) -> str:
        """What to call the model in tables and cards: the hub id, or the folder's last part."""
        return (self.folder.resolve().name or self.source) if self.is_local else self.source

    def __str__(self) -> str:
        return (
            self.source
            + (f"@{self.revision}" if self.revision else "")
            + (f"+{self.adapter}" if self.adapter else "")
        )
