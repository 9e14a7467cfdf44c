"""YAML in, validated immutable recipes out; the lowest floor, which knows nothing of tensors."""

from modist.recipe.document import Document, Key
from modist.recipe.recipe import Recipe, load_recipe, parse_recipe
from modist.recipe.reference import ModelReference
from modist.recipe.schema import json_schema
from modist.recipe.setting import Scalar, Setting, constant
from modist.recipe.slice import Slice, Source

__all__ = [
    "Document",
    "Key",
    "ModelReference",
    "Recipe",
    "Scalar",
    "Setting",
    "Slice",
    "Source",
    "constant",
    "json_schema",
    "load_recipe",
    "parse_recipe",
]
