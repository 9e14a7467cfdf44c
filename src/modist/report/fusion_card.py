"""The model card of a fused model: front matter the hub understands, what was distilled from whom, the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from modist.report.card import Parent

TARGETS = {
    "mince": "MinCE by response (the teacher with the lowest cross-entropy of it)",
    "mince_position": "MinCE by position (the teacher that gives the token the highest probability)",
    "avgce": "AvgCE (teachers weighed by softmax(-CE / T) of a response)",
    "weights": "the teachers' mixture with the recipe's weights",
}


@dataclass(frozen=True)
class FusedParent(Parent):
    """The pivot or an expert on the card."""


def fusion_card(
    name: str,
    parents: Sequence[FusedParent],
    *,
    mode: str,
    target: str,
    mix: float,
    chats: int,
    steps: Sequence[int],
    recipe: str,
    seed: int,
    version: str,
) -> str:
    """README.md of a fused model.

    Args:
        name: of the result.
        parents: the pivot first.
        mode, target, mix: of the fusion; `mix` is lambda.
        chats: that were trained on.
        steps: of each training.
        recipe: the YAML, verbatim.
        seed: the training's.
        version: modist's.
    """
    licences = {parent.licence for parent in parents}
    meta: dict[str, Any] = {
        "base_model": parents[0].name,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["fusion", "distillation", "modist"],
    }
    if len(licences) == 1 and (only := next(iter(licences))) is not None and not only.startswith("other"):
        meta["license"] = only
    elif licences != {None}:
        meta["license"] = "other"
        meta["license_name"] = "see-parents"
    rows = "\n".join(f"| {parent.name} | {parent.gave} | {parent.licence or 'not stated'} |" for parent in parents)
    fence = "````" if "```" in recipe else "```"
    note = (
        "\nThe parents' licences differ or are not all stated; what may be done with the result follows from all of them.\n"
        if len(licences) > 1
        else ""
    )
    others = len(parents) - 1
    said = f"{others} other models say" if others > 1 else "another model says"
    counts = " and ".join(f"{count:,}" for count in steps)
    merged = " Each expert was fused with the pivot alone; the results were then merged by SCE." if len(steps) > 1 else ""
    return f"""---
{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---

# {name}

{parents[0].name}, trained on what {said} of {chats:,} chats: a UMM-style fusion by
{TARGETS[target]}, {mode}, {counts} steps,
loss {mix:g} CLM + {1 - mix:g} CE(target).{merged}
Made with modist {version}, seed {seed}.

| model | gave | licence |
|---|---|---|
{rows}
{note}
`modist_manifest.json` holds hashes, versions and what became of the data; `modist verify` checks them.

## Recipe

{fence}yaml
{recipe.rstrip()}
{fence}
"""
