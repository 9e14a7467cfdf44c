"""The cheap merges that `modist recommend` tries: few, fixed, with nothing fitted.

linear            equal weights
slerp             half way, for two experts
task_arithmetic   both deltas at full strength, where the ancestor is there; at weights with sum 1 it would be `linear`
ties              half of each delta kept, signs elected; from the ancestor, or else from the best expert
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modist.recipe import ModelReference, Recipe, parse_recipe

DENSITY = 0.5


@dataclass(frozen=True)
class CheapMerge:
    """One merge of the list.

    Attributes:
        name: the method's.
        settings: what is particular, in a few words.
        data: the recipe, as plain data in mergekit's dialect.
    """

    name: str
    settings: str
    data: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name} ({self.settings})"

    def recipe(self) -> Recipe:
        """The recipe, read."""
        return parse_recipe(json.dumps(self.data), f"the merge {self.name!r}")

    def absolute(self) -> CheapMerge:
        """The same with folders by their whole paths, to be written anywhere."""
        data: dict[str, Any] = json.loads(json.dumps(self.data))
        for entry in data["models"]:
            entry["model"] = absolute(entry["model"])
        if "base_model" in data:
            data["base_model"] = absolute(data["base_model"])
        return CheapMerge(self.name, self.settings, data)


def absolute(model: str) -> str:
    """A folder by its whole path; a hub id as it is."""
    reference = ModelReference.parse(model)
    return os.path.abspath(reference.folder) if reference.is_local else model


def shortlist(experts: Sequence[str], best: str, ancestor: str | None = None) -> tuple[CheapMerge, ...]:
    """The merges to try.

    Args:
        experts: folders or hub ids, two or more.
        best: which of them is the best alone.
        ancestor: the model they were tuned from, where it is known; it may be one of them.
    """
    tuned = [expert for expert in experts if expert != ancestor]
    if len(tuned) < 2:
        # Measured from the one, there is a single delta, and the other merges already walk along it.
        tuned, ancestor = list(experts), None

    def weighted(value: float, models: Sequence[str], **more: float) -> list[dict[str, Any]]:
        return [{"model": model, "parameters": {"weight": value, **more}} for model in models]

    share = 1 / len(tuned)
    found = [CheapMerge("linear", "equal weights", {"merge_method": "linear", "models": weighted(share, tuned)})]
    if len(tuned) == 2:
        models = [{"model": model} for model in tuned]
        data = {"merge_method": "slerp", "base_model": tuned[0], "models": models, "parameters": {"t": 0.5}}
        found.append(CheapMerge("slerp", "half way", data))
    if ancestor is not None:
        data = {"merge_method": "task_arithmetic", "base_model": ancestor, "models": weighted(1.0, tuned)}
        found.append(CheapMerge("task_arithmetic", f"weight 1 each, from {_short(ancestor)}", data))
    base = ancestor or best
    others = [expert for expert in tuned if expert != base]
    data = {
        "merge_method": "ties",
        "base_model": base,
        "models": weighted(1.0, others, density=DENSITY),
        "parameters": {"normalize": True},
    }
    found.append(CheapMerge("ties", f"density {DENSITY:g}, from {_short(base)}", data))
    return tuple(found)


def _short(model: str) -> str:
    return ModelReference.parse(model).name
