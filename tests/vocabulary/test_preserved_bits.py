"""What aligning keeps of a model's distribution: bits, counted on a real pair of models with different tokenizers.

A text is scored by `stories260K` (512 pieces).  Its bits are then told in the tokens of `babyllama-tok105` (characters), in two
ways.  By stretches: each stretch that both tokenizers cut out whole has the sum of its source tokens' bits (the chain rule).
By ids: at a target position that is one-to-one the source's distribution is carried over by the id map, and the target's own
token is looked up in it.  What is left out is counted, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modist.vocabulary import IdMap, PositionMap, TokenTexts, align_ids, align_positions, encode
from tests.vocabulary.small_tokenizers import SHARED

NAMES = ("stories260K", "babyllama-tok105")
pytestmark = pytest.mark.skipif(not (SHARED / "models" / NAMES[1]).is_dir(), reason="the shared models are not here")

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a big red ball, and she loved to play with it in the park. "
    'One day, she saw a small dog. The dog was sad. "Why are you sad?" asked Lily. The dog said, "I do not have a friend." '
    "Lily was kind, so she gave the dog her ball. They played all day, and at 5 o'clock they went home. The end."
)
# A letter that one has to say in bytes and the other does not know.
ODD = "Lily met a na\u00efve owner named Zoe. She was 7 years old."


@dataclass(frozen=True)
class Scored:
    """A text in one model's tokens: nats of each token, and the log-distribution it was drawn from, [n, vocabulary]."""

    texts: TokenTexts
    ids: NDArray[np.int32]
    spans: NDArray[np.int32]
    nats: NDArray[np.float64]
    log_probs: NDArray[np.float64]


@cache
def scored(name: str, text: str) -> Scored:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    folder = SHARED / "models" / name
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = TokenTexts.of(folder)
    ids, spans = encode(tokenizer, text, texts, specials=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([ids.tolist()])).logits[0], -1).numpy()
    shifted = np.concatenate([np.zeros((1, log_probs.shape[1])), log_probs[:-1]])  # nothing predicts the first
    nats = -shifted[np.arange(len(ids)), ids]
    return Scored(texts, ids, spans, nats, shifted)


def aligned(source: str, target: str, text: str) -> tuple[Scored, Scored, PositionMap]:
    one, two = scored(source, text), scored(target, text)
    return one, two, align_positions(one.spans, two.spans)


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
@pytest.mark.parametrize("text", [STORY, ODD])
def test_stretches_keep_every_bit(names: tuple[str, str], text: str) -> None:
    """Up to each boundary that both tokenizers have, the stretches hold the bits of the text so far, no more and no less."""
    one, two, found = aligned(*names, text)
    raw = text.encode()
    told = np.cumsum([one.nats[a:b].sum() for a, b, _, _ in found.groups.tolist()])
    ahead = one.nats[one.spans[:, 1] == 0].sum()  # the mark before the text, and a space put before it, say nothing of it
    for (_, _, _, d), nats in zip(found.groups.tolist(), told.tolist(), strict=True):
        reached = int(two.spans[d - 1, 1])
        assert nats == pytest.approx(one.nats[one.spans[:, 1] <= reached].sum() - ahead, abs=1e-9)
    assert told[-1] + ahead == pytest.approx(one.nats.sum(), abs=1e-9)
    # And the target's text is all there, stretch by stretch.
    assert b"".join(raw[two.spans[c, 0] : two.spans[d - 1, 1]] for _, _, c, d in found.groups.tolist()) == raw


def carried(one: Scored, two: Scored, found: PositionMap, ids: IdMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """At the one-to-one positions: nats of the target's token under the source's distribution carried over, and of the source's
    own token; [one-to-one positions] each."""
    positions = np.flatnonzero(found.one_to_one)
    sources = found.start[positions]
    kept = np.flatnonzero(ids.aligned)
    carried_over = np.zeros((len(positions), two.texts.size))
    np.add.at(carried_over.T, ids.ids[kept], np.exp(one.log_probs[np.ix_(sources, kept)]).T)
    assert (carried_over.sum(1) <= 1 + 1e-9).all()  # no probability is made
    return -np.log(carried_over[np.arange(len(positions)), two.ids[positions]]), one.nats[sources]


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_ids_keep_the_bits_of_one_to_one_positions(names: tuple[str, str]) -> None:
    """By exact matches a token costs in the target's ids what it costs in the source's, but for the mass of byte-fallback
    twins (`<0x61>` and `a` say the same), which only helps; by edit distance, others' mass comes on top."""
    one, two, found = aligned(*names, STORY)
    told, own = carried(one, two, found, align_ids(one.texts, two.texts, "exact"))
    assert len(own) > 30 and (told <= own + 1e-9).all()
    characters = len(STORY)
    assert (own - told).sum() / np.log(2) / characters < 1e-3  # bits a character
    loose, _ = carried(one, two, found, align_ids(one.texts, two.texts, "edit"))
    assert (loose <= told + 1e-9).all()


def test_what_cannot_align_is_told() -> None:
    """Per character of the story: all bits, those of one-to-one positions, and those of stretches that differ."""
    one, _, found = aligned(*NAMES, STORY)
    ahead = one.nats[one.spans[:, 1] == 0].sum()
    groups = found.groups
    alone = (groups[:, 1] - groups[:, 0] == 1) & (groups[:, 3] - groups[:, 2] == 1)
    bits = np.array([one.nats[a:b].sum() for a, b, _, _ in groups.tolist()]) / np.log(2) / len(STORY)
    whole = (one.nats.sum() - ahead) / np.log(2) / len(STORY)
    assert bits[alone].sum() + bits[~alone].sum() == pytest.approx(whole, abs=1e-9)
    assert 0.5 < whole < 3 and 0.2 * whole < bits[alone].sum() < whole
    print(
        f"{whole:.3f} bits a character: {bits[alone].sum():.3f} one-to-one, {bits[~alone].sum():.3f} in stretches that differ"
    )


def test_a_letter_in_pieces_is_scored_once() -> None:
    """`ï` is two byte tokens here and one unknown token there: one stretch, whose bits are those of both bytes."""
    one, two, found = aligned(*NAMES, ODD)
    (row,) = [
        row for row in found.groups.tolist() if ODD.encode()[two.spans[row[2], 0] : two.spans[row[3] - 1, 1]] == "ï".encode()
    ]
    a, b, c, d = row
    assert b - a == 2 and d - c == 1
    assert [one.texts.texts[i] for i in one.ids[a:b].tolist()] == [b"\xc3", b"\xaf"]


def test_a_shifted_map_would_be_noticed() -> None:
    """The measure has teeth: distributions carried over from one position before cost more."""
    one, two, found = aligned(*NAMES, STORY)
    exact = align_ids(one.texts, two.texts, "exact")
    told, own = carried(one, two, found, exact)
    late = Scored(one.texts, one.ids, one.spans, one.nats, np.roll(one.log_probs, 1, axis=0))
    worse, _ = carried(late, two, found, exact)
    assert worse.sum() > own.sum() + 0.5 * len(own) and told.sum() <= own.sum()
