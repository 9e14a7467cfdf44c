"""Which hub, with which token, into which cache; and what went wrong there, in one line.

`huggingface_hub` is imported inside the functions (it takes 0.3 s).  Its environment is respected:
`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from modist.errors import HubError, ModistError, UserError, nearest
from modist.recipe.reference import ModelReference

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TRUE = {"1", "ON", "YES", "TRUE"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
# What git takes as the name of a branch, tag or commit, narrowed to what cannot leave a folder.
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)


def token() -> tuple[str, str] | None:
    """The token and the variable it came from: `HF_TOKEN`, else `HF_AUTH_TOKEN` (the released MoD code's).

    None leaves it to huggingface_hub, which knows of `hf auth login`.
    """
    for variable in ("HF_TOKEN", "HF_AUTH_TOKEN"):
        if value := os.environ.get(variable, "").strip():
            return value, variable
    return None


def secret() -> str | None:
    """The token alone, as huggingface_hub's `token` argument takes it."""
    held = token()
    return held[0] if held else None


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT` as it is now (huggingface_hub reads it only once, at its import)."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or constants.ENDPOINT


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids asking the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def cache_folder(cache: Path | None) -> Path:
    """`cache`, or huggingface_hub's own cache."""
    from huggingface_hub import constants

    return (cache or Path(constants.HF_HUB_CACHE)).expanduser().absolute()


def api() -> HfApi:
    """The hub's client."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=secret(), library_name="modist")


def transport_errors() -> tuple[type[Exception], ...]:
    """A connection that failed or broke.  Its class is httpx's or httpx2's, as huggingface_hub uses it."""
    from huggingface_hub.errors import HfHubHTTPError

    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    kinds: list[type[Exception]] = http_error.__subclasses__()
    return (ConnectionError, *(kind for kind in kinds if kind.__name__ == "RequestError"))


@contextmanager
def bars_only_on_a_terminal() -> Iterator[None]:
    """huggingface_hub's progress bars, where a person sees them."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def plain_errors(reference: ModelReference, cache: Path | None = None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line that says what to do.

    Raises:
        UserError: no such id or revision, or neither can be one.
        HubError: everything else.
    """
    from huggingface_hub import errors

    if reference.is_local:
        raise UserError(f"{reference} is a folder or a path, not a hub id")
    if reference.revision is not None and not _REVISION.fullmatch(reference.revision):
        raise UserError(f"{reference.revision!r} cannot be a revision of {reference.source}")
    others: tuple[type[Exception], ...] = (
        errors.EntryNotFoundError,
        errors.SafetensorsParsingError,
        OSError,
        RuntimeError,
        ValueError,
    )
    try:
        yield
    except ModistError:
        raise
    except transport_errors() + others as error:
        raise _explain(reference, error, cache_folder(cache)) from None


def _explain(reference: ModelReference, error: BaseException, cache: Path) -> ModistError:
    from huggingface_hub import errors

    name, hub = reference.source, endpoint()
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _explain(reference, error.__cause__, cache)
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name!r} cannot be a hub id; one looks like 'Qwen/Qwen2.5-1.5B-Instruct'")
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{name} is gated: accept its licence at {hub}/{name}, then {_with_token()}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{hub} has no model {name!r}, or shows it only to some: if it is private, {_with_token()}")
    if isinstance(error, errors.RevisionNotFoundError):
        revision = reference.revision or "main"
        return UserError(f"{name} has no revision {revision!r}{nearest(revision, _revisions(name))}")
    if isinstance(error, errors.HfHubHTTPError):
        return HubError(f"{name}: {_status(error.response.status_code)}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"{name} is not in the cache, and HF_HUB_OFFLINE forbids asking the hub")
    if isinstance(error, errors.SafetensorsParsingError):
        return HubError(f"{name}: a safetensors header on the hub does not read: {first_line(error)}")
    if isinstance(error, OSError) and error.errno in _FULL:
        return HubError(
            f"{name}: the disk of {cache} is full; make room, or set HF_HOME to another disk, and run again:"
            " finished files are kept"
        )
    if isinstance(error, OSError) and error.errno in _DENIED:
        return HubError(f"{name}: cannot write to {error.filename or cache}: {error.strerror}")
    if isinstance(error, transport_errors()) or "Consistency check failed" in str(error):
        return HubError(
            f"{name}: the connection to {hub} failed ({first_line(error)}); run again to go on: finished files are kept"
        )
    return HubError(f"{name}: {first_line(error)}")


def _status(code: int) -> str:
    """What an HTTP status means to the one who asked."""
    held, hub = token(), endpoint()
    if code == 401 and held:
        return f"{hub} does not accept the token in {held[1]}: make a new one, or unset it for a public model"
    if code == 401:
        return f"{hub} asks for a token (set HF_TOKEN), or does not accept the one of your login"
    if code == 403:
        return f"{hub} forbids it: the token in use may lack the right to read this model"
    if code == 429:
        return f"{hub} has had too many requests from here: wait some minutes and run again"
    return f"{hub} answers with status {code}" + (": try again later" if code >= 500 else "")


def _with_token() -> str:
    """What to do where it depends on who asks."""
    held = token()
    if held:
        return f"use a token of an account that may read it (the one in {held[1]} may not)"
    return "put the token of an account that may read it into HF_TOKEN"


def _revisions(name: str) -> list[str]:
    """Branches and tags, or nothing where the hub does not tell."""
    with suppress(Exception):  # only a hint is lost
        refs = api().list_repo_refs(name)
        return [ref.name for ref in (*refs.branches, *refs.tags)]
    return []


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
