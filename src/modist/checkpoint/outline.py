"""A model of a hub, planned with before its weights are downloaded: config, tokenizer and headers."""

from __future__ import annotations

from dataclasses import dataclass

from modist.checkpoint.folder import Checkpoint, read_json
from modist.checkpoint.header import StoredTensor
from modist.checkpoint.hub import describe, fetch, fetch_texts, headers
from modist.recipe.reference import ModelReference


@dataclass(frozen=True)
class Outline:
    """A checkpoint whose tensors may not be here yet.

    Attributes:
        checkpoint: with all its tensors' names, dtypes and shapes; readable only where `download_bytes` is 0.
        commit: of the hub.
        download_bytes: what is still to be fetched.
    """

    checkpoint: Checkpoint
    commit: str
    download_bytes: int


def outline(reference: ModelReference, *, allow_code: bool = False) -> Outline:
    """Look at a hub's model by its headers.

    A model that is whole in the cache is opened as it is; one without safetensors has no headers and is fetched.

    Raises: as `modist.checkpoint.hub.fetch`.
    """
    label = str(reference)
    listing = describe(reference, allow_code=allow_code)
    if listing.folder is not None:
        return Outline(Checkpoint.open(listing.folder, label), listing.commit, 0)
    if not any(file.name.endswith(".safetensors") for file in listing.files):
        fetched = fetch(reference, allow_code=allow_code)
        return Outline(Checkpoint.open(fetched.folder, label), fetched.commit, 0)
    pinned = ModelReference(reference.source, listing.commit)
    # By its own name, so that the cache knows what the name stood for when there is no hub to ask.
    texts = fetch_texts(reference, allow_code=allow_code)
    if texts.commit != listing.commit:
        texts = fetch_texts(pinned, allow_code=allow_code)
    folder = texts.folder
    tensors = {
        name: StoredTensor(name, entry.dtype, entry.shape, folder / file, entry.offsets[0], entry.offsets[1] - entry.offsets[0])
        for file, found in sorted(headers(pinned, listing).items())
        for name, entry in sorted(found.items(), key=lambda item: item[1].offsets)
    }
    checkpoint = Checkpoint(folder, label, read_json(folder / "config.json"), tensors, (), here=False)
    return Outline(checkpoint, listing.commit, listing.download_bytes)
