"""Who is tuned from whom, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.errors import UserError
from modist.search.kin import look
from tests.tiny_models import plain_trio

EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
GENERAL, MATH, BASE = (str(EXPERTS / name) for name in ("general", "math", "base"))


def test_the_ancestor_is_found_by_cards_and_weights() -> None:
    found = look([GENERAL, MATH])
    assert found.names == ("general", "math")
    assert found.ancestor is not None and Path(found.ancestor).resolve() == Path(BASE)
    assert found.how == "base is the ancestor of general and math, as their cards say"
    among = look([BASE, GENERAL, MATH])
    assert among.ancestor == BASE and "ancestor of general and math" in among.how
    assert among.names == ("base", "general", "math")


def test_a_stated_base_is_held_against_the_weights(tmp_path: Path) -> None:
    trio, other = plain_trio(tmp_path / "one"), plain_trio(tmp_path / "other", seed=50)
    one, two = str(trio.one), str(trio.two)
    assert look([one, two]).ancestor is None
    stated = look([one, two], str(trio.base))
    assert stated.ancestor == str(trio.base)
    stranger = tmp_path / "stranger"
    Path(other.base).rename(stranger)
    refused = look([one, two], str(stranger))
    assert refused.ancestor is None and "is no base for a merge" in refused.how


def test_a_base_at_a_hub_is_named_and_not_fetched(tmp_path: Path) -> None:
    trio = plain_trio(tmp_path)
    for folder in (trio.one, trio.two):
        (folder / "README.md").write_text("---\nbase_model: some/base\n---\n")
    found = look([str(trio.one), str(trio.two)])
    assert found.ancestor is None
    assert "some/base" in found.how or "one of one and two" in found.how


def test_what_cannot_be_recommended_is_said() -> None:
    with pytest.raises(UserError, match="name at least two"):
        look([GENERAL])
    with pytest.raises(UserError, match="named twice"):
        look([GENERAL, GENERAL])
    with pytest.raises(UserError, match=r"nothing but fusing .* different tokenizers"):
        look([GENERAL, str(EXPERTS / "math-chars")])
    with pytest.raises(UserError, match="no such folder"):
        look([GENERAL, "no/such/folder"])
