"""The ids that several experts have in common, and what becomes of the others.

The ids of a mixture are those of the widest output.  An expert *reads* an id when it has a row for it and means the same
string by it; it gives the others probability 0.  An id that some expert cannot read could not be shown to that expert, so it
may only end the answer; anywhere else it is *masked*, and the distribution is renormalised over the rest.  Tokenizers that
share too few strings cannot be mixed token by token at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modist.errors import UserError
from modist.vocabulary.tokens import tokens_of

if TYPE_CHECKING:
    import torch

# Two tokenizers of which less than this share of the larger one's ids stand for the same string in both are different ones:
# extending or padding a vocabulary changes a handful of ids, retraining it changes nearly all.
SAME_ENOUGH = 0.9


@dataclass(frozen=True, eq=False)
class CommonVocabulary:
    """What each expert can read of the mixture's ids.

    Attributes:
        names: of the experts, for messages.
        size: ids of the mixture: the rows of the largest output.
        outputs: rows of each expert's output, [experts].
        readable: whether an expert has an id and means the same by it; bool [experts, size], on the CPU.
        shared: whether every expert reads an id, so that it may stand within an answer; bool [size], on the CPU.
        compared: whether an expert's strings are known; where not, only its size could be compared; [experts].
    """

    names: tuple[str, ...]
    size: int
    outputs: tuple[int, ...]
    readable: torch.Tensor
    shared: torch.Tensor
    compared: tuple[bool, ...]
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        sources: Sequence[Any],
        outputs: Sequence[int],
        names: Sequence[str] = (),
        *,
        reference: Any = None,
        ends: Sequence[Collection[int]] = (),
    ) -> CommonVocabulary:
        """Compare the experts' vocabularies.

        Args:
            sources: for each expert its folder, its tokenizer, a map token -> id, or None (see `tokens_of`).
            outputs: for each expert the rows of its output.
            names: for messages; `expert 0`, `expert 1` ... when left out.
            reference: the tokenizer the mixture carries, in any of the forms of `sources`; that of the first expert which
                has one when left out.  An id means what it says there.
            ends: for each expert the ids with which it ends an answer.  An id with which two experts both end theirs is
                the same event however each spells it (`<|end_of_turn|>`, `<|im_end|>`), so both may produce it.

        Raises:
            UserError: the tokenizers are different ones.
        """
        import torch

        names = tuple(names) or tuple(f"expert {index}" for index in range(len(outputs)))
        maps, meaning = compared_maps(sources, names, reference)
        # An id the reference has no string for means what the first expert with a string for it says.
        meaning = dict(meaning or {})
        for found in maps:
            for number, text in (found or {}).items():
                meaning.setdefault(number, text)

        size = max(outputs)
        readable = torch.zeros(len(outputs), size, dtype=torch.bool)
        for index, (rows, found) in enumerate(zip(outputs, maps, strict=True)):
            readable[index, :rows] = True
            if found is not None:
                # Unknown here although it means something elsewhere: the row is there, but as padding.
                odd = [number for number, text in meaning.items() if number < rows and found.get(number) != text]
                readable[index, odd] = False
        shared = readable.all(0)
        for number in _common_ends(ends, outputs):
            for index, own in enumerate(ends):
                readable[index, number] |= number in own
        compared = tuple(found is not None for found in maps)
        return cls(names, size, tuple(outputs), readable, shared, compared)

    @property
    def whole(self) -> bool:
        """Whether every expert reads every id: nothing is masked and nothing needs renormalising."""
        return bool(self._once("whole", self.shared.all))

    def masked(self, stop_ids: Iterable[int] = (), device: Any = "cpu") -> torch.Tensor:
        """Which ids may not be drawn, given those that end the answer; bool [size].

        A stop id stays as long as one expert reads it: nobody has to read anything after it.
        """
        stops = tuple(sorted(set(stop_ids)))
        return self._once((stops, str(device)), lambda: self._masked(stops).to(device))

    def _masked(self, stops: Sequence[int]) -> torch.Tensor:
        mask = ~self.shared
        inside = [number for number in stops if 0 <= number < self.size]
        mask[inside] = ~self.readable[:, inside].any(0)
        return mask

    def read_by(self, expert: int, device: Any = "cpu") -> torch.Tensor:
        """One expert's row of `readable` on a device, kept there after the first call; bool [size]."""
        return self._once((expert, str(device), "row"), lambda: self.readable[expert].to(device))

    def reads_all(self, expert: int) -> bool:
        """Whether an expert reads all ids of its own output."""
        return bool(self._once((expert, "all"), self.readable[expert, : self.outputs[expert]].all))

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]

    def describe(self, stop_ids: Iterable[int] = ()) -> str:
        """One line for people: how many ids are shared, how many masked, and whose they are."""
        shared = int(self.shared.sum())
        text = f"vocabulary: {shared} of {self.size} ids shared"
        stops = set(stop_ids)
        mask = self.masked(stops)
        if bool(mask.any()):
            owners = []
            for index, name in enumerate(self.names):
                own = int((mask & self.readable[index]).sum())
                owners += [f"{own} of {name}"] if own else []
            text += f", {int(mask.sum())} masked" + (f" ({', '.join(owners)})" if owners else "")
        ending = [number for number in sorted(stops) if number < self.size and not self.shared[number] and not mask[number]]
        if ending:
            text += f", {' '.join(map(str, ending))} only to end an answer"
        unknown = [name for name, known in zip(self.names, self.compared, strict=True) if not known]
        if unknown:
            text += f"; no tokenizer.json in {' and '.join(unknown)}, so only sizes were compared"
        return text


def compared_maps(
    sources: Sequence[Any], names: Sequence[str], reference: Any = None
) -> tuple[list[dict[int, str] | None], dict[int, str] | None]:
    """Id -> string of each expert and of the reference; arguments as for `CommonVocabulary.of`.

    Raises:
        UserError: some of the tokenizers are different ones.
    """
    maps = [_by_id(tokens_of(source)) for source in sources]
    leader, meaning = "the tokenizer of the mixture", _by_id(tokens_of(reference))
    for name, found in zip(names, maps, strict=True):
        if found is not None and (meaning is None or meaning == found):
            leader, meaning = name, found
            break
    for name, found in zip(names, maps, strict=True):
        if found is not None and meaning is not None and found is not meaning:
            _refuse_different(leader, meaning, name, found)
    return maps, meaning


def _by_id(tokens: Mapping[str, int] | None) -> dict[int, str] | None:
    return None if tokens is None else {number: text for text, number in tokens.items()}


def _refuse_different(leader: str, one: Mapping[int, str], name: str, two: Mapping[int, str]) -> None:
    common = one.keys() & two.keys()
    odd = sorted(number for number in common if one[number] != two[number])
    larger = max(len(one), len(two))
    if len(common) - len(odd) >= SAME_ENOUGH * larger:
        return
    example = f", such as {odd[0]}: {one[odd[0]]!r} and {two[odd[0]]!r}" if odd else ""
    evidence = f"of {len(common)} ids in both, {len(odd)} stand for different strings{example}"
    if len(common) - len(odd) >= SAME_ENOUGH * len(common):
        # A short one that begins like the long one (bytes, and bytes with merges) still cuts a text into other tokens.
        wide, narrow, lacks = (leader, name, one.keys() - two) if len(one) > len(two) else (name, leader, two.keys() - one)
        evidence = f"{narrow} lacks {len(lacks)} of the {larger} tokens into which {wide} cuts a text"
    raise UserError(
        f"{leader} ({len(one)} tokens) and {name} ({len(two)} tokens) have different tokenizers: {evidence}."
        " Distributions over different tokens cannot be mixed"
        " token by token; distilling both into one model can (modist fuse)"
    )


def _common_ends(ends: Sequence[Collection[int]], outputs: Sequence[int]) -> list[int]:
    """Ids with which two experts or more end an answer."""
    count: dict[int, int] = {}
    for own, rows in zip(ends, outputs, strict=bool(ends)):
        for number in set(own):
            if 0 <= number < rows:
                count[number] = count.get(number, 0) + 1
    return [number for number, times in count.items() if times > 1]
