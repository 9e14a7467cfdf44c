"""The model card of a merge: front matter the hub understands, the recipe, what each parent gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_LICENCE_BYTES = 1 << 20


@dataclass(frozen=True)
class Parent:
    """One model on the card: its name, its licence (None where it states none), what it gave (a phrase).

    `models` are what the hub should link it to, where that is not `name`: a model and the adapter on it.
    """

    name: str
    licence: str | None
    gave: str
    models: tuple[str, ...] = ()


def front_matter(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's README.md; empty where there is none that can be read."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_LICENCE_BYTES).decode("utf-8", "replace")
        if not text.startswith("---"):
            return {}
        data = yaml.safe_load(text[3:].split("\n---", 1)[0])
    except (OSError, yaml.YAMLError, RecursionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # PyYAML's constructors raise nearly anything for a tag that its value does not fit.
        return {}
    return data if isinstance(data, dict) else {}


def licence_of(folder: Path) -> str | None:
    """The licence a model folder's card states; for `other`, its name."""
    found = front_matter(folder)
    licence = found.get("license")
    if isinstance(licence, list):
        licence = ", ".join(entry for entry in licence if isinstance(entry, str))[:200]
    if licence == "other" and isinstance(found.get("license_name"), str):
        return f"other ({found['license_name']})"
    return licence if isinstance(licence, str) else None


def common_licence(model: str | None, adapter: str | None) -> str | None:
    """The licence of a model with an adapter on it, from what each states."""
    if adapter is None or adapter == model:
        return model
    return f"other ({model or 'not stated'}; the adapter's: {adapter})"


def model_card(
    name: str,
    method: str,
    source: str,
    parents: Sequence[Parent],
    recipe: str,
    seed: int,
    version: str,
    adapter_of: str | None = None,
) -> str:
    """README.md of a merge.

    Args:
        name: of the result.
        method, source: the method and where it was published.
        parents: in the order of the recipe.
        recipe: the YAML, verbatim.
        seed: the merge's.
        version: modist's.
        adapter_of: for a merge of adapters, the model they belong to ("" where they do not say).
    """
    licences = {parent.licence for parent in parents}
    meta: dict[str, Any] = {
        "base_model": list(dict.fromkeys(model for parent in parents for model in parent.models or (parent.name,))),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "modist", method],
    }
    if len(licences) == 1 and (only := next(iter(licences))) is not None and not only.startswith("other"):
        meta["license"] = only
    elif licences != {None}:
        meta["license"] = "other"
        meta["license_name"] = "see-parents"
    if adapter_of is not None:
        meta |= {"base_model": [adapter_of], "library_name": "peft"} if adapter_of else {"library_name": "peft"}
    kind = "model" if adapter_of is None else "adapter"
    rows = "\n".join(f"| {p.name} | {p.gave} | {p.licence or 'not stated'} |" for p in parents)
    fence = "````" if "```" in recipe else "```"
    note = (
        "\nThe parents' licences differ or are not all stated; what may be done with the merge follows from all of them.\n"
        if len(licences) > 1
        else ""
    )
    return f"""---
{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---

# {name}

A merge of {len(parents)} {kind}{"s" if len(parents) > 1 else ""} by `{method}` ({source}).
Made with modist {version}, seed {seed}.

| parent | gave | licence |
|---|---|---|
{rows}
{note}
`modist_manifest.json` holds hashes, versions and what each parent gave by layer; `modist verify` checks them.

## Recipe

{fence}yaml
{recipe.rstrip()}
{fence}
"""
