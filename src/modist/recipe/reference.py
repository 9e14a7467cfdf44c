"""How a recipe names a model: a local folder or a hub id, perhaps with `@revision` and `+adapter`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from modist.errors import nearest
from modist.recipe.document import Document, Key

_LONGEST = 4096
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelReference:
    """One model as a recipe names it.

    Attributes:
        source: a folder, or a hub id such as `Qwen/Qwen2.5-1.5B-Instruct`.
        revision: a branch, tag or commit of a hub id; None for the default branch.
        adapter: what stands behind a `+`: a LoRA adapter's folder or hub id, perhaps with its own revision; or None.
    """

    source: str
    revision: str | None = None
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read `source[@revision][+adapter[@revision]]`; an existing folder is taken as it stands, whatever its name holds.

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
        # A folder's own name may hold a plus: the first one behind a folder divides, or else the first of all.
        pluses = [place for place, letter in enumerate(text) if letter == "+"]
        place = next((place for place in pluses if is_folder(text[:place])), pluses[0] if pluses else len(text))
        model, plus, adapter = text[:place], text[place : place + 1], text[place + 1 :]
        source, revision = _divided(model)
        if (plus and not adapter) or None in (source, revision) or (adapter and None in _divided(adapter)):
            raise ValueError(f"{text!r} does not read as 'source[@revision][+adapter[@revision]]'")
        return cls(source or "", revision or None, adapter or None)

    @property
    def folder(self) -> Path:
        return _expanded(self.source)

    @property
    def lora(self) -> ModelReference | None:
        """The adapter as a reference of its own."""
        if self.adapter is None:
            return None
        source, revision = _divided(self.adapter)
        return ModelReference(source or "", revision or None)

    @property
    def is_local(self) -> bool:
        """Whether this names a folder: one that exists, or a text that can only be a path."""
        return is_folder(self.source) or not _HUB_ID.fullmatch(self.source) or self.source.startswith(".")

    @property
    def name(self) -> str:
        """What to call the model in tables and cards: the hub id, or the folder's last part."""
        name = (self.folder.resolve().name or self.source) if self.is_local else self.source
        return name if self.lora is None else f"{name}+{self.lora.name}"

    def __str__(self) -> str:
        return self.source + (f"@{self.revision}" if self.revision else "") + (f"+{self.adapter}" if self.adapter else "")


def _divided(text: str) -> tuple[str | None, str | None]:
    """`source[@revision]`: the revision is "" where there is none; None stands for what is empty and may not be."""
    if is_folder(text) or "@" not in text:
        return text or None, ""
    source, _, revision = text.rpartition("@")
    return source or None, revision or None


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


def read_reference(document: Document, text: str, path: tuple[Key, ...]) -> ModelReference:
    """Read a model's name out of a recipe; a folder is looked for from here, then from where the recipe lies.

    Raises:
        RecipeError: it names nothing, with the nearest folder.
    """
    try:
        reference = ModelReference.parse(text)
    except ValueError as error:
        raise document.error(str(error), *path) from None
    model = _found(document, ModelReference(reference.source, reference.revision), text, path)
    if reference.lora is None:
        return model
    return ModelReference(model.source, model.revision, str(_found(document, reference.lora, text, path)))


def _found(document: Document, reference: ModelReference, text: str, path: tuple[Key, ...]) -> ModelReference:
    if not reference.is_local or is_folder(reference.source):
        return reference
    beside = str(Path(document.name).parent / reference.folder)
    if is_folder(beside):
        return ModelReference(beside, reference.revision)
    above = reference.folder.parent
    known = [p.name for p in above.glob("*") if p.is_dir()] if is_folder(str(above)) else []
    close = nearest(reference.folder.name, known)
    missing = repr(reference.source) if reference.source == text else f"{reference.source!r} ({text!r} names it)"
    raise document.error(f"there is no folder {missing}{close}", *path)
