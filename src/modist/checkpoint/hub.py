"""Models named by a hub id: what a hub holds of them, and a local copy of what a merge needs.

A finished file is never fetched twice.  A connection that breaks within a file is taken up again where it
broke, as long as the process lives; a new process begins that one file again (huggingface_hub keeps no
unfinished files).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from modist.checkpoint.hub_access import (
    api,
    bars_only_on_a_terminal,
    cache_folder,
    endpoint,
    offline,
    plain_errors,
    secret,
    transport_errors,
)
from modist.errors import HubError
from modist.recipe.reference import ModelReference

_log = logging.getLogger("modist.hub")

# What a merge reads or carries over, all of it in the repository's root.
_TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "tokenizer*", "vocab.txt", "merges.txt")
_PAPERS = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*")
_SAFETENSORS = ("*.safetensors",)
_PICKLES = ("pytorch_model*.bin",)
_CODE = ("*.py",)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# Subfolders, and copies in another layout (Mistral's consolidated weights): they only lengthen the download.
_LEFT_OUT = ("*/*", "consolidated*.safetensors")

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Fetched:
    """A local copy: its folder (of links into the cache) and the commit it holds, 40 hexadecimal digits."""

    folder: Path
    commit: str


@dataclass(frozen=True)
class HubFile:
    """One file a merge needs: its name, its size in bytes, and whether the cache holds it already."""

    name: str
    size: int
    cached: bool


@dataclass(frozen=True)
class HubListing:
    """What a hub holds of a model, as far as a merge needs it; nothing has been downloaded.

    Attributes:
        source: the hub id.
        commit: what the revision stands for now, 40 hexadecimal digits.
        files: the files a merge needs, by name.
        folder: the local copy when every file is cached, else None.
    """

    source: str
    commit: str
    files: tuple[HubFile, ...]
    folder: Path | None

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def download_bytes(self) -> int:
        """Bytes still to be downloaded."""
        return sum(file.size for file in self.files if not file.cached)


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as a safetensors header gives it: offsets are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


def fetch(reference: ModelReference, *, allow_code: bool = False, cache: Path | None = None) -> Fetched:
    """A local copy of a hub model: its weights, configuration, tokenizer and papers, and nothing else.

    Args:
        reference: the hub id, perhaps with a revision.
        allow_code: fetch the repository's Python files too (they are never run here).
        cache: the cache folder; huggingface_hub's own by default.

    Raises:
        UserError: no such id or revision.
        HubError: token refused, gated model, no connection, full disk, a file outside the cache.
    """
    with plain_errors(reference, cache):
        if offline():
            return _from_cache(reference, allow_code, cache)
        if _COMMIT.fullmatch(reference.revision or ""):
            with suppress(HubError):  # a commit never changes: what is whole in the cache needs no hub
                return _from_cache(reference, allow_code, cache)
        try:
            listing = _ask(reference, allow_code, cache)
        except transport_errors() as broken:
            with suppress(HubError):
                found = _from_cache(reference, allow_code, cache)
                _log.warning("%s: no connection; using commit %s from the cache", reference, found.commit[:12])
                return found
            raise broken
        _check_space(reference, listing.download_bytes, cache_folder(cache))
        allow = _patterns((file.name for file in listing.files), allow_code)
        folder = _snapshot(reference, allow, cache, local=False)
        return Fetched(folder, folder.name)


def fetch_texts(reference: ModelReference, *, allow_code: bool = False, cache: Path | None = None) -> Fetched:
    """The same without the weights: what a plan needs beside `headers`.

    Raises: as `fetch`.
    """
    with plain_errors(reference, cache):
        folder = _snapshot(reference, (*_TEXTS, *_PAPERS, *(_CODE if allow_code else ())), cache, local=offline())
        return Fetched(folder, folder.name)


def fetch_adapter(reference: ModelReference, *, cache: Path | None = None) -> Fetched:
    """A local copy of a hub's LoRA adapter: its config, factors and papers.

    Raises: as `fetch`; HubError where the repository holds no adapter.
    """
    with plain_errors(reference, cache):
        folder = _snapshot(reference, (*_ADAPTER, *_PAPERS), cache, local=offline())
    lacking = [name for name in _ADAPTER[:1] if not (folder / name).exists()]
    if lacking or not any((folder / name).exists() for name in _ADAPTER[1:]):
        raise HubError(f"{reference} holds no adapter: {(lacking or [' or '.join(_ADAPTER[1:])])[0]} is missing")
    return Fetched(folder, folder.name)


def describe(reference: ModelReference, *, allow_code: bool = False, cache: Path | None = None) -> HubListing:
    """What `fetch` would do: the commit, the files with their sizes, which are cached.  Writes nothing.

    Raises: as `fetch`.
    """
    with plain_errors(reference, cache):
        if not offline():
            return _ask(reference, allow_code, cache)
        found = _from_cache(reference, allow_code, cache)
        allow = _patterns((path.name for path in found.folder.iterdir()), allow_code)
        held = sorted(path for path in found.folder.iterdir() if path.is_file() and _is_wanted(path.name, allow))
        files = tuple(HubFile(path.name, path.stat().st_size, True) for path in held)
        return HubListing(reference.source, found.commit, files, found.folder)


def headers(reference: ModelReference, listing: HubListing | None = None) -> dict[str, dict[str, TensorHeader]]:
    """The safetensors headers of a hub model, read by range requests: {file: {tensor: header}}.

    Args:
        reference: the hub id, perhaps with a revision.
        listing: what `describe` said, if it was asked already.

    Raises: as `fetch`; and HubError when the model has no safetensors files (a pickle has no header to read).
    """
    with plain_errors(reference):
        listing = listing or _ask(reference, False, None)
        names = [file.name for file in listing.files if file.name.endswith(".safetensors")]
        if not names:
            raise HubError(f"{reference} has no safetensors files: its tensors are known once it is downloaded")
        hub = api()
        found = {}
        for name in names:
            parsed = hub.parse_safetensors_file_metadata(reference.source, name, revision=listing.commit)
            found[name] = {
                tensor: TensorHeader(info.dtype, tuple(info.shape), info.data_offsets)
                for tensor, info in parsed.tensors.items()
            }
        return found


def _ask(reference: ModelReference, allow_code: bool, cache: Path | None) -> HubListing:
    """The listing of what a merge needs, from the hub; refuses names that would be written elsewhere."""
    from huggingface_hub import RepoFile

    hub = api()
    commit = hub.model_info(reference.source, revision=reference.revision).sha or ""
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"{endpoint()} does not answer as a hub does: {commit!r} as the commit of {reference}")
    tree = hub.list_repo_tree(reference.source, recursive=True, revision=commit)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    for name in files:
        _check_name(reference, name)
    store = cache_folder(cache) / f"models--{reference.source.replace('/', '--')}"
    folder = store / "snapshots" / commit

    def cached(entry: RepoFile) -> bool:
        etag = entry.lfs.sha256 if entry.lfs else entry.blob_id  # a blob may be there from another commit
        return (folder / entry.path).exists() or (store / "blobs" / etag).exists()

    allow = _patterns(files, allow_code)
    wanted = [files[name] for name in sorted(files) if _is_wanted(name, allow)]
    if not any(_is_wanted(entry.path, _SAFETENSORS + _PICKLES) for entry in wanted):
        gguf = "; it holds GGUF files, which are quantised: name the model they were made from"
        raise HubError(
            f"{reference} holds neither *.safetensors nor pytorch_model*.bin files"
            + (gguf if any(name.endswith(".gguf") for name in files) else "")
        )
    listed = tuple(HubFile(entry.path, entry.size, cached(entry)) for entry in wanted)
    whole = all((folder / entry.path).exists() for entry in wanted)
    return HubListing(reference.source, commit, listed, folder if whole else None)


def _patterns(names: Iterable[str], allow_code: bool) -> tuple[str, ...]:
    """Which of such a repository's files to take: pickles only where there are no safetensors."""
    weights = _SAFETENSORS if any(_is_wanted(name, _SAFETENSORS) for name in names) else _PICKLES
    return (*_TEXTS, *_PAPERS, *weights, *(_CODE if allow_code else ()))


def _is_wanted(name: str, allow: Iterable[str]) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in _LEFT_OUT):
        return False
    return any(fnmatchcase(name, pattern) for pattern in allow)


def _check_name(reference: ModelReference, name: str) -> None:
    """Refuse a listed file whose name leaves its folder, on this system or another."""
    parts = re.split(r"[/\\]", name)
    leaves = "\\" in name or any(part in ("", ".", "..") or ":" in part for part in parts)
    if leaves or not name.isprintable():
        raise HubError(f"{reference} is refused: it lists a file {name!r}, which would lie outside its folder")


def _snapshot(reference: ModelReference, allow: Iterable[str], cache: Path | None, *, local: bool) -> Path:
    from huggingface_hub import snapshot_download

    with bars_only_on_a_terminal():
        folder = snapshot_download(
            reference.source,
            revision=reference.revision,
            cache_dir=cache_folder(cache),
            allow_patterns=list(allow),
            ignore_patterns=list(_LEFT_OUT),
            local_files_only=local,
            token=secret(),
            endpoint=endpoint(),
            library_name="modist",
        )
    return Path(folder)


def _from_cache(reference: ModelReference, allow_code: bool, cache: Path | None) -> Fetched:
    """The copy the cache holds.

    Raises:
        HubError: it holds none, or not the whole of it.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    missing = ""
    with suppress(LocalEntryNotFoundError):
        allow = (*_TEXTS, *_PAPERS, *_SAFETENSORS, *(_CODE if allow_code else ()))
        folder = _snapshot(reference, allow, cache, local=True)
        lacking = _lacking(folder)
        if not lacking:
            return Fetched(folder, folder.name)
        missing = f" (no {lacking[0]})"
    raise HubError(
        f"{reference} is not whole in the cache {cache_folder(cache)}{missing}: unset HF_HUB_OFFLINE, or"
        " fetch it once where there is a connection"
    )


def _lacking(folder: Path) -> list[str]:
    """The files without which the folder is no model; the weights' own index says which there must be."""
    names = ["config.json"]
    held = [path.name for path in folder.iterdir()]
    for single, pattern in (("model.safetensors", _SAFETENSORS), ("pytorch_model.bin", _PICKLES)):
        index = folder / f"{single}.index.json"
        if index.exists():
            with suppress(ValueError, LookupError, AttributeError, TypeError):  # damaged: who opens it will say so
                names += sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            break
        if any(_is_wanted(name, pattern) for name in held):
            break
    else:
        names.append("model.safetensors")
    return [name for name in names if not (folder / name).exists()]


def _check_space(reference: ModelReference, needed: int, cache: Path) -> None:
    """Say so before gigabytes have been fetched.

    Raises:
        HubError: the disk of the cache has fewer than `needed` bytes free.
    """
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise HubError(
            f"{reference}: {needed / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free in {cache}: make room,"
            " or set HF_HOME to another disk"
        )
