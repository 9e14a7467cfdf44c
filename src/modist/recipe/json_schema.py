"""One JSON Schema for every dialect of recipes: what editors check YAML against."""

from __future__ import annotations

from typing import Any

from modist.recipe.fusion_schema import FusionFile
from modist.recipe.schema import MergeFile, MixtureFile


def json_schema() -> dict[str, Any]:
    """Mixtures, merges and fusions (draft 2020-12)."""
    dialects = [file.model_json_schema() for file in (MixtureFile, MergeFile, FusionFile)]
    definitions = {name: body for dialect in dialects for name, body in dialect.pop("$defs", {}).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modist recipe",
        "anyOf": dialects,
        "$defs": definitions,
    }
