"""Equal, padded, extended and different vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.errors import UserError
from modist.vocabulary import CommonVocabulary, token_map, tokens_of

SHARED = Path(__file__).parents[3] / "shared"


def words(count: int, **odd: int) -> dict[str, int]:
    """`w0`, `w1` ... with other strings at some ids."""
    found = {f"w{number}": number for number in range(count)}
    for text, number in odd.items():
        found.pop(f"w{number}", None)
        found[text] = number
    return found


def test_equal_vocabularies_share_everything() -> None:
    common = CommonVocabulary.of([words(50), words(50)], [50, 50])
    assert common.size == 50 and common.whole
    assert not common.masked([3]).any()
    assert common.describe() == "vocabulary: 50 of 50 ids shared"


def test_padded_outputs_share_the_shorter_one() -> None:
    tokens = words(151_665)
    common = CommonVocabulary.of([tokens, tokens], [151_936, 152_064], ["small", "wide"])
    assert common.size == 152_064 and not common.whole
    assert int(common.shared.sum()) == 151_936
    assert common.readable[0].sum() == 151_936 and common.readable[1].all()
    assert common.describe() == "vocabulary: 151936 of 152064 ids shared, 128 masked (128 of wide)"
    assert common.reads_all(0) and common.reads_all(1)  # each all of its own output


def test_extended_vocabulary_keeps_odd_strings_apart() -> None:
    # Starling has <|end_of_turn|> and <sep> where Hermes has <|im_end|> and <|im_start|>, and 30 more.
    one = words(32_002, **{"<|end_of_turn|>": 32_000, "<sep>": 32_001})
    two = words(32_032, **{"<|im_end|>": 32_000, "<|im_start|>": 32_001})
    common = CommonVocabulary.of([one, two], [32_002, 32_032], ["starling", "hermes"])
    assert common.size == 32_032 and int(common.shared.sum()) == 32_000
    # An id means what the first tokenizer says; the other cannot read it.
    assert common.readable[:, 32_000].tolist() == [True, False]
    assert common.readable[:, 32_005].tolist() == [False, True]
    assert common.masked().sum() == 32
    # What only one reads may end the answer, and nothing else.
    mask = common.masked([32_000, 32_005])
    assert not mask[32_000] and not mask[32_005] and mask[32_001]
    assert "30 masked" in common.describe([32_000, 32_005])
    assert "32000 32005 only to end an answer" in common.describe([32_000, 32_005])


def test_the_reference_decides_what_an_id_means() -> None:
    one, two = words(100, a=99), words(100, b=99)
    assert CommonVocabulary.of([one, two], [100, 100]).readable[:, 99].tolist() == [True, False]
    assert CommonVocabulary.of([one, two], [100, 100], reference=two).readable[:, 99].tolist() == [False, True]


def test_an_id_that_ends_both_answers_is_the_same_event() -> None:
    one, two = words(100, **{"<|end_of_turn|>": 99}), words(100, **{"<|im_end|>": 99})
    common = CommonVocabulary.of([one, two], [100, 100], ends=[{2, 99}, {2, 99}])
    assert common.readable[:, 99].all() and not common.shared[99]
    assert common.masked()[99] and not common.masked([99])[99]
    alone = CommonVocabulary.of([one, two], [100, 100], ends=[{99}, {2}])
    assert alone.readable[:, 99].tolist() == [True, False]


def test_a_row_without_a_string_does_not_read_a_token() -> None:
    # The row is there as padding and was never trained.
    common = CommonVocabulary.of([words(100), words(98)], [100, 100])
    assert common.readable[1, 97] and not common.readable[1, 98]
    # Padding in both is the same nothing.
    assert CommonVocabulary.of([words(98), words(98)], [100, 100]).whole


def test_a_stop_id_nobody_reads_stays_masked() -> None:
    common = CommonVocabulary.of([words(10), words(10, odd=9)], [10, 10], reference=words(10, other=9))
    assert common.masked([9, 4_000])[9]


def test_different_tokenizers_are_refused_with_evidence() -> None:
    one = words(100)
    two = {f"v{number}": number for number in range(90)}
    with pytest.raises(UserError, match=r"one \(100 tokens\) and two \(90 tokens\).*90 ids in both, 90.*'w0' and 'v0'.*fuse"):
        CommonVocabulary.of([one, two], [100, 90], ["one", "two"])


@pytest.mark.parametrize(("odd", "fits"), [(10, True), (11, False)])
def test_a_tenth_of_odd_strings_is_the_limit(odd: int, fits: bool) -> None:
    two = words(100, **{f"odd{number}": number for number in range(odd)})
    if fits:
        assert CommonVocabulary.of([words(100), two], [100, 100]).masked().sum() == odd
    else:
        with pytest.raises(UserError, match="different tokenizers"):
            CommonVocabulary.of([words(100), two], [100, 100])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tokenizer_that_only_begins_alike_is_different(order: tuple[int, int]) -> None:
    """Bytes alone against bytes with merges: every common id agrees, and yet no text is cut alike."""
    both = [(words(512), 512, "merged"), (words(259), 259, "bytes")]
    maps, rows, names = zip(*(both[index] for index in order), strict=True)
    with pytest.raises(UserError, match=r"bytes lacks 253 of the 512 tokens into which merged cuts a text.*fuse"):
        CommonVocabulary.of(maps, rows, names)


def test_without_strings_only_sizes_are_compared(tmp_path: Path) -> None:
    common = CommonVocabulary.of([words(100), tmp_path, None], [100, 104, 100], ["a", "b", "c"])
    assert common.compared == (True, False, False) and int(common.shared.sum()) == 100
    assert common.describe().endswith("no tokenizer.json in b and c, so only sizes were compared")


def test_token_map_reads_what_there_is(tmp_path: Path) -> None:
    assert token_map(tmp_path) is None and tokens_of(None) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": []}')
    assert token_map(tmp_path) == tokens_of(str(tmp_path)) == {"a": 0, "b": 1}
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<s>", "id": 1}]}')
    assert token_map(tmp_path) == {"a": 0, "<s>": 1}
    (tmp_path / "tokenizer.json").write_text("[]")
    assert token_map(tmp_path) is None


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")
def test_real_tokenizers_of_two_families_are_different() -> None:
    folders = [SHARED / "tokenizers" / name for name in ("qwen2.5", "mistral-v3")]
    with pytest.raises(UserError, match="fuse"):
        CommonVocabulary.of(folders, [151_936, 32_768], ["qwen", "mistral"])
    assert CommonVocabulary.of([folders[0]] * 2, [151_936, 152_064]).shared.sum() == 151_936
