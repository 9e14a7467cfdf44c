"""The cheap merges: which, when, and that each can be merged."""

from __future__ import annotations

import json
from typing import Any

from modist.merge.plan import check_recipe
from modist.search.shortlist import shortlist


def names(*arguments: Any) -> list[str]:
    return [one.name for one in shortlist(*arguments)]


def test_the_list_is_short_and_fixed() -> None:
    assert names(["a", "b"], "b") == ["linear", "slerp", "ties"]
    assert names(["a", "b"], "b", "base") == ["linear", "slerp", "task_arithmetic", "ties"]
    assert names(["a", "b", "c"], "b", "base") == ["linear", "task_arithmetic", "ties"]
    weights = {
        one.name: [entry["parameters"]["weight"] for entry in one.data["models"]]
        for one in shortlist(["a", "b", "c"], "b", "base")
    }
    # At weights with sum 1 task arithmetic would be linear once more.
    assert weights == {"linear": [1 / 3] * 3, "task_arithmetic": [1.0] * 3, "ties": [1.0] * 3}
    # The ancestor as one of the experts: the others are merged, unless there is only one.
    three = shortlist(["base", "a", "b"], "base", "base")
    assert [one.name for one in three] == ["linear", "slerp", "task_arithmetic", "ties"]
    assert all([entry["model"] for entry in one.data["models"]] == ["a", "b"] for one in three)
    assert names(["base", "a"], "a", "base") == ["linear", "slerp", "ties"]


def test_each_of_the_list_is_a_valid_recipe() -> None:
    for experts, ancestor in ((["o/a", "o/b"], None), (["o/a", "o/b"], "o/base"), (["o/a", "o/b", "o/c"], "o/base")):
        for one in shortlist(experts, experts[1], ancestor):
            recipe = one.recipe()
            check_recipe(recipe)
            assert recipe.method == one.name
            written = one.absolute().data
            assert json.loads(json.dumps(written)) == one.data  # hub ids stay


def test_ties_without_an_ancestor_starts_from_the_best() -> None:
    (ties,) = [one for one in shortlist(["a", "b"], "b") if one.name == "ties"]
    assert ties.data["base_model"] == "b"
    assert [entry["model"] for entry in ties.data["models"]] == ["a"]
