"""Where an expert is placed and how it is loaded: what recipe and command ask for, as keywords of `from_pretrained`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modist.errors import RecipeError, UserError, nearest
from modist.recipe import Recipe

# What a recipe may say of loading an expert.  Never `trust_remote_code`: that is the command's to say, not the file's.
_PASSED_ON = ("attn_implementation", "max_memory", "offload_folder", "quantization_config", "use_safetensors", "variant")
_READ_HERE = ("device", "device_map", "dtype", "torch_dtype", "load_in_4bit", "load_in_8bit")
_OF_NO_EFFECT = ("low_cpu_mem_usage", "offload_state_dict", "trust_remote_code", "use_cache")
_DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")


def choose_device(asked: str, note: Callable[[str], None]) -> str:
    """The device asked for, or the next best where this machine has no such thing (said through `note`)."""
    import torch

    kind, _, number = str(asked).partition(":")
    if kind == "cuda":
        if torch.cuda.is_available():
            if int(number or 0) < torch.cuda.device_count():
                return str(asked)
            note(f"there is no {asked} here; using cuda:0")
            return "cuda:0"
        instead = "mps" if torch.backends.mps.is_available() else "cpu"
        note(f"there is no {kind} here; using {instead}")
        return instead
    if kind == "mps" and not torch.backends.mps.is_available():
        note("there is no mps here; using cpu")
        return "cpu"
    return str(asked)


def loading_options(
    recipe: Recipe,
    count: int,
    device: str | Sequence[str] | None,
    dtype: str | Sequence[str] | None,
    more: Mapping[str, Any],
    note: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The keywords of `from_pretrained` for each expert.

    Args:
        recipe: whose `model_kwargs` are obeyed where they concern loading.
        count: of experts.
        device, dtype: go before the recipe's; one for all, or one for each expert.
        more: keywords that go before all others.
        note: called with what the user ought to know.

    Raises:
        RecipeError: an unknown keyword, a list of another length, code on a hub.
        UserError: an unknown dtype.
    """
    given = dict(recipe.model_kwargs)
    known = (*_PASSED_ON, *_READ_HERE, *_OF_NO_EFFECT)
    for key in given:
        if key not in known:
            raise recipe.document.error(f"unknown key {key!r}{nearest(key, known)}", "model_kwargs", key)
    if given.get("trust_remote_code"):
        note("trust_remote_code in a recipe is not obeyed; give the flag --trust-remote-code if you trust these models")
    attention = given.get("attn_implementation")
    if isinstance(attention, str) and "/" in attention:
        # transformers would download a kernel of this name and run it.
        raise recipe.document.error(f"{attention!r} is code on a hub, which a recipe may not run", "model_kwargs")
    wanted_device = device if device is not None else given.get("device_map", given.get("device"))
    wanted_dtype = dtype if dtype is not None else given.get("dtype", given.get("torch_dtype", recipe.dtype or "auto"))
    devices, dtypes = _each(recipe, wanted_device, count, "device"), _each(recipe, wanted_dtype, count, "dtype")
    bits = {key: True for key in ("load_in_4bit", "load_in_8bit") if given.get(key)}
    settings = []
    for place, kind in zip(devices, dtypes, strict=True):
        options = {key: given[key] for key in _PASSED_ON if given.get(key) is not None}
        if bits and "quantization_config" not in options:
            options["quantization_config"] = {"quant_method": "bitsandbytes", **bits}
        options["dtype"] = _dtype(recipe, kind)
        if isinstance(place, Mapping):
            options["device_map"] = dict(place)
        elif isinstance(place, int):
            options["device_map"] = choose_device(f"cuda:{place}", note)
        elif place is not None:
            options["device_map"] = choose_device(place, note)
        settings.append({**options, **more})
    return settings


def _each(recipe: Recipe, value: Any, count: int, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise recipe.document.error(f"{len(value)} entries of {what} for {count} experts; give one, or one for each")
    return list(value)


def _dtype(recipe: Recipe, value: Any) -> Any:
    text = str(value).removeprefix("torch.")
    if text not in _DTYPES:
        error: type[UserError] = RecipeError if recipe.model_kwargs else UserError
        raise error(f"there is no dtype {value!r}{nearest(text, _DTYPES)}; one of {', '.join(_DTYPES)}")
    return text
