"""YAML in, validated immutable recipes out; the lowest floor, which knows nothing of tensors.

A fusion's recipe is in `modist.recipe.fusion`, which a merge need not import.
"""

from modist.recipe.document import Document, Key
from modist.recipe.passages import Passage, read_passages
from modist.recipe.recipe import Recipe, load_recipe, parse_recipe
from modist.recipe.reference import ModelReference
from modist.recipe.setting import Scalar, Setting, constant
from modist.recipe.slice import Slice, Source

__all__ = [
    "Document",
    "Key",
    "ModelReference",
    "Passage",
    "Recipe",
    "Scalar",
    "Setting",
    "Slice",
    "Source",
    "constant",
    "load_recipe",
    "parse_recipe",
    "read_passages",
]
