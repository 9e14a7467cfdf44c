"""The table of (gold, answer, equal?) cases: the default grader is right on all of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modist.evaluation.answers.compatible import equal as equal_compatible
from modist.evaluation.answers.grade import grade
from modist.evaluation.answers.verify import equal

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).with_name("cases.jsonl")).read_text(encoding="utf-8").splitlines()
]
RULES = sorted({row["rule"] for row in ROWS})


def wrong(rows: list[dict[str, Any]], boxed: bool) -> list[tuple[str, str]]:
    found = []
    for row in rows:
        if boxed:
            said = grade(row["gold"], f"So we have $\\boxed{{{row['answer']}}}$.").equal
        else:
            said = equal(row["gold"], row["answer"])
        if said is not row["equal"]:
            found.append((row["gold"], row["answer"]))
    return found


@pytest.mark.parametrize("rule", RULES)
def test_default_grader(rule: str) -> None:
    assert not wrong([row for row in ROWS if row["rule"] == rule], boxed=False)


def test_the_same_from_a_box() -> None:
    # A dollar in a box is where the formula around it ends; an own number of dollars is none of the extractor's.
    rows = [row for row in ROWS[::3] if "$" not in row["answer"]]
    assert not wrong(rows, boxed=True)


def test_the_table_is_large_and_half_of_it_not_equal() -> None:
    assert len(ROWS) >= 300
    assert sum(not row["equal"] for row in ROWS) * 2 >= len(ROWS)
    assert len({(row["gold"], row["answer"]) for row in ROWS}) == len(ROWS)
    both = Counter(
        rule for rule in RULES for want in (True, False) if any(r["rule"] == rule and r["equal"] is want for r in ROWS)
    )
    lonely = {rule for rule, ways in both.items() if ways < 2}
    assert lonely == {"nothing"}


def test_known_errors_of_the_published_rules() -> None:
    rows = [row for row in ROWS if "equal_compatible" in row]
    assert len(rows) >= 50
    assert all(row["equal_compatible"] is not row["equal"] for row in rows)
    assert [row for row in rows if equal_compatible(row["answer"], row["gold"]) is not row["equal_compatible"]] == []


def test_equality_holds_both_ways_where_units_and_golds_play_no_part() -> None:
    rules = {"list in any order", "tuple", "interval", "inequality", "set", "matrix", "algebra", "root", "exponent, log"}
    rows = [row for row in ROWS if row["rule"] in rules and "x+y" not in row["gold"]]
    assert [row for row in rows if equal(row["answer"], row["gold"]) is not row["equal"]] == []


def test_everything_equals_itself() -> None:
    assert [row["gold"] for row in ROWS if row["gold"] and not equal(row["gold"], row["gold"] + " ")] == []
