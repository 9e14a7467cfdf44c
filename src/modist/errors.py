"""What can go wrong, by whose hand it is mended.

Every error carries one line fit for a person: what, where, the bad value, the nearest right one.  The command line prints
that line and leaves with `exit_status`; no traceback reaches a user.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModistError(Exception):
    """Base of every error modist raises on purpose."""

    exit_status = 1


class UserError(ModistError):
    """What the user wrote cannot stand: a flag, a path, a combination of models (exit status 2)."""

    exit_status = 2


class RecipeError(UserError):
    """A recipe is wrong.  The message starts with `file:line: key:` (exit status 2)."""


class CheckpointError(ModistError):
    """A model folder is damaged, unreadable or unsafe (exit status 1)."""


class HubError(ModistError):
    """A hub could not give what was asked of it (exit status 1)."""


class MergeError(ModistError):
    """A merge could not be finished; what was finished is kept for `--resume` (exit status 1)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of `known`, or an empty string when nothing is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""
