"""Where the responses of a chat are once a template has rendered it, and once a tokenizer has cut that.

Two models are asked in two templates, so their prompts have no text in common to align; the responses do.  Each response's
tokens are told by their place in the response's own text, so that those of one rendering align with those of any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modist.errors import UserError
from modist.vocabulary.positions import CROSSED, PositionMap, align_positions
from modist.vocabulary.spans import encode
from modist.vocabulary.texts import SPECIAL, TokenTexts

Ints = NDArray[np.int32]
Message = Mapping[str, Any]

RESPONDER = "assistant"


@dataclass(frozen=True, eq=False)
class Response:
    """One response within a tokenized chat.

    Attributes:
        message: its place among the chat's messages.
        length: bytes of its text.
        positions: of its tokens in the chat, in order; int32 [n].  The last is the token that ends the turn, if `ended`.
        spans: bytes of the response's text that each token stands for, int32 [n, 2]; parts of a token outside the text do not
            count.  The token that ends the turn stands for one byte more, [length, length + 1).
        ended: whether a token ends the turn.
        before, after: bytes of the template that the first and the last token with text stand for too.
    """

    message: int
    length: int
    positions: Ints
    spans: Ints
    ended: bool
    before: bytes = b""
    after: bytes = b""


@dataclass(frozen=True, eq=False)
class ChatTokens:
    """A chat rendered by a tokenizer's template and cut into its tokens.

    Attributes:
        text: the rendered chat.
        ids: of its tokens, int32 [n].
        spans: in bytes of the UTF-8 of `text`, int32 [n, 2].
        responses: in order.
    """

    text: str
    ids: Ints
    spans: Ints
    responses: tuple[Response, ...]


def tokenize_chat(tokenizer: Any, messages: Sequence[Message], texts: TokenTexts | None = None, **options: Any) -> ChatTokens:
    """Render a chat by a tokenizer's own template and find its responses.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.
        messages: `{"role": ..., "content": ...}`; the responses are those of the role `assistant`.
        texts: of the tokenizer; made anew when left out, which takes a second for a large one.
        options: for `apply_chat_template`, such as `chat_template`.

    Raises:
        UserError: there is no template, it raises, or it does not show each response as it is.
    """
    texts = texts or TokenTexts.of(tokenizer)

    def render(some: Sequence[Message]) -> str:
        try:
            return str(tokenizer.apply_chat_template([dict(m) for m in some], tokenize=False, **options))
        except Exception as error:  # a template is a program of its own, and raises what it likes
            raise UserError(f"{texts.name}: its chat template cannot render this chat: {error}") from None

    text, places = find_responses(render, messages, texts.name)
    ids, spans = encode(tokenizer, text, texts)
    return ChatTokens(text, ids, spans, tuple(_response(texts, text.encode(), ids, spans, *place) for place in places))


def find_responses(
    render: Callable[[Sequence[Message]], str], messages: Sequence[Message], name: str = "the tokenizer"
) -> tuple[str, list[tuple[int, int, int, int, int]]]:
    """Render a chat and say where its responses are.

    The chat is rendered once more with a word of our own in place of each response.  What stands around these words is the
    template's, so a response is found although its text occurs elsewhere too, and although the template strips it.

    Args:
        render: messages -> text.
        messages: see `tokenize_chat`.
        name: for messages to people.

    Returns:
        The text, and for each response (place among the messages, begin and end in bytes of the text's UTF-8, bytes that the
        template left out at its beginning, bytes of the response as the message has it).

    Raises:
        UserError: a response is changed by more than stripping, left out or shown twice; or it is no text.
    """
    places = [place for place, message in enumerate(messages) if message.get("role") == RESPONDER]
    for place in places:
        if not isinstance(messages[place].get("content"), str):
            raise UserError(f"message {place}: the content of a response is {messages[place].get('content')!r}, not a text")
    text = render(messages)
    word = "Xmodist{}X"
    while word.format(0)[:-2] in text:
        word = "X" + word
    marked = [
        {**message, "content": word.format(place)} if place in places else message for place, message in enumerate(messages)
    ]
    frame = render(marked) if places else text
    between, rest = [], frame
    for place in places:
        before, found, rest = rest.partition(word.format(place))
        if not found or word.format(place) in rest:
            raise UserError(f"{name}: its chat template {'repeats' if found else 'leaves out'} the response in message {place}")
        between.append(before)
    between.append(rest)

    responses, at = [], len(between[0])
    if not text.startswith(between[0]):
        raise _changed(name, places[0])
    for order, place in enumerate(places):
        content, after = messages[place]["content"], between[order + 1]
        for shown in dict.fromkeys((content, content.strip(), content.rstrip(), content.lstrip())):
            if text.startswith(shown + after, at) and (place != places[-1] or at + len(shown + after) == len(text)):
                break
        else:
            raise _changed(name, place)
        lead = 0 if shown == content else len(content) - len(content.lstrip()) if not content.startswith(shown) else 0
        begin = len(text[:at].encode())
        responses.append((place, begin, begin + len(shown.encode()), len(content[:lead].encode()), len(content.encode())))
        at += len(shown + after)
    return text, responses


def align_responses(source: Response, target: Response) -> PositionMap:
    """Align one response's tokens in two renderings.

    Where a first or last token reaches into one template, and not into the other by the same bytes (`▁yes` after `[/INST]`,
    `yes` after a line break), the two do not say the same, whatever their spans in the response: such positions are CROSSED.

    Returns:
        A map whose positions count within each response's own `positions`.
    """
    found = align_positions(source.spans, target.spans)
    here = np.arange(len(target.positions))
    ends = [len(response.positions) - 1 - response.ended for response in (source, target)]
    first = _differs(found.start == 0, here == 0, source.before, target.before) & found.aligned
    last = (
        _differs((found.start <= ends[0]) & (found.stop > ends[0]), here == ends[1], source.after, target.after) & found.aligned
    )
    return dataclasses.replace(
        found,
        kind=np.where(first | last, np.uint8(CROSSED), found.kind),
        same_start=found.same_start & ~first,
        same_stop=found.same_stop & ~last,
    )


def _differs(source: NDArray[np.bool_], target: NDArray[np.bool_], one: bytes, two: bytes) -> NDArray[np.bool_]:
    """Where a position stands for bytes of one template that the other side does not have; bool [m].

    Args:
        source: whether the run of a target position holds the source token that stands for bytes `one` besides.
        target: whether it is the target token that stands for bytes `two` besides.
    """
    mine, theirs = source & bool(one), target & bool(two)
    return (mine | theirs) & ~(mine & theirs & (one == two))


def _changed(name: str, place: int) -> UserError:
    return UserError(f"{name}: its chat template changes the response in message {place}; only stripping it can be followed")


def _response(
    texts: TokenTexts, raw: bytes, ids: Ints, spans: Ints, place: int, begin: int, end: int, lead: int, length: int
) -> Response:
    inside = np.flatnonzero((spans[:, 1] > begin) & (spans[:, 0] < end) & (spans[:, 1] > spans[:, 0]))
    own = np.clip(spans[inside], begin, end) - begin + lead
    before = raw[spans[inside[0], 0] : begin] if len(inside) else b""
    after = raw[end : max(end, int(spans[inside[-1], 1]))] if len(inside) else b""
    stop = _turn_end(texts, ids, int(inside[-1]) + 1 if len(inside) else int(np.searchsorted(spans[:, 1], end, side="right")))
    positions = inside
    if stop is not None:
        positions = np.append(inside, stop)
        own = np.concatenate([own, [[length, length + 1]]])
    spans_of = own.astype(np.int32).reshape(-1, 2)
    return Response(place, length, positions.astype(np.int32), spans_of, stop is not None, before, after)


def _turn_end(texts: TokenTexts, ids: Ints, place: int) -> int | None:
    """The first token from `place` on that is more than white space, if it is a special one that does not begin a turn."""
    begins = {*texts.roles.get("turn_start", ()), *texts.roles.get("bos", ())} - {
        *texts.roles.get("turn_end", ()),
        *texts.roles.get("eos", ()),
    }
    while place < len(ids) and texts.kind[ids[place]] != SPECIAL and not texts.texts[ids[place]].strip():
        place += 1
    ends = place < len(ids) and texts.kind[ids[place]] == SPECIAL and int(ids[place]) not in begins
    return place if ends else None
