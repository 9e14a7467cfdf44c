"""YAML in, validated immutable recipes out; the lowest floor, which knows nothing of tensors."""

from modist.recipe.document import Document, Key
from modist.recipe.fusion import FusionRecipe, load_fusion_recipe, parse_fusion_recipe
from modist.recipe.json_schema import json_schema
from modist.recipe.passages import Passage, read_passages
from modist.recipe.recipe import Recipe, load_recipe, parse_recipe
from modist.recipe.reference import ModelReference
from modist.recipe.setting import Scalar, Setting, constant
from modist.recipe.slice import Slice, Source

__all__ = [
    "Document",
    "FusionRecipe",
    "Key",
    "ModelReference",
    "Passage",
    "Recipe",
    "Scalar",
    "Setting",
    "Slice",
    "Source",
    "constant",
    "json_schema",
    "load_fusion_recipe",
    "load_recipe",
    "parse_fusion_recipe",
    "parse_recipe",
    "read_passages",
]
