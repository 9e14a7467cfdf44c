"""`push`: a result, verified, put on a hub with its card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.hub_access import endpoint
from modist.checkpoint.hub_push import check_destination
from modist.checkpoint.hub_push import push as push_files
from modist.checkpoint.staging import MANIFEST
from modist.errors import CheckpointError, UserError
from modist.merge.manifest import read_manifest
from modist.merge.verify import CARD, verify
from modist.report.card import front_matter


@dataclass(frozen=True)
class Push:
    """What a push does, or did.

    Attributes:
        folder, repo, revision: from where to where; a revision of None is the main branch.
        hub: its address.
        public: whether everyone sees a repository made for it.
        message: of the commit.
        files: name -> bytes.
        warnings: remarks on the card.
        url, commit, created, removed: of what was done; None or empty before.
    """

    folder: str
    repo: str
    revision: str | None
    hub: str
    public: bool
    message: str
    files: dict[str, int]
    warnings: tuple[str, ...] = ()
    url: str | None = None
    commit: str | None = None
    created: bool | None = None
    removed: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(self.files.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_bytes": self.total_bytes}


def push(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> Push:
    """Put a result of modist on a hub, if it is what its manifest says.

    Args:
        folder: what `merge` wrote.
        repo: `OWNER/NAME`; made where there is none, and private unless `public`.
        revision: a branch, made where there is none.
        message: of the commit; says the method and version where it is left out.
        dry_run: say what would be done, and ask no hub.

    Raises:
        UserError: no result of modist, a name that cannot be one, or a public repository where `public` was not said.
        CheckpointError: the folder does not verify (an edited card is no fault).
        HubError: the hub does not let it happen.
    """
    folder = Path(folder)
    check_destination(repo, revision)
    report = verify(folder)
    failed = next((check for check in report.checks if not check.passed), None)
    if failed is not None:
        raise CheckpointError(f"{folder} does not verify, so it is not pushed: {failed.name}: {failed.detail}")
    manifest = read_manifest(folder) or {}
    names = [*manifest["files"], MANIFEST]
    if CARD not in names:
        raise UserError(f"{folder}: has no {CARD}, and a model without its card is not pushed")
    made = Push(
        folder=str(folder),
        repo=repo,
        revision=revision,
        hub=endpoint(),
        public=public,
        message=message or f"Merge by {manifest.get('method')} (modist {manifest.get('versions', {}).get('modist')})",
        files={name: (folder / name).stat().st_size for name in names},
        warnings=tuple(_card_remarks(folder, manifest)),
    )
    if dry_run:
        return made
    done = push_files(folder, names, repo, public=public, revision=revision, message=made.message)
    return Push(**{**vars(made), **vars(done)})


def _card_remarks(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What a reader on the hub cannot follow."""
    listed = front_matter(folder).get("base_model")
    local = [entry["model"] for entry in manifest.get("inputs", []) if entry.get("commit") is None]
    named = [name for name in listed if name in local] if isinstance(listed, list) else []
    if not named:
        return []
    folders = "is a folder" if len(named) == 1 else "are folders"
    return [
        f"the card's base_model names {', '.join(named)}, which {folders} here and no model there; edit its README.md, or"
        " merge from hub ids"
    ]
