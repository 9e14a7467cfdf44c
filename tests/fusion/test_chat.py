"""A chat as a model reads it: which tokens are the response's, which bytes they say, where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.errors import UserError
from modist.fusion.chat import Reader, Reading
from modist.recipe import Passage
from tests.fusion.rooms import TEMPLATE, byte_tokenizer

SPACED = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} ;{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


SPACED = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} ;{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer(folder, 40)
    return AutoTokenizer.from_pretrained(folder)


def passage(answer: str, asked: str = "Hi?") -> Passage:
    return Passage("rows:1", [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])


def spelled(tokenizer, reading: Reading) -> str:
    return tokenizer.decode(reading.response[:-1] if reading.ends else reading.response)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_spans_cover_any_response(tokenizer, answer: str) -> None:
    if not answer.strip():
        return
    found = Reader("m", tokenizer, {2}).read(passage(answer))
    raw = answer.strip().encode()
    assert found.ends and found.response[-1] == 2 and found.spans[-1].tolist() == [len(raw), len(raw)]
    spans = found.spans[:-1]
    assert spans[0, 0] == 0 and spans[-1, 1] == len(raw)
    np.testing.assert_array_equal(spans[1:, 0], spans[:-1, 1])
    pieces = [tokenizer.convert_ids_to_tokens(int(number)) for number in found.response[:-1]]
    # Byte-level letters stand for one byte each.
    if not any(piece.startswith("<|") for piece in pieces):
        assert [len(piece) for piece in pieces] == (spans[:, 1] - spans[:, 0]).tolist()


def test_it_is_what_the_template_gives(tokenizer) -> None:
    row = passage("Two and two are four.")
    found = Reader("m", tokenizer, {2}).read(row)
    whole = tokenizer.apply_chat_template(row.content, tokenize=True, return_dict=True)["input_ids"]
    # Up to the end of the turn; the line break behind it is nobody's.
    assert found.ids.tolist() == list(whole)[: len(found.ids)] and len(whole) == len(found.ids) + 1
    prompt = tokenizer.apply_chat_template(row.content[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found.first == len(prompt) and spelled(tokenizer, found) == "Two and two are four."


def test_several_turns_and_white_space(tokenizer) -> None:
    row = Passage(
        "rows:1",
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "not learned"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "  learned\n"},
        ],
    )
    assert spelled(tokenizer, Reader("m", tokenizer, {2}).read(row)) == "learned"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (TEMPLATE, True),
        # A space before the answer, text behind it, no mark of its end.
        (SPACED, False),
        # What stands before an answer is not what stands before an answer to come: eos is put behind it.
        ("{% if add_generation_prompt %}{{ messages[0].content }}=>{% else %}{{ messages[1].content }}{% endif %}", True),
    ],
)
def test_templates_of_all_kinds(tokenizer, template: str, ends: bool) -> None:
    from copy import deepcopy

    own = deepcopy(tokenizer)
    own.chat_template = template
    found = Reader("m", own, {2}).read(passage("The answer is 7."))
    assert spelled(own, found).strip() == "The answer is 7." and found.ends == ends
    assert found.spans[0, 0] == 0 and found.spans[:, 1].max() == len("The answer is 7.")


def test_no_tokenizer_and_no_template(tokenizer) -> None:
    from copy import deepcopy

    with pytest.raises(UserError, match="m: has no tokenizer"):
        Reader("m", None, {2})
    own = deepcopy(tokenizer)
    own.chat_template = None
    with pytest.raises(UserError, match="m: has no chat template"):
        Reader("m", own, {2})
