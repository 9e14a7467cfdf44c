"""The parents side by side before any of them is read: what differs, and whether the difference reaches the result.

A merge carries one parent's config and tokenizer.  Attention trained under other rope parameters, or embeddings of another
vocabulary, are then run under settings they were not made for, and nothing fails: the result is only worse.  So such a
difference stops the merge where the differing parent's attention or embeddings reach the output, and is a note where not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modist.checkpoint.folder import Checkpoint
from modist.errors import UserError
from modist.merge.layer import text_config
from modist.merge.plan import HEAD, Plan, embedding_name, embedding_rows, left_out
from modist.vocabulary.chat_template import folder_template
from modist.vocabulary.tokens import token_map

ALLOWABLE = {
    "architecture": "models of different architectures whose tensors fit all the same",
    "rope": "attention trained under other rope parameters (and the context that goes with them)",
    "context": "attention trained on another context length",
    "vocabulary": "embeddings whose rows stand for other tokens",
    "tying": "a head of its own against one tied to the embeddings; the result gets its own",
    "tensors": "tensors of a parent that the result has no place for; they are left out",
    "nonfinite": "NaN or infinite values in the result",
}


@dataclass(frozen=True)
class Aspect:
    """One line of the comparison.

    Attributes:
        name: what is compared.
        values: one for each input, for people.
        gravity: whether it stops the merge.
        reason: why it does, or why it does not although the values differ.
    """

    name: str
    values: tuple[str, ...]
    gravity: Literal["same", "note", "allowed", "error"] = "same"
    reason: str = ""


def compare(plan: Plan, allow: frozenset[str] = frozenset()) -> tuple[Aspect, ...]:
    """Compare the inputs of a plan; see the module's text for when a difference is an error."""
    parents = plan.inputs
    configs = [text_config(parent.config) for parent in parents]
    carried = text_config(plan.donor.config)
    aspects: list[Aspect | None] = [
        _judge(plan, allow, "architecture", [architecture(parent) for parent in parents], architecture(plan.donor), "any",
               "tensors of {names} would run inside {donor}'s architecture, {carried}"),
        _shapes(plan),
    ]  # fmt: skip
    rope = _judge(plan, allow, "rope", [rope_text(config) for config in configs], rope_text(carried), "attention",
                  "the result runs with {donor}'s rope ({carried}); attention of {names} was made for {values}")  # fmt: skip
    context = _judge(plan, allow, "context", [context_text(config) for config in configs], context_text(carried), "attention",
                     "the result promises {donor}'s context, {carried}; {names}'s attention was made for {values}")  # fmt: skip
    if context.gravity == "error" and rope.gravity in ("error", "allowed"):
        # The context is a consequence of the rope: one decision, one flag.
        context = Aspect("context", context.values, "note", "goes with the rope")
    aspects += [
        rope,
        context,
        _tying(plan, allow),
        _vocabulary(plan, allow),
        _templates(plan),
        _extra(plan, allow),
    ]
    return tuple(aspect for aspect in aspects if aspect is not None)


def refuse(aspects: Sequence[Aspect], table: str = "") -> None:
    """Stop if any aspect is an error: the reasons, and the exact flags that would go on."""
    errors = [aspect for aspect in aspects if aspect.gravity == "error"]
    if not errors:
        return
    flags = " ".join(f"--allow {aspect.name}" for aspect in errors if aspect.name in ALLOWABLE)
    reasons = "; ".join(aspect.reason for aspect in errors)
    raise UserError(f"these parents do not fit: {reasons}" + (f". To merge them all the same: {flags}" if flags else ""))


def architecture(checkpoint: Checkpoint) -> str:
    """The class the config names, or its model type."""
    listed = checkpoint.config.get("architectures")
    return str(listed[0]) if isinstance(listed, list) and listed else str(checkpoint.config.get("model_type", "unknown"))


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rope settings of a config, old style or new, with defaults spelled out.

    transformers 5 writes `rope_parameters`; before it wrote `rope_theta` and `rope_scaling`.
    """
    new = config.get("rope_parameters")
    if isinstance(new, Mapping):
        found = dict(new)
    else:
        found = {"rope_theta": config.get("rope_theta", 10000.0)}
        scaling = config.get("rope_scaling")
        if isinstance(scaling, Mapping):
            found |= scaling
            found["rope_type"] = found.pop("type", found.get("rope_type", "default"))
    if not any(isinstance(value, Mapping) for value in found.values()):
        found.setdefault("rope_type", "default")
        found.setdefault("rope_theta", 10000.0)
        theta = found["rope_theta"]
        # An integer beyond all floats stays as it is: it is only compared and shown.
        found["rope_theta"] = float(theta) if isinstance(theta, (int, float)) and abs(theta) < 1e300 else theta
    return found


def short_number(value: object) -> str:
    """1e6 for 1000000.0, 5e5 for 500000, 12345 for 12345: as people write rope's theta."""
    if not isinstance(value, (int, float)) or not abs(value) < math.inf or value != int(value):
        return str(value)
    digits = str(int(value))
    front = digits.rstrip("0")
    zeros = len(digits) - len(front)
    return f"{front}e{zeros}" if front and zeros >= 4 else digits


def rope_text(config: Mapping[str, Any]) -> str:
    found = rope_parameters(config)
    if set(found) == {"rope_type", "rope_theta"} and found["rope_type"] == "default":
        return f"theta {short_number(found['rope_theta'])}"
    return json.dumps(found, sort_keys=True)


def context_text(config: Mapping[str, Any]) -> str:
    length = config.get("max_position_embeddings") or config.get("n_positions")
    window = config.get("sliding_window") if config.get("use_sliding_window", "sliding_window" in config) else None
    return f"{length}" + (f", window {window}" if window else "")


def _judge(plan: Plan, allow: frozenset[str], name: str, values: list[str], carried: str, kind: str, template: str) -> Aspect:
    odd = [index for index, value in enumerate(values) if value != carried]
    if not odd:
        return Aspect(name, tuple(values))
    reach = [index for index in odd if plan.uses(index, kind)]
    if not reach:
        what = "attention" if kind == "attention" else "such tensors"
        return Aspect(name, tuple(values), "note", f"no {what} of {_names(plan, odd)} reaches the result")
    reason = template.format(
        names=_names(plan, reach),
        donor=plan.donor.label,
        carried=carried,
        values=" and ".join(sorted({values[index] for index in reach})),
    )
    return Aspect(name, tuple(values), "allowed" if name in allow else "error", reason)


def _names(plan: Plan, indices: Sequence[int]) -> str:
    return " and ".join(plan.names[index] for index in indices)


def _shapes(plan: Plan) -> Aspect:
    counts = [sum(tensor.elements for tensor in parent.tensors.values()) for parent in plan.inputs]
    values = tuple(
        f"{len(parent.tensors)} tensors, {count / 1e6:,.1f}M" for parent, count in zip(plan.inputs, counts, strict=True)
    )
    return Aspect("size", values, "same" if len(set(values)) == 1 else "note")


def _tying(plan: Plan, allow: frozenset[str]) -> Aspect:
    tied = [HEAD not in parent.tensors or HEAD in plan.drops for parent in plan.inputs]
    if plan.drops.get(HEAD):
        tied[plan.lead] = True
    values = tuple("tied" if value else "own head" for value in tied)
    odd = [index for index, value in enumerate(tied) if value != tied[plan.lead]]
    if not odd or not any(embedding_name(parent.tensors) for parent in plan.inputs):
        return Aspect("tying", values)
    reach = [index for index in odd if plan.uses(index, "embeddings")]
    if not reach:
        return Aspect("tying", values, "note", f"no embeddings of {_names(plan, odd)} reach the result")
    reason = (
        f"{plan.names[plan.lead]} has its head {'tied to the embeddings' if tied[plan.lead] else 'apart from the embeddings'}"
        f" and {_names(plan, reach)} {'has' if len(reach) == 1 else 'have'} not"
    )
    return Aspect("tying", values, "allowed" if "tying" in allow else "error", reason)


def _vocabulary(plan: Plan, allow: frozenset[str]) -> Aspect:
    rows = [embedding_rows(parent) for parent in plan.inputs]
    digests = [token_map(parent.folder) for parent in plan.inputs]
    reference = plan.lead
    values = tuple(
        f"{row} rows" + ("" if tokens is None else f", {len(tokens)} tokens") for row, tokens in zip(rows, digests, strict=True)
    )
    odd = [
        index
        for index in range(len(rows))
        if rows[index] != rows[reference] or not _same_tokens(digests[index], digests[reference])
    ]
    if not odd:
        return Aspect("vocabulary", values)
    reach = [index for index in odd if plan.uses(index, "embeddings")]
    if not reach:
        return Aspect("vocabulary", values, "note", f"no embeddings of {_names(plan, odd)} reach the result")
    if plan.vocabulary is not None:
        return Aspect("vocabulary", values, "note", plan.vocabulary.summary)
    reason = (
        f"embeddings of {_names(plan, reach)} ({' and '.join(values[index] for index in reach)}) stand for other tokens than"
        f" {plan.names[reference]}'s ({values[reference]}), whose tokenizer the result carries; 'tokenizer: {{source: union}}'"
        " (or base, or a model) in the recipe aligns them"
    )
    return Aspect("vocabulary", values, "allowed" if "vocabulary" in allow else "error", reason)


def _same_tokens(one: Mapping[str, int] | None, two: Mapping[str, int] | None) -> bool:
    return one is None or two is None or one == two


def _templates(plan: Plan) -> Aspect:
    templates = [folder_template(parent.folder) for parent in plan.inputs]
    kinds: dict[str | None, str] = {None: "none"}
    for template in templates:
        kinds.setdefault(template, f"template {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[(len(kinds) - 1) % 26]}")
    values = tuple(kinds[template] for template in templates)
    if len(set(values)) == 1:
        return Aspect("template", values)
    return Aspect("template", values, "note", _whose_template(plan))


def _whose_template(plan: Plan) -> str:
    if plan.template is not None:
        return plan.template.whose
    option = plan.recipe.tokenizer
    named = option is not None and option.source not in ("base", "union")
    return f"the result carries {option.source if option is not None and named else plan.donor.label}'s"


def _extra(plan: Plan, allow: frozenset[str]) -> Aspect | None:
    extra = {index: left_out(plan, index) for index in range(len(plan.inputs)) if plan.uses(index, "any")}
    extra = {index: [name for name in names if name != HEAD] for index, names in extra.items()}
    if not any(extra.values()):
        return None
    values = tuple(str(len(extra.get(index, ()))) for index in range(len(plan.inputs)))
    index = next(index for index, names in extra.items() if names)
    reason = (
        f"{plan.names[index]} has {len(extra[index])} tensors that {plan.names[plan.lead]} has not, such as {extra[index][0]!r}"
    )
    return Aspect("tensors", values, "allowed" if "tensors" in allow else "error", reason)
