"""`modist hub`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modist.cli.amount import show_amount

if TYPE_CHECKING:
    from modist.merge.publish import Push

hub_app = typer.Typer(help="Put results on a hub.", no_args_is_help=True, rich_markup_mode=None)


@hub_app.callback()
def _hub() -> None:
    pass


@hub_app.command("push")
def push_command(
    folder: Path = typer.Argument(help="A folder that `modist merge` wrote."),
    repo: str = typer.Argument(help="OWNER/NAME on the hub; made where there is none."),
    public: bool = typer.Option(False, "--public", help="For everyone to see; private otherwise."),
    revision: str = typer.Option(None, help="A branch, made where there is none; the main one by default."),
    message: str = typer.Option(None, help="Of the commit."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Verify, and show files and destination; ask no hub."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Verify FOLDER and put it on a hub as REPO, with its model card."""
    from modist.merge.publish import push

    done = push(folder, repo, public=public, revision=revision, message=message, dry_run=dry_run)
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    for text in done.warnings:
        print(f"modist: warning: {text}", file=sys.stderr)
    _show(done)


def _show(done: Push) -> None:
    for name, size in done.files.items():
        print(f"{size:>16,}  {name}")
    where = f"{done.hub}/{done.repo}" + (f" (branch {done.revision})" if done.revision else "")
    seen = "public" if done.public else "private"
    total = f"{len(done.files)} files, {show_amount(done.total_bytes)}"
    if done.commit is None:
        print(f"would push {total} to {where}, {seen}: {done.message!r}")
        return
    for name in done.removed:
        print(f"removed there: {name}")
    made = f"made {done.repo}, {seen}, and " if done.created else ""
    print(f"{made}pushed {total}: {done.url}")
