"""From a recipe to live experts: fetched, loaded, placed, compared, and their common tensors held once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.checkpoint.hub import fetch, fetch_texts
from modist.errors import CheckpointError, ModistError, UserError
from modist.mixture.linear import quicken
from modist.mixture.placement import loading_options
from modist.mixture.sharing import share_equal_tensors
from modist.mixture.weights import check_weights, log_weights
from modist.recipe import ModelReference, Recipe
from modist.vocabulary import CommonVocabulary
from modist.vocabulary.common import compared_maps

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("modist.mixture")


@dataclass(frozen=True, eq=False)
class Experts:
    """Living experts, in the recipe's order.

    Attributes:
        models: transformers causal LMs, in eval mode.
        tokenizers: each one's own, with its chat template; None where a folder has none.
        weights: a_i, summing to 1.
        names: for people; unique.
        vocabulary: what the experts can read of the mixture's ids.
        references: where each came from, a hub id with the commit that was fetched; empty texts for models handed over.
        folders: where each lies on disk, or None.
        base: the folder whose tokenizer, chat template and generation config the mixture carries, or None.
        base_reference: where that folder came from, in the form of `references`.
        tokenizer: that folder's tokenizer, or None.
        saved_bytes: memory not spent because experts share equal tensors.
        notes: what the user ought to know (a device that was not there), one line each.
    """

    models: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]
    vocabulary: CommonVocabulary
    references: tuple[str, ...]
    folders: tuple[Path | None, ...]
    base: Path | None
    base_reference: str
    tokenizer: Any
    saved_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.models)

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """log a_i, float64 [experts] on the CPU; -inf for a weight of 0."""
        return log_weights(self.weights)

    @cached_property
    def ends(self) -> tuple[frozenset[int], ...]:
        """For each expert the ids with which it ends an answer."""
        return tuple(end_ids(model, tokenizer) for model, tokenizer in zip(self.models, self.tokenizers, strict=True))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The ids with which any expert ends an answer."""
        return frozenset().union(*self.ends)

    @property
    def context(self) -> int | None:
        """The longest sequence every expert can take, in tokens; None where none says."""
        found = [context_of(model) for model in self.models]
        known = [length for length in found if length]
        return min(known) if known else None


def load_experts(
    recipe: Recipe,
    *,
    device: str | Sequence[str] | None = None,
    dtype: str | Sequence[str] | None = None,
    trust_remote_code: bool = False,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
    **kwargs: Any,
) -> Experts:
    """Load the experts of a recipe.

    `model_kwargs` of the recipe are obeyed where they concern loading (device_map, dtype, quantization_config ...); a list
    under `device`, `device_map` or `dtype` has one entry for each expert.

    Args:
        recipe: Configuration 1 or any recipe with `experts` and `weights`.
        device: goes before the recipe's: `cpu`, `cuda`, `cuda:1`, `mps`, `auto`; or one for each expert.
        dtype: goes before the recipe's: `auto`, `bfloat16` ...; or one for each expert.
        trust_remote_code: run the Python files that come with a model.  A recipe can never ask for it.
        cache: folder for downloads; huggingface_hub's own by default.
        say: called once with each note as it arises; the log by default.
        **kwargs: more for `AutoModelForCausalLM.from_pretrained`, before the recipe's.

    Raises:
        RecipeError: the recipe names no experts and weights, or loads them with an unknown keyword.
        UserError: different tokenizers, weights that do not sum to 1, no memory, a missing quantisation library.
        CheckpointError, HubError: an expert is damaged or cannot be had.
    """
    if not isinstance(recipe.document.data, Mapping) or "experts" not in recipe.document.data:
        raise recipe.document.error("a mixture needs 'experts' and 'weights', as in the paper's Configuration 1")
    references = [source.model for source in recipe.slices[0].sources]
    weights = []
    for source in recipe.slices[0].sources:
        value = source.parameters["weight"].at("", 0.0)
        assert isinstance(value, (int, float))
        weights.append(float(value))
    notes: list[str] = []

    def note(line: str) -> None:
        if line not in notes:
            notes.append(line)
            (say or _log.warning)(line)

    settings = loading_options(recipe, len(references), device, dtype, kwargs, note)
    places = {reference: _place(reference, trust_remote_code, cache) for reference in references}
    if recipe.donor not in places:
        places[recipe.donor] = _place_of_base(recipe.donor, cache)
    names = _unique([reference.name for reference in references], [str(reference) for reference in references])
    folders = [places[reference][0] for reference in references]
    tokenizers = [load_tokenizer(folder, trust_remote_code=trust_remote_code) for folder in folders]
    # Whether they fit is known before gigabytes are read.
    compared_maps(tokenizers, names)
    models = [
        load_model(name, folder, trust_remote_code=trust_remote_code, **options)
        for name, folder, options in zip(names, folders, settings, strict=True)
    ]
    return assemble(
        models,
        weights,
        tokenizers=tokenizers,
        names=names,
        references=[places[reference][1] for reference in references],
        folders=folders,
        base=places[recipe.donor][0],
        base_reference=places[recipe.donor][1],
        notes=notes,
    )


def assemble(
    models: Sequence[Any],
    weights: Sequence[float],
    *,
    tokenizers: Sequence[Any] = (),
    names: Sequence[str] = (),
    references: Sequence[str] = (),
    folders: Sequence[Path | None] = (),
    base: Path | None = None,
    base_reference: str = "",
    notes: Sequence[str] = (),
    share: bool = True,
) -> Experts:
    """Put live models together: check the weights, compare the vocabularies, hold equal tensors once, quicken the products.

    Args:
        models: transformers causal LMs; they are put into eval mode.
        weights: a_i.
        tokenizers: one for each model; sizes alone are compared for those left out.
        names, references, folders: see `Experts`.
        base, base_reference: the folder whose tokenizer the mixture carries, and its name; the first expert's when left out.
        notes: lines to begin with.
        share: whether to hold equal tensors once.  The later models then use the earlier ones' parameters, so none of them
            may be trained afterwards.

    Raises:
        UserError: weights that are no weights, different tokenizers.
    """
    count = len(models)
    weights = check_weights(weights, count)
    names = tuple(names) or _unique([_name_of(model, index) for index, model in enumerate(models)])
    tokenizers = tuple(tokenizers) or (None,) * count
    folders = tuple(folders) or (None,) * count
    references = tuple(references) or ("",) * count
    if base is None:
        base, base_reference = folders[0], references[0]
    tokenizer = next((own for folder, own in zip(folders, tokenizers, strict=True) if folder == base and own is not None), None)
    if tokenizer is None and base is not None:
        tokenizer = load_tokenizer(base)
    if tokenizer is None:
        tokenizer = tokenizers[0]
    vocabulary = CommonVocabulary.of(
        # The files say which string an id has; a tokenizer object is asked where there are none.
        [own if own is not None else folder for own, folder in zip(tokenizers, folders, strict=True)],
        [output_rows(model) for model in models],
        names,
        reference=tokenizer,
        ends=[end_ids(model, own) for model, own in zip(models, tokenizers, strict=True)],
    )
    for model in models:
        model.eval()
    saved = share_equal_tensors(models) if share else 0
    quicken(models)
    return Experts(
        models=tuple(models),
        tokenizers=tokenizers,
        weights=weights,
        names=names,
        vocabulary=vocabulary,
        references=references,
        folders=folders,
        base=base,
        base_reference=base_reference,
        tokenizer=tokenizer,
        saved_bytes=saved,
        notes=tuple(notes),
    )


def end_ids(model: Any, tokenizer: Any = None) -> frozenset[int]:
    """The ids with which an expert ends an answer: its generation config's, its config's and its tokenizer's."""
    found: set[int] = set()
    text = model.config.get_text_config(decoder=True)
    for source in (getattr(model, "generation_config", None), text, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found |= {int(number) for number in (value if isinstance(value, (list, tuple)) else [value]) if number is not None}
    return frozenset(found)


def output_rows(model: Any) -> int:
    """Rows of a model's output: how many logits it gives."""
    head = model.get_output_embeddings()
    rows = getattr(head, "out_features", None)
    if rows is None and getattr(head, "weight", None) is not None:
        rows = head.weight.shape[0]
    return int(rows if rows is not None else model.config.get_text_config(decoder=True).vocab_size)


def context_of(model: Any) -> int | None:
    """The longest sequence a model was made for, in tokens, or None where its config does not say."""
    config = model.config.get_text_config(decoder=True)
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(length) if length else None


def load_model(name: str, folder: Path, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """One expert from its folder.

    Raises:
        UserError: no memory for it, no such device, a missing quantisation library.
        CheckpointError: it is no causal LM, is damaged, or lacks tensors (which transformers would draw at random).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = options.get("device_map", "cpu")
    if place == "cpu":
        options.pop("device_map", None)  # the default, and it needs no accelerate
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if config.model_type == "modist_mixture":
            raise UserError(f"expert {name} is itself a mixture; name its experts instead")
        with _bars_only_on_a_terminal():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, trust_remote_code=trust_remote_code, output_loading_info=True, **options
            )
    except ModistError:
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(f"expert {name} does not fit on {place}: {_line(error)}") from None
    except ImportError as error:
        raise UserError(f"expert {name} needs a package that is not here: {_line(error)}") from None
    except Exception as error:
        # transformers, safetensors and accelerate each have exceptions of their own for a damaged folder.
        raise CheckpointError(f"expert {name} could not be loaded from {folder}: {_line(error)}") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(f"expert {name}: {folder} lacks {len(missing)} tensors, such as {missing[0]!r}")
    if info.get("mismatched_keys"):
        odd = sorted(str(entry[0]) for entry in info["mismatched_keys"])
        raise CheckpointError(f"expert {name}: {len(odd)} tensors of {folder} have another shape, such as {odd[0]!r}")
    return model.eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """A folder's tokenizer, or None where it has none that can be read."""
    from transformers import AutoTokenizer

    if not any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        _log.warning("%s: its tokenizer cannot be read (%s)", folder, _line(error))
        return None


def _place(reference: ModelReference, trust_remote_code: bool, cache: Path | None) -> tuple[Path, str]:
    """A model's folder, and how to name it for good: an absolute path, or the hub id with its commit."""
    if reference.adapter is not None:
        raise UserError(f"{reference}: adapters cannot be run; merge it into its model first (merge_method: passthrough)")
    if reference.adapter:
        raise UserError(f"{reference}: an expert with an adapter cannot be run; merge the adapter into its model first")
    if reference.is_local:
        folder = reference.folder.resolve()
        if not (folder / "config.json").exists():
            raise CheckpointError(f"{reference}: {folder} has no config.json, so it is no model")
        return folder, str(folder)
    fetched = fetch(reference, allow_code=trust_remote_code, cache=cache)
    return fetched.folder, f"{reference.source}@{fetched.commit}"


@contextmanager
def _bars_only_on_a_terminal() -> Iterator[None]:
    from transformers.utils import logging as bars

    hide = not sys.stderr.isatty() and bars.is_progress_bar_enabled()
    if hide:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            bars.enable_progress_bar()


def _place_of_base(reference: ModelReference, cache: Path | None) -> tuple[Path, str]:
    """The same for a base that is no expert: only its tokenizer is wanted, so its weights are not fetched."""
    if reference.is_local:
        folder = reference.folder.resolve()
        return folder, str(folder)
    fetched = fetch_texts(reference, cache=cache)
    return fetched.folder, f"{reference.source}@{fetched.commit}"


def _name_of(model: Any, index: int) -> str:
    path = getattr(model, "name_or_path", "") or ""
    return Path(path).name if path else f"expert {index}"


def _unique(names: Sequence[str], longer: Sequence[str] = ()) -> tuple[str, ...]:
    if len(set(names)) == len(names):
        return tuple(names)
    if longer and len(set(longer)) == len(longer):
        return tuple(longer)
    return tuple(f"{name} ({index})" for index, name in enumerate(names))


def _line(error: BaseException) -> str:
    """An exception's text on one line, at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:296]} ..."
