"""Stop texts: where an answer ends that its model did not end."""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop texts, and whether there was one."""
    places = [text.index(one) for one in stop if one in text]
    return (text[: min(places)], True) if places else (text, False)


def reach(stop: Sequence[str]) -> int:
    """How many of the last tokens hold any stop text that the last token has completed.

    Each token but special ones brings a byte of text or more.  Four more tokens are for a character cut in two at the
    beginning, and for the space some tokenizers drop there.
    """
    return max((len(one.encode("utf-8", "replace")) for one in stop), default=0) + 4
