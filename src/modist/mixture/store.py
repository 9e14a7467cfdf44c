"""What lies in a saved mixture's folder beside config and tensors: a stub for `trust_remote_code`, a recipe, the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from modist.checkpoint.folder import read_json
from modist.errors import CheckpointError
from modist.recipe import Recipe, parse_recipe

if TYPE_CHECKING:
    from modist.mixture.config import MixtureConfig

STUB = "modeling_mixture.py"
_STUB_TEXT = '''"""A mixture of language models, p = sum_i a_i p_i: run by the package modist (pip install "modist[mix]")."""

from modist.mixture.model import MixtureConfig, MixtureForCausalLM

__all__ = ["MixtureConfig", "MixtureForCausalLM"]
'''
AUTO_MAP = {"AutoConfig": f"{STUB[:-3]}.MixtureConfig", "AutoModelForCausalLM": f"{STUB[:-3]}.MixtureForCausalLM"}
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


def save_beside(folder: Path, config: MixtureConfig, tokenizer_folder: Path | None) -> None:
    """Add the stub, the recipe and the base's tokenizer with its chat template to a saved mixture.

    Args:
        folder: where config.json already is.
        config: of the mixture.
        tokenizer_folder: whose tokenizer files are copied as they are; None for none.
    """
    path = folder / "config.json"
    data = read_json(path) | {"auto_map": AUTO_MAP}
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / STUB).write_text(_STUB_TEXT, encoding="utf-8")
    if all(config.references or ()):
        (folder / "recipe.yml").write_text(recipe_text(config), encoding="utf-8")
    if tokenizer_folder is not None and tokenizer_folder.resolve() != folder.resolve():
        for pattern in _TOKENIZER:
            for file in sorted(tokenizer_folder.glob(pattern)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)


def recipe_text(config: MixtureConfig) -> str:
    """The mixture in the form of the paper's Configuration 1."""
    recipe: dict[str, Any] = {
        **({"base_model": config.base} if config.base else {}),
        "experts": [{"source_model": reference} for reference in config.references or ()],
        "weights": list(config.weights or ()),
    }
    # The form has no key for it; config.json does.
    note = "" if config.law == "arithmetic" else f"# to be mixed by the law {config.law!r}\n"
    return note + yaml.safe_dump(recipe, sort_keys=False)


def as_recipe(config: MixtureConfig, label: str) -> Recipe:
    """The recipe by which the experts of a recipe checkpoint are loaded.

    Raises:
        CheckpointError: it names no experts.
        RecipeError: a folder is not there any more.
    """
    if not config.references or not all(config.references):
        raise CheckpointError(f"{label}: holds no tensors and does not say where its experts are")
    return parse_recipe(recipe_text(config), label)


def state_without_sharing(model: Any) -> dict[str, Any]:
    """A state dict in which experts share nothing, as safetensors files demand; ties within one expert stay.

    Args:
        model: a mixture, whose keys begin with the expert's attribute.
    """
    owner: dict[int, str] = {}
    copies: dict[tuple[str, int, Any], Any] = {}
    state = {}
    for key, tensor in model.state_dict().items():
        expert = key.partition(".")[0]
        if tensor.device.type == "meta":
            state[key] = tensor
            continue
        storage = tensor.untyped_storage().data_ptr()
        if owner.setdefault(storage, expert) == expert:
            state[key] = tensor
        else:
            # The tied head of a later expert becomes the same copy as its embeddings.
            same = (expert, tensor.data_ptr(), tensor.shape)
            if same not in copies:
                copies[same] = tensor.clone()
            state[key] = copies[same]
    return state
