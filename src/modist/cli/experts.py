"""What `generate`, `score` and `chat` share: from RECIPE or MODEL to live experts, and the options that say how."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.errors import UserError, nearest

if TYPE_CHECKING:
    from modist.mixture import Experts
    from modist.mixture.gate import Gate
    from modist.recipe import Recipe

WHAT = typer.Argument(help="A recipe with experts and weights (YAML), or one model: a folder or a hub id.")
GATE = typer.Option("static", "--gate", help="How weights follow the answer: static, or bayes (by each expert's likelihood).")
DISCOUNT = typer.Option(None, "--discount", help="bayes: how much of the past counts, 0 to 1; 1 by default.")
STRIDE = typer.Option(None, "--stride", help="bayes: renew the weights every so many tokens; 1 by default.")
GATE_PROMPT = typer.Option(False, "--gate-prompt", help="bayes: count the prompt's tokens too.")
DEVICE = typer.Option(None, "--device", help="Before the recipe's: cpu, cuda, cuda:1, mps, auto.")
DTYPE = typer.Option(None, "--dtype", help="Before the recipe's: auto, bfloat16, float16, float32, float64.")
TRUST = typer.Option(False, "--trust-remote-code", help="Run the Python files that come with a model.")
MAX_NEW_TOKENS = typer.Option(256, "--max-new-tokens", help="At most so many tokens an answer.")
SEED = typer.Option(0, "--seed", help="Of all draws.")
TEMPERATURE = typer.Option(None, "--temperature", help="Sample at this temperature; greedy where it is left out.")
TOP_K = typer.Option(0, "--top-k", help="Keep the k most probable tokens; 0 keeps all.")
TOP_P = typer.Option(1.0, "--top-p", help="Keep the most probable tokens up to this mass.")
MIN_P = typer.Option(0.0, "--min-p", help="Keep tokens at least this fraction as probable as the best.")
WARP = typer.Option("experts", "--warp", help="Temperature and cuts act on the experts, then mix; or on the mixture.")
LAW = typer.Option("arithmetic", "--law", help="arithmetic: sum a_i p_i; logits: weighted geometric mean (needs --eager).")
STOP = typer.Option([], "--stop", help="A text that ends the answer and is not part of it; may be given again.")
EAGER = typer.Option(False, "--eager", help="Run every expert at every token.")


def read_recipe_or_model(what: str) -> Recipe:
    """A recipe's file, a saved mixture's folder, or one model as a mixture of one expert with weight 1.

    Raises:
        RecipeError: the recipe is wrong, or names no experts and weights.
        UserError: there is no such file or folder, and it can be no hub id.
    """
    from modist.checkpoint.folder import read_json
    from modist.recipe import ModelReference, load_recipe, parse_recipe

    path = Path(what)
    if path.suffix.lower() in (".yml", ".yaml") or path.is_file():
        recipe = load_recipe(path)
        if "experts" not in recipe.document.data:
            raise recipe.document.error("a mixture needs 'experts' and 'weights', as in the paper's Configuration 1")
        return recipe
    try:
        reference = ModelReference.parse(what)
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.adapter:
        raise UserError(f"{what}: adapters cannot be run yet; name the model alone")
    if reference.is_local:
        folder = reference.folder
        if not folder.is_dir():
            raise UserError(f"{what}: there is neither such a recipe nor such a folder")
        if (folder / "config.json").exists() and read_json(folder / "config.json").get("model_type") == "modist_mixture":
            if not (folder / "recipe.yml").exists():
                raise UserError(f"{what}: a mixture saved with its tensors; name the recipe it was made of")
            return load_recipe(folder / "recipe.yml")
    # JSON is YAML, and quotes any name.
    return parse_recipe(json.dumps({"experts": [{"source_model": what}], "weights": [1.0]}), what)


def make_gate(kind: str, discount: float | None, stride: int | None, prompt: bool) -> Gate:
    """The gate of the flags.

    Raises:
        UserError: there is none of this kind, or a flag does not belong to it.
    """
    if kind not in ("static", "bayes"):
        raise UserError(f"--gate {kind!r}: known are static and bayes{nearest(kind, ('static', 'bayes'))}")
    if kind == "static":
        for flag, value in (("--discount", discount), ("--stride", stride), ("--gate-prompt", prompt or None)):
            if value is not None:
                raise UserError(f"{flag} belongs to --gate bayes")
    require()
    from modist.mixture.gate import Gate

    return Gate(kind, 1.0 if discount is None else discount, 1 if stride is None else stride, prompt)


def load(what: str, device: str | None, dtype: str | None, trust_remote_code: bool) -> Experts:
    """Live experts; notes go to stderr, and transformers speaks on a terminal only.

    Raises: as `read_recipe_or_model` and `modist.mixture.load_experts`.
    """
    recipe = read_recipe_or_model(what)
    require()
    quiet()
    from modist.mixture import load_experts

    return load_experts(recipe, device=device, dtype=dtype, trust_remote_code=trust_remote_code, say=note)


def require() -> None:
    """UserError where torch or transformers is not installed."""
    from importlib.util import find_spec

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise UserError(f"running models needs {package}, which is not here: pip install 'modist[mix]'")


def quiet() -> None:
    """Where stderr is no terminal, keep transformers' bars and warnings out of it."""
    if sys.stderr.isatty():
        return
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub)\b")


def note(line: str) -> None:
    """One line for the user on stderr."""
    print(f"modist: note: {line}", file=sys.stderr)


def sound(text: str, what: str) -> str:
    """The text, if it can be encoded: arguments and JSON can hold half of a character.

    Raises:
        UserError: it cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a character (a lone surrogate), which no tokenizer can read") from None
    return text


def finite(value: Any) -> Any:
    """The same with numbers that JSON has none for as None."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
