"""modist combines language models.

Each verb is a package whose main function has its name: `from modist.merge import merge`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modist.errors import CheckpointError, HubError, MergeError, ModistError, RecipeError, UserError
from modist.version import VERSION as __version__

if TYPE_CHECKING:
    from modist.recipe import Recipe, load_recipe

# Imported on first use, so that `import modist` and `modist --help` stay instant.
_LAZY = {"Recipe": "modist.recipe", "load_recipe": "modist.recipe"}

__all__ = [
    "CheckpointError",
    "HubError",
    "MergeError",
    "ModistError",
    "Recipe",
    "RecipeError",
    "UserError",
    "__version__",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'modist' has no attribute {name!r}")
