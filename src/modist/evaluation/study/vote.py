"""Voting: many sampled answers to one question, and the one that most of them give.

Self-consistency (Wang et al. 2022, arXiv 2203.11171) over the answers of one parent or of several.  What a user has without
merging, at the price of as many answers as there are votes; a row's tokens say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modist.evaluation.record import Record


def vote(ballots: Sequence[Record]) -> Record:
    """The winning answer.

    Each ballot is for its extracted answer, blanks and capitals aside.  An empty one (nothing found in the output, or an answer
    that failed) is no vote unless all are.  A tie goes to the answer whose first ballot came first, so to the earlier parent.

    Args:
        ballots: answers to one question, parent by parent, sample by sample; at least one.

    Returns:
        A record with the first winning ballot's output, and the tokens and seconds of all ballots.  The two graders are counted
        apart: each judges the majority among the spans that it extracted.
    """
    winner = ballots[_elected([_ballot(record.extracted) for record in ballots])]
    published = ballots[_elected([_ballot(record.extracted_compatible) for record in ballots])]
    return replace(
        winner,
        sample=0,
        batch=0,
        tokens=sum(record.tokens for record in ballots),
        prompt_tokens=sum(record.prompt_tokens for record in ballots),
        seconds=sum(record.seconds for record in ballots),
        extracted_compatible=published.extracted_compatible,
        equal_compatible=published.equal_compatible,
    )


def votes_for(ballots: Sequence[Record]) -> dict[str, int]:
    """How many ballots each answer has, the most first."""
    counts = _counts([_ballot(record.extracted) for record in ballots])
    return dict(sorted(counts.items(), key=lambda entry: -entry[1]))


def _ballot(extracted: str) -> str:
    return "".join(extracted.split()).casefold()


def _counts(ballots: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for ballot in ballots:
        if ballot:
            counts[ballot] = counts.get(ballot, 0) + 1
    return counts


def _elected(ballots: Sequence[str]) -> int:
    """The place of the first ballot for the answer with the most; 0 where there is no vote."""
    counts = _counts(ballots)
    if not counts:
        return 0
    most = max(counts.values())
    return next(place for place, ballot in enumerate(ballots) if counts.get(ballot) == most)
