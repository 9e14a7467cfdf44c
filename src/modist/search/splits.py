"""The metric on two splits of the data: candidates are chosen on the first, and the second says what the choice is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modist.errors import UserError
from modist.search.disjoint import separate
from modist.search.found import FIRST, SECOND
from modist.search.metric import Sum, read_metrics
from modist.search.part import Part


class Splits:
    """The metric of each split, its data read and known to hold no test question.

    Attributes:
        asked: split -> what `read_metrics` was called with, plain data that workers elsewhere can be sent.
        metrics: split -> the metric; without a second split, of the first alone.
    """

    def __init__(
        self,
        metric: Sequence[str],
        second: Sequence[str] = (),
        hold_out: bool = True,
        asking: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the data.

        Args:
            metric: as `read_metrics`.
            second: the metric of the second split; left out, half of the first one's data is kept for it.
            hold_out: whether there is a second split at all.
            asking: more of `read_metrics`, for both.

        Raises:
            UserError: as `read_metrics`; both splits hold one question; a second split that there is not to be.
        """
        if second and not hold_out:
            raise UserError("--second and --no-second exclude each other")
        more = dict(asking or {})
        halves = hold_out and not second
        self.asked: dict[str, tuple[list[str], dict[str, Any]]] = {
            FIRST: (list(metric), {**more, "part": Part(0, 2)} if halves else more)
        }
        if hold_out:
            self.asked[SECOND] = (list(metric), {**more, "part": Part(1, 2)}) if halves else (list(second), more)
        self.metrics: dict[str, Sum] = {split: read_metrics(texts, **given) for split, (texts, given) in self.asked.items()}
        if second:
            separate(self.metrics[FIRST].samples(), self.metrics[SECOND].samples(), self.metrics[SECOND].name)

    @property
    def notes(self) -> list[str]:
        """What could not be looked at."""
        absent = list(dict.fromkeys(name for metric in self.metrics.values() for name in metric.absent))
        if not absent:
            return []
        return [f"the data could not be compared with test sets that are not on this machine: {', '.join(absent)}"]

    @property
    def identity(self) -> dict[str, Any]:
        """What another search would have another one of, as JSON."""
        found: dict[str, Any] = {}
        for split, metric in self.metrics.items():
            found |= {f"{split} metric": metric.name, f"{split} data": metric.digest()}
        return found
