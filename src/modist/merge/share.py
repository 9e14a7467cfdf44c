"""What each parent gave to a finished merge, overall and by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modist.merge.engine import Note
from modist.merge.plan import Plan, PlannedTensor

OUTSIDE = "outside layers"


@dataclass(frozen=True)
class ParentShare:
    """What one parent gave.

    Attributes:
        name: as the user called it.
        role: `base`, or `expert`.
        quantity: `share` (fraction of the elements taken from it), `delta kept` (norm of its delta that entered over the norm
            of its whole delta), or `weight` (its coefficient, averaged over elements).
        overall: the number for the whole model, None where it has none (a base has no delta).
        layers: the same by layer, keyed by number or "outside layers".
    """

    name: str
    role: str
    quantity: str
    overall: float | None
    layers: dict[str, float | None]

    @property
    def phrase(self) -> str:
        if self.overall is None:
            return "the base"
        if self.quantity == "weight":
            return f"weight {self.overall:.4g}"
        what = "of the elements" if self.quantity == "share" else "of its delta's norm kept"
        return f"{percent(self.overall)} {what}"


def percent(fraction: float) -> str:
    """A percentage that does not round 99.998% up to all, nor a trace down to none."""
    for digits in (1, 2, 3, 4, 5):
        text = f"{100 * fraction:.{digits}f}"
        if float(text) not in (0.0, 100.0) or fraction in (0.0, 1.0):
            return text + "%"
    return f"{100 * fraction:.2g}%" if fraction < 0.5 else ">99.99999%"


def shares(plan: Plan, notes: Mapping[str, Note]) -> list[ParentShare]:
    """Sum the engine's notes into one `ParentShare` for each input."""
    groups: dict[str, list[PlannedTensor]] = {}
    for planned in plan.tensors:
        groups.setdefault(OUTSIDE if planned.layer is None else str(planned.layer), []).append(planned)
    kind = plan.method.reports
    weight = plan.method.parameter("weight")
    # Where deltas are merged, or weights are the other models' alone, the base is what they are measured from.
    origin = kind == "delta" or (weight is not None and weight.scope == "other")
    found = []
    for index, name in enumerate(plan.names):
        role = "base" if index == plan.base else "expert"
        measure = {"share": _taken, "delta": _kept, "weight": _weight}[kind]
        if origin and role == "base":
            found.append(ParentShare(name, role, "delta kept" if kind == "delta" else kind, None, {}))
            continue
        layers = {group: measure(plan, entries, notes, index) for group, entries in groups.items()}
        overall = measure(plan, plan.tensors, notes, index)
        found.append(ParentShare(name, role, "delta kept" if kind == "delta" else kind, overall, layers))
    return found


def _taken(plan: Plan, entries: Any, notes: Mapping[str, Note], index: int) -> float | None:
    total = sum(planned.tensor.size for planned in entries)
    taken = sum(notes[planned.name].get(f"taken {index}", 0.0) for planned in entries)
    return taken / total if total else None


def _kept(plan: Plan, entries: Any, notes: Mapping[str, Note], index: int) -> float | None:
    before = math.fsum(notes[planned.name].get(f"norm {index}", 0.0) for planned in entries)
    after = math.fsum(notes[planned.name].get(f"kept {index}", 0.0) for planned in entries)
    return math.sqrt(after / before) if before else 0.0


def _weight(plan: Plan, entries: Any, notes: Mapping[str, Note], index: int) -> float | None:
    total, amount = 0, 0.0
    for planned in entries:
        total += planned.tensor.size
        amount += planned.tensor.size * _coefficient(planned, index)
    return amount / total if total else None


def _coefficient(planned: PlannedTensor, index: int) -> float:
    tensor = planned.tensor
    if "t" in tensor.values:
        t = tensor.number("t")
        return 1 - t if index == tensor.base else t
    weights = [float(each.get("weight", 0.0 if place == tensor.base else 1.0)) for place, each in enumerate(tensor.each)]
    total = math.fsum(weights) if tensor.values.get("normalize", tensor.values.get("normalize_weights", True)) else 1.0
    return weights[index] / total if total else 0.0
