"""`modist recipe`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

recipe_app = typer.Typer(help="Work with recipes.", no_args_is_help=True, rich_markup_mode=None)


@recipe_app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from modist.recipe.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@recipe_app.command("check")
def check_command(recipe: Path = typer.Argument(help="The YAML to read.")) -> None:
    """Read a recipe as `merge` or `fuse` would, without touching any model."""
    from modist.merge.plan import check_recipe
    from modist.recipe import load_recipe
    from modist.recipe.document import read_document
    from modist.recipe.fusion import read_fusion_recipe

    document = read_document(recipe)
    if isinstance(document.data, dict) and "pivot" in document.data:
        fusion = read_fusion_recipe(document)
        experts = ", ".join(map(str, fusion.experts))
        print(f"{recipe}: {fusion.fusion.target}, {fusion.fusion.mode}, of {experts} into {fusion.pivot}")
        return
    found = load_recipe(recipe)
    check_recipe(found)
    print(f"{recipe}: {found.method} of {', '.join(str(model) for model in found.models)}")
