"""Who descends from whom, told by the weights.

Models trained apart from random starts have matrices of cosine near 0, a fine-tune stays near what it was tuned from.  Two
models do not tell which came first.  Three do: fine-tunes leave their ancestor in directions of their own, so seen from it
their deltas are hardly correlated, while seen from one of the fine-tunes all others lie on the ancestor's side, and correlate.

What this cannot see: a chain of tunings looks like a star around its middle model; and the sum of two deltas (task arithmetic
with both weights 1) closes a parallelogram, in which the merge looks like the ancestor and the reverse.  Such doubts are said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modist.inspection.kinship import Pair, delta_cosine
from modist.inspection.sums import TensorSums

# Matrices of related models; unrelated ones stay within a few 1/sqrt(n), and n is a million and more as a rule.
RELATED = 0.1
# A delta beyond half the base's norm is more than tuning as a rule.
TUNED = 0.5
# Deltas from the ancestor are correlated less than this; those from a sibling are near 0.7.
ANCESTOR = 0.4
# By how much the ancestor must stand out from the next best.
MARGIN = 0.05
# The line between two models, where their averages lie.
BETWEEN = -0.8
# Elements that both others changed, against how many chance would give: hardly any in an element-wise selection.
SELECTED = 0.1
FEWEST = 100

VerdictKind = Literal["identical", "ancestor", "fine-tune", "common ancestor", "related", "merge", "unrelated"]


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        kind: what was found.
        models: whom it is about.
        ancestor: the model the others descend from, where one was found.
        text: the finding as a sentence.
        evidence: what it rests on.
    """

    kind: VerdictKind
    models: tuple[str, ...]
    ancestor: str | None
    text: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Witness:
    """What the folders themselves say of descent: `parents[i]` are the models that model i names as its own parents, and
    `merged[i]` is whether a manifest says that it is a merge; `base` is the model that the user names as the base."""

    parents: Sequence[tuple[int, ...]]
    merged: Sequence[bool]
    base: int | None = None


def judge(
    sums: Sequence[TensorSums], names: Sequence[str], pairs: dict[tuple[int, int], Pair], witness: Witness
) -> tuple[Verdict, ...]:
    """All findings about some models.

    Args:
        sums: of the tensors they share.
        names: what to call them.
        pairs: their weights against each other, for i < j.
        witness: what their folders say.
    """
    found: list[Verdict] = []
    originals = _without_copies(names, pairs, found)
    families = _families(originals, pairs)
    for family in families:
        if len(family) == 2:
            found.append(_two(names, pairs, family[0], family[1], witness))
        elif len(family) > 2:
            found += _many(sums, names, pairs, family, witness)
    if len(families) > 1:
        found += _strangers(names, pairs, families)
    return tuple(found)


def listed(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _without_copies(names: Sequence[str], pairs: dict[tuple[int, int], Pair], found: list[Verdict]) -> list[int]:
    """The models, one of each set of identical ones."""
    originals: list[int] = []
    for model in range(len(names)):
        twin = next((o for o in originals if pairs[o, model].tensors and pairs[o, model].differing == 0), None)
        if twin is None:
            originals.append(model)
            continue
        compared = pairs[twin, model]
        text = f"{names[model]} holds the same values as {names[twin]}"
        evidence = f"none of the {compared.elements:,} elements of {compared.tensors} shared tensors differs"
        found.append(Verdict("identical", (names[twin], names[model]), None, text, (evidence,)))
    return originals


def _related(pair: Pair) -> bool:
    noise = 5 / math.sqrt(max(pair.elements, 1))
    return pair.matrix_cosine is not None and pair.matrix_cosine >= max(RELATED, noise)


def _families(models: Sequence[int], pairs: dict[tuple[int, int], Pair]) -> list[list[int]]:
    """Models that are related, directly or through others, together; in the order given."""
    families: list[list[int]] = []
    for model in models:
        kin = [family for family in families if any(_related(pairs[other, model]) for other in family)]
        families = [family for family in families if family not in kin]
        families.append(sorted([*itertools.chain.from_iterable(kin), model]))
    return sorted(families)


def _strangers(names: Sequence[str], pairs: dict[tuple[int, int], Pair], families: Sequence[Sequence[int]]) -> list[Verdict]:
    """Who is unrelated to whom: one finding for each family that stands apart from the largest, or one for all."""
    main = max(families, key=len)
    apart = [family for family in families if family is not main]
    if len(main) == 1:
        apart = [[model for family in families for model in family]]
    found = []
    for family in apart:
        others = [model for model in range(len(names)) if any(model in f for f in families if f is not family)]
        everyone = len(main) == 1
        compared = (
            itertools.combinations(family, 2)
            if everyone
            else ((min(pair), max(pair)) for pair in itertools.product(family, others))
        )
        evidence = tuple(_distance_from(pairs[pair]) for pair in compared)
        own = listed([names[model] for model in family])
        if everyone:
            found.append(Verdict("unrelated", tuple(names[m] for m in family), None, f"{own} are unrelated", evidence))
            continue
        text = f"{own} {'is' if len(family) == 1 else 'are'} unrelated to {listed([names[model] for model in others])}"
        found.append(Verdict("unrelated", tuple(names[m] for m in (*family, *others)), None, text, evidence))
    return found


def _distance_from(pair: Pair) -> str:
    if not pair.tensors:
        return f"{pair.one} and {pair.other} share no tensor of one name and shape"
    if pair.matrix_cosine is None:
        return f"{pair.one} and {pair.other} share {pair.tensors} tensors, but no matrix that is not zero"
    return f"cosine of the matrices of {pair.one} and {pair.other}: {pair.matrix_cosine:.4f} (models trained apart: near 0)"


def _two(names: Sequence[str], pairs: dict[tuple[int, int], Pair], one: int, other: int, witness: Witness) -> Verdict:
    """What two related models tell."""
    pair = pairs[one, other]
    evidence = [
        f"cosine of their matrices: {pair.matrix_cosine:.4f} (models trained apart: near 0)",
        f"their difference has {_percent(pair.relative)} of {names[one]}'s norm;"
        f" {_percent(pair.differing)} of the elements differ",
    ]
    both = (names[one], names[other])
    for child, parent in ((one, other), (other, one)):
        if parent in witness.parents[child] and child not in witness.parents[parent]:
            how = "a merge with" if witness.merged[child] else "a fine-tune of"
            evidence.append(f"{names[child]}'s own card or manifest names {names[parent]} as its parent")
            text = f"{names[child]} is {how} {names[parent]}"
            return Verdict("merge" if witness.merged[child] else "fine-tune", both, names[parent], text, tuple(evidence))
    if pair.relative is not None and pair.relative <= TUNED:
        if witness.base in (one, other):
            base, child = (one, other) if witness.base == one else (other, one)
            text = f"{names[child]} is a fine-tune of {names[base]}, if {names[base]} is the base as stated"
            return Verdict("fine-tune", both, names[base], text, tuple(evidence))
        text = f"one of {listed(both)} is a fine-tune of the other, or both are of a third"
        return Verdict("fine-tune", both, None, text, (*evidence, "two models do not tell which came first; a third would"))
    text = f"{listed(both)} share an ancestor, far back"
    return Verdict("related", both, None, text, tuple(evidence))


def _percent(value: float | None) -> str:
    return "an unknown part" if value is None else f"{100 * value:.3g}%"


def _many(
    sums: Sequence[TensorSums], names: Sequence[str], pairs: dict[tuple[int, int], Pair], family: list[int], witness: Witness
) -> list[Verdict]:
    """What three related models or more tell: merges first, then the ancestor of the rest."""
    found = []
    for model in list(family):
        verdict = _merge(sums, names, model, [other for other in family if other != model], witness)
        if verdict is not None and len(family) > 2:
            found.append(verdict)
            family = [other for other in family if other != model]
    if len(family) < 3:
        return [*found, _two(names, pairs, family[0], family[1], witness)]

    seen: dict[int, list[float]] = {}
    for base in family:
        others = [model for model in family if model != base]
        cosines = [delta_cosine(sums, i, j, base) for i, j in itertools.combinations(others, 2)]
        seen[base] = [abs(value) for value in cosines if value is not None]
    who = tuple(names[model] for model in family)
    if not all(seen.values()):
        text = f"{listed(who)} are related; they share too few tensors to tell how"
        return [*found, Verdict("related", who, None, text, ())]
    scores = {base: sum(told) / len(told) for base, told in seen.items()}
    ranked = sorted(scores, key=lambda model: scores[model])
    best, second = ranked[0], ranked[1]
    many = " on average" if len(family) > 3 else ""
    evidence = [f"seen from {names[base]} the others' deltas have a cosine of size {scores[base]:.3f}{many}" for base in ranked]
    if min(itertools.chain.from_iterable(seen.values())) > ANCESTOR / 2 and scores[best] > ANCESTOR:
        text = f"{listed(who)} share an ancestor that is not among them"
        evidence.append(f"from the ancestor it would be below {ANCESTOR}")
        return [*found, Verdict("common ancestor", who, None, text, tuple(evidence))]
    if scores[best] > ANCESTOR or scores[second] - scores[best] < MARGIN:
        text = f"{listed(who)} are related, but which of them is the ancestor, if any is, cannot be told"
        return [*found, Verdict("related", who, None, text, tuple(evidence))]
    rest = [names[model] for model in family if model != best]
    evidence += [
        f"{names[model]} differs from it by {_percent(_relative(pairs, best, model))} of its norm"
        for model in family
        if model != best
    ]
    evidence.append(f"a chain of tunings with {names[best]} in the middle would look the same")
    text = f"{names[best]} is the ancestor of {listed(rest)}"
    return [*found, Verdict("ancestor", who, names[best], text, tuple(evidence))]


def _relative(pairs: dict[tuple[int, int], Pair], base: int, model: int) -> float | None:
    return pairs[base, model].relative if base < model else pairs[model, base].relative_to_other


def _merge(
    sums: Sequence[TensorSums], names: Sequence[str], model: int, others: Sequence[int], witness: Witness
) -> Verdict | None:
    """Whether a model is made of the others: its manifest says so, or it lies where only a merge lies."""
    if witness.merged[model]:
        parents = [names[parent] for parent in witness.parents[model] if parent in others]
        text = f"{names[model]} is a merge" + (f" of {listed(parents)}" if parents else "")
        evidence = "its manifest says so; who was tuned from whom is judged without it"
        return Verdict("merge", (names[model], *parents), None, text, (evidence,))
    for i, j in itertools.combinations(others, 2):
        who = (names[model], names[i], names[j])
        cosine = delta_cosine(sums, i, j, model)
        if cosine is not None and cosine < BETWEEN:
            text = f"{names[model]} lies between {names[i]} and {names[j]}, as their average does"
            evidence = f"seen from it the two lie in opposite directions (cosine {cosine:.3f})"
            return Verdict("merge", who, None, text, (evidence,))
        if _is_selection(sums, i, j, model):
            text = f"{names[model]} takes each element from {names[i]} or from {names[j]}"
            evidence = "where it differs from the one it equals the other, within the same tensors"
            return Verdict("merge", who, None, text, (evidence,))
    return None


def _is_selection(sums: Sequence[TensorSums], one: int, other: int, model: int) -> bool:
    """Whether both others differ from a model within the same tensors, yet hardly ever at the same elements.

    Changes made apart meet at changed_one * changed_other / n elements of a tensor.  Tensors that only one of them changed
    say nothing: two adapters of different modules look like that from their base.
    """
    expected, both = 0.0, 0
    for found in sums:
        members = found.tensor.members
        if not {one, other, model} <= set(members) or not found.counted:
            continue
        i, j, m = (members.index(k) for k in (one, other, model))
        expected += int(found.differing[i, m]) * int(found.differing[j, m]) / found.counted
        both += int(found.moving[m][i, j])
    return expected >= FEWEST and both < SELECTED * expected
