"""The models that take part in a fusion: where they lie, what tells them apart, how they read chats, alive when needed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modist.checkpoint import Checkpoint, read_json
from modist.checkpoint.hub import fetch
from modist.errors import CheckpointError, UserError, nearest
from modist.fusion.chat import Reader
from modist.merge.hashing import sha256_file
from modist.recipe import ModelReference
from modist.recipe.fusion import FusionRecipe

_TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, eq=False)
class Participant:
    """The pivot or an expert.

    Attributes:
        name: for people; unique in the recipe.
        folder: where it lies.
        commit: of a hub's model.
        outline: its checkpoint by headers alone, where its weights are still to be fetched.
        download_bytes: of those.
    """

    name: str
    folder: Path
    commit: str | None = None
    trust_remote_code: bool = False
    outline: Checkpoint | None = None
    download_bytes: int = 0

    def checkpoint(self) -> Checkpoint:
        """Its tensors, open; to be closed."""
        return self.outline or Checkpoint.open(self.folder, self.name)

    @property
    def slug(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")[:60] or "expert"

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of its weights, and of the files by which it reads; weights that are not here have none."""
        checkpoint = self.checkpoint()
        files = {path.name: sha256_file(path) for path in sorted(checkpoint.files)}
        checkpoint.close()
        texts = {name: sha256_file(self.folder / name) for name in _TEXTS if (self.folder / name).is_file()}
        return {
            "weights": _digest({"config": {**self.config, "_name_or_path": None}, "files": files}),
            "tokenizer": _digest(texts),
        }

    @cached_property
    def tokenizer(self) -> Any:
        from modist.mixture.load import load_tokenizer

        return load_tokenizer(self.folder, trust_remote_code=self.trust_remote_code)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The ids with which it ends an answer."""
        found: set[int] = set()
        generation = self.folder / "generation_config.json"
        sources = [self.config, *([read_json(generation)] if generation.is_file() else [])]
        for value in [source.get("eos_token_id") for source in sources]:
            found |= {number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)}
        own = getattr(self.tokenizer, "eos_token_id", None)
        return frozenset(found | ({int(own)} if own is not None else set()))

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.name, self.tokenizer, self.ends)

    @property
    def context(self) -> int | None:
        """The longest sequence it was made for, in tokens; None where its config does not say."""
        text = self.config.get("text_config")
        found = (text if isinstance(text, dict) else self.config).get("max_position_embeddings")
        return found if isinstance(found, int) else None

    def load(self, device: str | None, dtype: str, note: Any = None) -> Any:
        """The living model, in eval mode; raises as `modist.mixture.load.load_model`.

        Args:
            device: as a recipe's; None for a GPU where there is one.
        """
        import torch

        from modist.mixture.load import load_model
        from modist.mixture.placement import choose_device

        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        options: dict[str, Any] = {"dtype": dtype, "device_map": choose_device(place, note or (lambda line: None))}
        return load_model(self.name, self.folder, trust_remote_code=self.trust_remote_code, **options)


@dataclass(frozen=True, eq=False)
class Participants:
    """All of a recipe's models: the pivot, and the experts in the recipe's order."""

    pivot: Participant
    experts: tuple[Participant, ...]

    @classmethod
    def of(cls, recipe: FusionRecipe, *, trust_remote_code: bool = False, weights: bool = True) -> Participants:
        """Find them; what a hub has is fetched, the weights only where they are wanted.

        Raises:
            CheckpointError, HubError: one is no model, or cannot be had.
        """
        found = [
            _participant(reference, name, trust_remote_code, weights)
            for reference, name in zip((recipe.pivot, *recipe.experts), recipe.names, strict=True)
        ]
        return cls(found[0], tuple(found[1:]))

    @property
    def all(self) -> tuple[Participant, ...]:
        return (self.pivot, *self.experts)

    def teachers(self, recipe: FusionRecipe) -> tuple[Participant, ...]:
        """Those whose distributions are needed: the experts, and the pivot before them where it takes part."""
        if not recipe.fusion.include_pivot or (recipe.weights is not None and not recipe.weights[0]):
            return self.experts
        return self.all

    def named(self, names: Collection[str], recipe: FusionRecipe) -> tuple[Participant, ...]:
        """Those of the teachers that are called so; all where no name is given.

        Raises:
            UserError: there is none of a name.
        """
        teachers = self.teachers(recipe)
        known = [teacher.name for teacher in teachers]
        for name in names:
            if name not in known:
                raise UserError(f"--expert {name}: there is none of this name{nearest(name, known)} ({', '.join(known)})")
        return tuple(teacher for teacher in teachers if not names or teacher.name in names)


def _participant(reference: ModelReference, name: str, trust_remote_code: bool, weights: bool) -> Participant:
    if not reference.is_local and not weights:
        from modist.checkpoint.outline import outline

        found = outline(reference, allow_code=trust_remote_code)
        there = found.checkpoint
        return Participant(name, there.folder, found.commit, trust_remote_code, there, found.download_bytes)
    if not reference.is_local:
        fetched = fetch(reference, allow_code=trust_remote_code)
        return Participant(name, fetched.folder, fetched.commit, trust_remote_code)
    folder = reference.folder.resolve()
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{reference}: {folder} has no config.json, so it is no model")
    return Participant(name, folder, None, trust_remote_code)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
