"""What to do with some experts, decided from measured differences: use the best alone, merge, or mix.

    merge   if it is better than the best expert by more than sampling error, and the mixture is not better than the merge by
            more than sampling error: it is one model, with one model's cost
    mix     else, if the mixture is better than the best expert by more than sampling error
    alone   else: nothing that can be shown is lost, and nothing has to be made

Sampling error is a 95% interval of paired differences on data that neither fitted the weights nor chose the merge.  Of a
likelihood, less than a thousandth of a nat a token is no difference at all (`evidence.NOTICED`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modist.search.evidence import Difference

Kind = Literal["alone", "mix", "merge"]


@dataclass(frozen=True)
class Verdict:
    """What to do, and the sentence that says why."""

    kind: Kind
    reason: str


def decide(mixture: Difference, merge: Difference | None, beyond: Difference | None, best: str) -> Verdict:
    """Apply the rule.

    Args:
        mixture: of the mixture over the best expert.
        merge: of the best merge over the best expert; None where the experts cannot be merged.
        beyond: of the mixture over the best merge; None likewise.
        best: the best expert's name.
    """
    if merge is not None and beyond is not None and merge.shown and not beyond.shown:
        if beyond.high < 0:
            return Verdict("merge", f"the merge is better than {best} and than the mixture, and it is one model")
        return Verdict("merge", f"the merge is better than {best}, no worse than the mixture can be shown to be, and one model")
    if mixture.shown:
        if merge is None:
            return Verdict("mix", f"the mixture is better than {best}, and these experts cannot be merged")
        if not merge.shown:
            return Verdict("mix", f"the mixture is better than {best}, and no cheap merge is")
        return Verdict("mix", f"the mixture is better than {best} and than the best cheap merge")
    others = "the mixture" if merge is None else "neither the mixture nor a cheap merge"
    isnt = "is not" if merge is None else "is"
    return Verdict("alone", f"{others} {isnt} better than {best} by more than sampling error")
