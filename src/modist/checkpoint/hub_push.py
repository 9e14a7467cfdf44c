"""A folder put on a hub: one commit with all of it, or none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from modist.checkpoint.hub_access import api, bars_only_on_a_terminal, endpoint, first_line, offline, token, transport_errors
from modist.errors import HubError, ModistError, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}")
# Of an older model in the same place, these would be read instead of the new one's, or beside them.
_STALE = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json",
          "chat_template.jin*", "chat_template.json", "tokenizer*", "added_tokens.json", "special_tokens_map.json", "vocab.*",
          "merges.txt")  # fmt: skip


@dataclass(frozen=True)
class Pushed:
    """What was put on a hub.

    Attributes:
        url: of the commit.
        commit: 40 hexadecimal digits.
        created: whether the repository was made for it.
        removed: files of an older model there that were taken away.
    """

    url: str
    commit: str
    created: bool
    removed: tuple[str, ...]


def check_destination(repo: str, revision: str | None) -> None:
    """Whether a repository and a branch can be named so; asks nobody.

    Raises:
        UserError: they cannot.
    """
    if not _ID.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")) or len(repo) > 96:
        raise UserError(f"{repo!r} is no repository of a hub; write OWNER/NAME, such as 'ada/merged-1.5B'")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UserError(f"{revision!r} cannot be a branch")
    if revision is not None and _SHA.fullmatch(revision):
        raise UserError(f"{revision!r} is a commit; --revision names a branch to commit to")


def push(
    folder: Path, names: Sequence[str], repo: str, *, public: bool = False, revision: str | None = None, message: str
) -> Pushed:
    """Commit files of a folder to a hub's repository, which is made where there is none.

    Args:
        names: the files, all in the folder itself.
        public: whether the repository is for everyone to see.
        revision: a branch, made where there is none; the main one by default.
        message: of the commit.

    Raises:
        UserError: the repository cannot be named so, or is public where `public` was not said.
        HubError: the hub does not let it happen.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
    from huggingface_hub.errors import RepositoryNotFoundError

    check_destination(repo, revision)
    if offline():
        raise HubError(f"{repo}: HF_HUB_OFFLINE forbids asking the hub")
    hub = api()
    _require_token(hub)
    with _plain_errors(repo), bars_only_on_a_terminal():
        try:
            private = hub.model_info(repo).private
        except RepositoryNotFoundError:
            private = None
        if private is False and not public:
            raise UserError(f"{repo} is public: what is pushed there, everyone sees; give --public if that is meant")
        if private is None:
            hub.create_repo(repo, private=not public)
        if revision is not None and revision != "main":
            hub.create_branch(repo, branch=revision, exist_ok=True)
        there = [] if private is None else hub.list_repo_files(repo, revision=revision)
        removed = [name for name in there if name not in names and any(fnmatchcase(name, pattern) for pattern in _STALE)]
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *(CommitOperationDelete(path_in_repo=name) for name in removed),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names),
        ]
        done = hub.create_commit(repo, operations, commit_message=message, revision=revision)
    return Pushed(str(done.commit_url), done.oid, private is None, tuple(removed))


def _require_token(hub: HfApi) -> None:
    from huggingface_hub import get_token

    if not (hub.token or get_token()):
        raise HubError(f"pushing to {endpoint()} needs a token that may write: put one into HF_TOKEN, or run hf auth login")


@contextmanager
def _plain_errors(repo: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line that says what to do."""
    from huggingface_hub import errors

    others: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError)
    try:
        yield
    except ModistError:
        raise
    except transport_errors() + others as raised:
        # What fails in a thread of huggingface_hub's comes wrapped.
        cause = raised.__cause__ if isinstance(raised, RuntimeError) else None
        error = cause if isinstance(cause, transport_errors() + others) else raised
        if isinstance(error, errors.HfHubHTTPError):
            raise HubError(f"{repo}: {_status(repo, error)}") from None
        if isinstance(error, transport_errors()):
            raise HubError(
                f"{repo}: the connection to {endpoint()} failed ({first_line(error)}); nothing was committed: run again,"
                " what was uploaded is not sent twice"
            ) from None
        raise HubError(f"{repo}: {' '.join(str(error).split()) or type(error).__name__}") from None


def _status(repo: str, error: object) -> str:
    code = int(error.response.status_code)  # type: ignore[attr-defined]
    said = str(getattr(error, "server_message", None) or "").strip().splitlines()
    because = f" ({said[0]})" if said else ""
    hub, held = endpoint(), token()
    whose = f"the token in {held[1]}" if held else "the token of your login"
    if code == 401:
        return f"{hub} does not accept {whose}{because}: make a new one that may write"
    if code == 403:
        owner = repo.split("/")[0]
        return f"{hub} forbids it{because}: {whose} may lack the right to write, or is not of {owner}"
    if code == 404:
        return f"{hub} has no such repository, or does not show it to {whose}{because}"
    if code == 409:
        return f"{hub} reports a conflict{because}: it was made or changed meanwhile; run again"
    if code == 413:
        return f"{hub} finds it too large{because}"
    if code == 429:
        return f"{hub} has had too many requests from here{because}: wait some minutes and run again"
    return f"{hub} answers with status {code}{because}" + (": try again later" if code >= 500 else "")
