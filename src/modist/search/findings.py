"""What a search of weights found, in sentences: with figures, and plainly where mixing does not help."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modist.search.mixture import MixtureSearch

# Rows below which a percentile interval is known to be too narrow; how often it covers is tested with 200.
_FEW = 100
# An interval that comes this near to 0 or 1 touches it.
_EDGE = 1e-3
# Nats a token that nobody would notice.
_SLIGHT = 1e-3
_MEANS_LITTLE = (
    "likelihood says how well given text is predicted, not how many answers come out right; --metric accuracy asks for those"
)


def findings(found: MixtureSearch) -> list[str]:
    """One line each, the most important first."""
    more = [_MEANS_LITTLE] if found.sweep is None else found.sweep.findings()
    return [*_gain(found), *_recipe(found), *_gate(found), *_edges(found), *_doubts(found), *more]


def _gain(found: MixtureSearch) -> list[str]:
    best = found.names[found.best]
    value, low, high = found.intervals.gain
    if math.isinf(value):
        return ["no expert alone can say every token of this data; only a mixture can"]
    held, below, above = found.held_out_gain
    figures = f"(95% interval {low:.4f} to {high:.4f}; held out {held:.4f}, {below:.4f} to {above:.4f})"
    if found.weights[found.best] == 1:
        return [f"mixing does not help on this data: {best} alone is the best mixture"]
    if not below > 0:
        return [
            f"mixing does not help on this data as far as {found.rows:,} rows can tell: {value:.4f} nats a token over the best"
            f" expert, {best} {figures}"
        ]
    slight = "only " if value < 10 * _SLIGHT else ""
    return [f"mixing gains {slight}{value:.4f} nats a token over the best expert, {best} {figures}"]


def _recipe(found: MixtureSearch) -> list[str]:
    given = found.held.given
    assert given is not None
    if math.isinf(given):
        return ["the recipe's weights give some token probability 0"]
    loss = given - found.fit.nats_per_token
    best = given - float(found.fit.experts.min())
    if loss < _SLIGHT:
        return [f"the recipe's weights are as good (within {_SLIGHT:g} nats a token)"]
    beside = f", and {best:.4f} worse than {found.names[found.best]} alone" if best > _SLIGHT else ""
    return [f"the recipe's weights lose {loss:.4f} nats a token to these{beside}"]


def _gate(found: MixtureSearch) -> list[str]:
    gate = found.gate
    if gate is None:
        return []
    value = gate.gain[0]
    low, high = gate.interval
    if not low > 0:
        told = "" if math.isnan(value) else f" (held out {value:.4f} nats a token, {low:.4f} to {high:.4f})"
        return [f"a gate that follows the text would gain nothing that can be shown{told}"]
    shown = ", ".join(f"{weight:.4g}" for weight in gate.weights)
    return [
        f"a gate that follows the text would gain {value:.4f} nats a token more, held out ({low:.4f} to {high:.4f}): weights"
        f" [{shown}] with --gate bayes --discount {gate.discount:.4g} --stride {gate.stride} (--choose gate writes them)"
    ]


def _edges(found: MixtureSearch) -> list[str]:
    lines = []
    for place, name in enumerate(found.names):
        low, high = found.intervals.low[place], found.intervals.high[place]
        if found.weights[place] == 0:
            lines.append(f"{name} has weight 0: on this data it adds nothing to the others")
        elif low <= _EDGE:
            lines.append(f"the interval of {name} reaches 0: this data does not show that it is needed")
        elif high >= 1 - _EDGE and found.weights[place] < 1:
            lines.append(f"the interval of {name} reaches 1: this data does not show that another is needed")
    return lines


def _doubts(found: MixtureSearch) -> list[str]:
    lines = []
    for one, other in found.alike:
        lines.append(
            f"{found.names[one]} and {found.names[other]} say the same of every token: how a weight is split between them"
            " changes nothing"
        )
    if not found.fit.unique and not found.alike:
        lines.append("other weights are as likely: these experts, or mixtures of them, cannot be told apart on this data")
    if found.rows < _FEW:
        lines.append(f"{found.rows:,} rows are few: intervals are too narrow below about {_FEW}")
    if not found.fit.converged:
        lines.append(f"the climb stopped early: no weights are better by more than {found.fit.gap:.2g} nats a token")
    return lines
