"""The config of a mixture as a transformers model: its experts' configs, their weights, the law, the common vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig

from modist.errors import CheckpointError, UserError
from modist.mixture.law import check_law
from modist.mixture.load import Experts
from modist.mixture.weights import check_weights
from modist.vocabulary import CommonVocabulary

MODEL_TYPE = "modist_mixture"


class _SubConfigs:
    """transformers asks the class and the instance alike; only an instance knows how many experts there are."""

    def __get__(self, instance: Any, owner: type) -> dict[str, type]:
        if instance is None:
            return {}
        return {name: type(getattr(instance, name)) for name in instance.expert_names if hasattr(instance, name)}


class MixtureConfig(PreTrainedConfig):  # type: ignore[misc]
    """What `config.json` of a mixture holds.

    The experts' own configs are the attributes `expert_0`, `expert_1` ...

    Attributes:
        weights: a_i, summing to 1.
        law: `arithmetic` or `logits`.
        names: the experts', for people.
        references: where each expert comes from: a hub id with its commit, a folder, or an empty text.
        base: the same for the model whose tokenizer and chat template the mixture carries.
        materialised: whether the checkpoint holds the experts' tensors; else they are loaded from `references`.
        expert_dtypes: of each expert's parameters, or None to give all of them `dtype`.
        outputs: rows of each expert's output.
        unreadable: for each expert the ids it cannot read, as runs [first, one past the last].
        unshared: the ids that may not stand within an answer, in the same form.
        compared: whether each expert's tokens could be compared, and not only its size.
        vocab_size: ids of the mixture.
        eos_token_id: every id with which an expert ends an answer.
        max_position_embeddings: the longest sequence that all experts can take.
    """

    model_type = MODEL_TYPE
    sub_configs = _SubConfigs()

    weights: list[float] | None = None
    law: str = "arithmetic"
    names: list[str] | None = None
    references: list[str] | None = None
    base: str = ""
    materialised: bool = False
    expert_dtypes: list[str] | None = None
    outputs: list[int] | None = None
    unreadable: list[list[list[int]]] | None = None
    unshared: list[list[int]] | None = None
    compared: list[bool] | None = None
    vocab_size: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        from transformers import AutoConfig

        for name in self.expert_names:
            given = kwargs.get(name)
            if isinstance(given, dict):
                settings = copy.deepcopy(given)
                kind = settings.pop("model_type", "")
                try:
                    kwargs[name] = AutoConfig.for_model(kind, **settings)
                except ValueError:
                    raise CheckpointError(f"{name} of the mixture has model type {kind!r}, unknown to transformers") from None
        # The attributes first: the base class pushes settings into `sub_configs`.
        for name in self.expert_names:
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        super().__post_init__(**kwargs)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """The attributes that hold the experts' configs, `expert_0` onwards."""
        return tuple(f"expert_{index}" for index in range(len(self.weights or ())))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`eos_token_id` as a tuple."""
        ids = self.eos_token_id
        return tuple(ids) if isinstance(ids, (list, tuple)) else () if ids is None else (ids,)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Does nothing: a saved mixture brings a stub that imports this package, never a copy of its code."""

    @classmethod
    def of(cls, experts: Experts, law: str = "arithmetic") -> MixtureConfig:
        """The config of living experts.

        Their configs are copied: the base class of a model pushes settings into its config's parts, and a part that is
        also a living expert's would change how that expert attends.

        Raises:
            UserError: an unknown law.
        """
        common = experts.vocabulary
        first = experts.models[0].config.get_text_config(decoder=True)
        stops = sorted(experts.stop_ids)
        pad = next((found for found in map(_pad_id, _pad_sources(experts)) if found is not None), stops[0] if stops else None)
        bos = getattr(experts.tokenizer, "bos_token_id", None)
        config = cls(
            weights=list(experts.weights),
            law=check_law(law),
            names=list(experts.names),
            references=list(experts.references),
            base=experts.base_reference,
            expert_dtypes=[str(model.dtype).removeprefix("torch.") for model in experts.models],
            outputs=list(common.outputs),
            unreadable=[_runs((~row).tolist()) for row in common.readable],
            unshared=_runs((~common.shared).tolist()),
            compared=list(common.compared),
            vocab_size=common.size,
            bos_token_id=bos if bos is not None else _one(getattr(first, "bos_token_id", None)),
            eos_token_id=stops or None,
            pad_token_id=pad,
            max_position_embeddings=experts.context,
            **{f"expert_{index}": copy.deepcopy(model.config) for index, model in enumerate(experts.models)},
        )
        config.dtype = experts.models[0].dtype
        return config

    def vocabulary(self) -> CommonVocabulary:
        """The common vocabulary the config describes.

        Raises:
            CheckpointError: the config is damaged.
        """
        import torch

        if not self.outputs or self.unreadable is None or self.unshared is None or len(self.unreadable) != len(self.outputs):
            raise CheckpointError("the mixture's config does not describe its vocabulary")
        size = max(self.outputs)
        readable = torch.stack([~_mask(runs, size) for runs in self.unreadable])
        names = tuple(self.names or (f"expert {index}" for index in range(len(self.outputs))))
        return CommonVocabulary(
            names=names,
            size=size,
            outputs=tuple(self.outputs),
            readable=readable,
            shared=~_mask(self.unshared, size),
            compared=tuple(self.compared or (False,) * len(self.outputs)),
        )

    def check(self) -> None:
        """Refuse a config that describes no mixture.

        Raises:
            CheckpointError: no weights, or weights and experts that do not fit each other.
        """
        if not self.weights:
            raise CheckpointError("the mixture's config names no weights")
        try:
            check_weights(self.weights, len(self.outputs or ()))
            check_law(self.law)
        except UserError as error:
            raise CheckpointError(f"the mixture's config is damaged: {error}") from None
        for name in self.expert_names:
            if not hasattr(self, name):
                raise CheckpointError(f"the mixture's config lacks {name}")


def _pad_sources(experts: Experts) -> Iterable[Any]:
    yield experts.tokenizer
    for model in experts.models:
        yield getattr(model, "generation_config", None)
        yield model.config.get_text_config(decoder=True)


def _pad_id(source: Any) -> int | None:
    return _one(getattr(source, "pad_token_id", None))


def _one(value: Any) -> int | None:
    return int(value[0] if isinstance(value, (list, tuple)) else value) if value not in (None, []) else None


def _runs(flags: list[bool]) -> list[list[int]]:
    """Where flags are set, as [first, one past the last] pairs."""
    runs: list[list[int]] = []
    for number, flag in enumerate(flags):
        if flag and runs and runs[-1][1] == number:
            runs[-1][1] = number + 1
        elif flag:
            runs.append([number, number + 1])
    return runs


def _mask(runs: list[list[int]], size: int) -> Any:
    import torch

    mask = torch.zeros(size, dtype=torch.bool)
    for first, stop in runs:
        mask[first:stop] = True
    return mask
