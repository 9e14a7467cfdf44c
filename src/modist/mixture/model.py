"""A mixture as one transformers model: the eager law, with everything `generate` can do.

Every expert runs at every token.  What comes out as `logits` are the mixture's log-probabilities, log p = log sum_i a_i p_i in
float32; their softmax is p again, so samplers, beams and scorers need to know nothing of mixtures.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from modist.errors import UserError
from modist.mixture.cache import MixtureCache
from modist.mixture.config import MODEL_TYPE, MixtureConfig
from modist.mixture.law import mix_log_probs
from modist.mixture.load import Experts, assemble, context_of, load_experts
from modist.mixture.sharing import share_equal_tensors
from modist.mixture.store import as_recipe, save_beside, state_without_sharing
from modist.mixture.weights import log_weights
from modist.recipe import Recipe, load_recipe
from modist.vocabulary import CommonVocabulary

_PLACED = ("device_map", "device", "dtype", "torch_dtype")


class MixtureForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Experts as the attributes `expert_0`, `expert_1` ... and the law over them.

    Attributes, not a ModuleList: transformers gathers tied tensors from direct children only, and a tied head would come
    back random.
    """

    config_class = MixtureConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    config: MixtureConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    def __init__(self, config: MixtureConfig, experts: Experts | None = None) -> None:
        """Build a mixture.

        Args:
            config: what it is made of.
            experts: living ones; without them, experts of the config's shapes with new tensors.
        """
        config.check()
        super().__init__(config)
        self._living = experts is not None
        dtypes: Sequence[str | None] = config.expert_dtypes or [None] * len(config.expert_names)
        for index, name in enumerate(config.expert_names):
            if experts is not None:
                expert = experts.models[index]
                # From here on config and expert share the part, so that settings made later reach the expert.
                setattr(config, name, expert.config)
            else:
                part = getattr(config, name)
                given = dtypes[index] or config.dtype
                expert = AutoModelForCausalLM.from_config(part, **({"dtype": given} if given else {}))
            setattr(self, name, expert)
        self.tokenizer_folder = experts.base if experts is not None else None
        self.saved_bytes = experts.saved_bytes if experts is not None else 0
        self._vocabulary = experts.vocabulary if experts is not None else None
        self._log_weights: torch.Tensor | None = None
        self._accepts = [frozenset(inspect.signature(expert.forward).parameters) for expert in self.experts]
        self._is_stateful = any(getattr(expert, "_is_stateful", False) for expert in self.experts)
        self.post_init()

    # ---------------------------------------------------------------- making one

    @classmethod
    def from_experts(
        cls,
        models: Sequence[Any] | Experts,
        weights: Sequence[float] | None = None,
        *,
        law: str = "arithmetic",
        tokenizers: Sequence[Any] = (),
        names: Sequence[str] = (),
        references: Sequence[str] = (),
    ) -> MixtureForCausalLM:
        """A mixture of live models.

        Args:
            models: transformers causal LMs, or what `load_experts` gave.
            weights: a_i; taken from `models` where that is an `Experts`.
            law: `arithmetic` or `logits`.
            tokenizers: one for each model; without them the models' folders are asked.
            names: for people.
            references: where to find each model again, for a recipe checkpoint; where it was loaded from by default.

        Raises:
            UserError: weights that are no weights, different tokenizers, an unknown law.
        """
        if isinstance(models, Experts):
            experts = models
        else:
            if weights is None:
                raise UserError("a mixture of models needs weights, one for each")
            homes = [str(getattr(model, "name_or_path", "") or "") for model in models]
            folders = [Path(home).resolve() if home and Path(home).is_dir() else None for home in homes]
            found = [str(folder or home) for folder, home in zip(folders, homes, strict=True)]
            experts = assemble(
                models, weights, tokenizers=tokenizers, names=names, references=tuple(references) or found, folders=folders
            )
        model: MixtureForCausalLM = cls(MixtureConfig.of(experts, law), experts)
        model.generation_config = _generation_config(model, experts.models[0])
        model.eval()
        return model

    @classmethod
    def from_recipe(cls, recipe: str | Path | Recipe, *, law: str = "arithmetic", **kwargs: Any) -> MixtureForCausalLM:
        """A mixture from a recipe or its file; keywords as for `load_experts`.

        Raises: as `load_recipe` and `load_experts`.
        """
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(Path(recipe))
        return cls.from_experts(load_experts(recipe, **kwargs), law=law)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a mixture that was saved, as a recipe or with its tensors.

        Args: as for any transformers model; `device_map`, `dtype`, `attn_implementation`, `quantization_config` reach the
            experts.  `trust_remote_code` is for the mixture's own stub; `trust_experts` for code that comes with experts.

        Raises: as `load_experts`; CheckpointError for a damaged config.
        """
        _refuse_paged(kwargs.get("attn_implementation"))
        if not isinstance(config, MixtureConfig):
            hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}
            config = MixtureConfig.from_pretrained(config or pretrained_model_name_or_path, **hub)
        config.check()
        asked = kwargs.get("dtype") or kwargs.get("torch_dtype")
        if asked is None and config.dtype is not None and config.expert_dtypes:
            # The auto classes of older transformers let a dtype that was asked for disappear into the config.
            found = str(config.dtype).removeprefix("torch.")
            asked = found if found != config.expert_dtypes[0] else None
        if config.materialised:
            kwargs.pop("trust_experts", None)
            if asked not in (None, "auto"):
                config.expert_dtypes = None
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.saved_bytes = share_equal_tensors(model.experts)
            return loaded
        return cls._from_references(str(pretrained_model_name_or_path), config, asked, kwargs)

    @classmethod
    def _from_references(cls, folder: str, config: MixtureConfig, asked: Any, kwargs: dict[str, Any]) -> Any:
        """Load each expert from where the config says it is."""
        passed = {
            key: kwargs[key]
            for key in ("attn_implementation", "quantization_config", "max_memory", "offload_folder")
            if kwargs.get(key) is not None
        }
        # The auto classes hand over an attention that they have absorbed into the config.
        if config._attn_implementation and "attn_implementation" not in passed:
            passed["attn_implementation"] = config._attn_implementation
        dtype = asked if asked is not None else "auto"
        if isinstance(dtype, torch.dtype):
            dtype = str(dtype)
        if dtype == "auto" and config.expert_dtypes:
            dtype = config.expert_dtypes
        recipe = as_recipe(config, folder)
        device = kwargs.get("device_map")
        if isinstance(device, torch.device):
            device = str(device)
        elif isinstance(device, dict) and set(device) == {""}:
            device = str(device[""]) if not isinstance(device[""], int) else f"cuda:{device['']}"
        elif isinstance(device, dict):
            raise UserError("a device_map by module does not fit a mixture of several models; give one device, or 'auto'")
        cache = kwargs.get("cache_dir")
        experts = load_experts(
            recipe,
            device=device,
            dtype=dtype,
            trust_remote_code=bool(kwargs.get("trust_experts", False)),
            cache=Path(cache) if cache else None,
            **passed,
        )
        model = cls.from_experts(experts, law=config.law)
        model.name_or_path = model.config.name_or_path = folder
        if (Path(folder) / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        if kwargs.get("output_loading_info"):
            return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        materialise: bool = False,
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Save the mixture.

        Args:
            save_directory: where; made if it is not there.
            materialise: copy the experts' tensors into the folder.  Otherwise it only says where the experts are, and with
                which weights: a few kilobytes, but the experts must be found when it is loaded.
            max_shard_size: of the weight files.
            **kwargs: for transformers, where tensors are written.

        Raises:
            UserError: an expert that came from nowhere and is not materialised; a quantised one that is.
        """
        folder = Path(save_directory)
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.materialised = materialise
        if materialise:
            if any(getattr(expert, "hf_quantizer", None) is not None for expert in self.experts):
                raise UserError("quantised experts are not copied; save the mixture as a recipe (materialise=False)")
            # Whoever gets the tensors has no use for the folders they once lay in.
            config.references = [_public(found) for found in config.references or ()]
            config.base = _public(config.base)
            for name in config.expert_names:
                getattr(config, name).name_or_path = ""
            folder.mkdir(parents=True, exist_ok=True)
            live, self.config = self.config, config
            try:
                super().save_pretrained(folder, state_dict=state_without_sharing(self), max_shard_size=max_shard_size, **kwargs)
            finally:
                self.config = live
        else:
            lacking = [name for name, found in zip(config.names or (), config.references or (), strict=True) if not found]
            if lacking:
                raise UserError(f"{' and '.join(lacking)} came from no folder or hub, so there is nothing to name; materialise")
            folder.mkdir(parents=True, exist_ok=True)
            config.save_pretrained(folder)
            self.generation_config.save_pretrained(folder)
        save_beside(folder, config, self.tokenizer_folder)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Does nothing: a saved mixture brings a stub that imports this package, never a copy of its code."""

    # ---------------------------------------------------------------- running it

    @property
    def experts(self) -> tuple[Any, ...]:
        """The experts, in order."""
        return tuple(getattr(self, name) for name in self.config.expert_names)

    # Made when first asked for: transformers builds models on the meta device, where a number would never arrive, and
    # fills only what the checkpoint holds, which buffers of our own are not.

    @property
    def vocabulary(self) -> CommonVocabulary:
        """What each expert can read of the mixture's ids."""
        if self._vocabulary is None:
            self._vocabulary = self.config.vocabulary()
        return self._vocabulary

    @property
    def log_weights(self) -> torch.Tensor:
        """log a_i, float64 [experts], on the CPU."""
        if self._log_weights is None:
            self._log_weights = log_weights(self.config.weights or ())
        return self._log_weights

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: MixtureCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run every expert and mix.

        Args:
            input_ids: [batch, time].
            attention_mask: [batch, past + time], 1 where there is a token; rows may be padded on the left.
            position_ids: [batch, time].
            past_key_values: what was read before.
            labels: [batch, time], -100 where there is none; gives `loss`, nats per token.
            use_cache: whether to return what was read.
            logits_to_keep: how many positions from the end to give, 0 for all; or which.

        Returns:
            `logits` [batch, kept, size]: log p, float32 (float64 for float64 experts).

        Raises:
            UserError: a prompt with an id that some expert cannot read, a cache of another kind.
        """
        if input_ids is None:
            raise UserError("a mixture reads input_ids; embeddings are each expert's own")
        if isinstance(attention_mask, dict) or (attention_mask is not None and attention_mask.ndim != 2):
            raise UserError("a mixture takes a mask of shape [batch, time]; static caches make others and are not supported")
        if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
            raise UserError("hidden states and attentions are each expert's own; ask model.experts[i] for them")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache()
        if past_key_values is not None and not isinstance(past_key_values, MixtureCache):
            raise UserError(f"a mixture needs a MixtureCache (model.new_cache()), not a {type(past_key_values).__name__}")
        logits = []
        for index, expert in enumerate(self.experts):
            place = _place(expert, input_ids.device)
            offered = {
                "attention_mask": attention_mask,
                "position_ids": position_ids,
                "logits_to_keep": logits_to_keep,
                "use_cache": use_cache,
            }
            given = {
                key: _to(value, place) for key, value in offered.items() if key in self._accepts[index] and value is not None
            }
            if past_key_values is not None:
                given["past_key_values"] = past_key_values.parts[index]
            read = self._readable(index, input_ids, attention_mask).to(place)
            try:
                out = expert(input_ids=read, **given).logits
            except Exception as error:
                # The same exception goes on: lm_eval tells by its type and text that a batch was too large.
                error.add_note(f"while expert {self.vocabulary.names[index]} ran on {place}")
                raise
            if "logits_to_keep" not in self._accepts[index]:
                out = out[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else out[:, logits_to_keep]
            logits.append(out)
        mixed = mix_log_probs(logits, self.log_weights, self.vocabulary, stop_ids=self.config.stop_ids, law=self.config.law).to(
            input_ids.device
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=mixed, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=mixed, past_key_values=past_key_values if use_cache else None)

    def new_cache(self, full: bool = False) -> MixtureCache:
        """An empty cache; `full` keeps what sliding windows have passed."""
        return MixtureCache.empty([None if full else expert.config for expert in self.experts])

    def _readable(self, index: int, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The ids for one expert: 0 in place of what it cannot read where that is padding or follows the end of an answer.

        Raises:
            UserError: any other id that the expert cannot read.
        """
        common = self.vocabulary
        if common.whole:
            return input_ids
        if int(input_ids.max()) >= common.size:
            raise UserError(f"id {int(input_ids.max())} is outside the mixture's vocabulary of {common.size} ids")
        odd = ~common.read_by(index, input_ids.device)[input_ids]
        if not bool(odd.any()):
            return input_ids
        closing = [*self.config.stop_ids, *([] if self.config.pad_token_id is None else [self.config.pad_token_id])]
        idle = torch.isin(input_ids, torch.tensor(closing, device=input_ids.device, dtype=input_ids.dtype))
        # Finished rows of a batch go on with padding: nothing but such ids to the row's end.
        idle = idle.flip(-1).cumprod(-1).flip(-1).bool()
        if attention_mask is not None:
            idle |= attention_mask[:, -input_ids.shape[1] :].to(idle.device) == 0
        wrong = odd & ~idle
        if bool(wrong.any()):
            number = int(input_ids[wrong][0])
            raise UserError(f"the text holds id {number}, which {common.names[index]} cannot read; see the vocabulary's report")
        return input_ids.masked_fill(odd, 0)

    # ---------------------------------------------------------------- what generation asks

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """One cache for each expert, in place of the base class's cache for one model."""
        if generation_config.cache_implementation not in (None, "dynamic", "dynamic_full"):
            raise UserError(
                f"cache_implementation={generation_config.cache_implementation!r} does not work with a mixture, whose experts"
                " each have a cache; leave it out"
            )
        given = model_kwargs.get("past_key_values")
        if given is not None:
            if not isinstance(given, MixtureCache):
                raise UserError(f"a mixture needs a MixtureCache (model.new_cache()), not a {type(given).__name__}")
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            # Assisted decoding takes tokens back.  Caches that can record for it are told to; older transformers keep
            # everything instead, and ask for `dynamic_full`.
            records = hasattr(MixtureCache, "activate_past_recording")
            assisted = getattr(generation_mode, "value", "") == "assisted_generation" and not records
            cache = self.new_cache(full=assisted or generation_config.cache_implementation == "dynamic_full")
            if records and getattr(generation_config, "is_assistant", False):
                cache.activate_past_recording()
            model_kwargs["past_key_values"] = cache

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As for any transformers model; what cannot work with several caches is refused."""
        _refuse_paged(self.config._attn_implementation)
        if kwargs.get("inputs_embeds") is not None:
            raise UserError("a mixture reads input_ids; embeddings are each expert's own")
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        for name, expert in zip(self.vocabulary.names, self.experts, strict=True):
            context = context_of(expert)
            if isinstance(ids, torch.Tensor) and context is not None and ids.shape[-1] >= context:
                raise UserError(f"{name}: the prompt has {ids.shape[-1]} tokens, its context holds {context}")
        return super().generate(*args, **kwargs)

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: continuous batching sizes its paged cache for one model and would return failed requests."""
        raise UserError("continuous batching (generate_batch) does not work with a mixture; use generate with a batch")

    init_continuous_batching = generate_batch
    continuous_batching_context_manager = generate_batch

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As the base class, for every expert; paged attention is refused."""
        _refuse_paged(attn_implementation)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def init_weights(self) -> None:
        """New experts are drawn as the base class does it; living ones stay as they are."""
        if not self._living:
            super().init_weights()

    def _init_weights(self, module: Any) -> None:
        """Each expert draws its own tensors; the mixture itself has none."""
        for expert in self.experts:
            if any(part is module for part in expert.modules()):
                expert._init_weights(module)
                return

    def get_input_embeddings(self) -> Any:
        """The first expert's."""
        return self.expert_0.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """None: the mixture's output is no single matrix."""
        return None

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise UserError("a mixture's vocabulary is its experts'; resize them before mixing")


def _generation_config(model: MixtureForCausalLM, base: Any) -> GenerationConfig:
    """The base's way of generating, with every id that ends an answer."""
    config = copy.deepcopy(getattr(base, "generation_config", None)) or GenerationConfig()
    stops = list(model.config.stop_ids)
    config.eos_token_id = stops if len(stops) > 1 else stops[0] if stops else None
    config.bos_token_id = model.config.bos_token_id
    config.pad_token_id = model.config.pad_token_id
    config._from_model_config = False
    return config


def _public(reference: str) -> str:
    """A hub id as it is; nothing for a folder of this machine."""
    return "" if Path(reference).is_absolute() else reference


def _refuse_paged(attention: Any) -> None:
    for name in attention.values() if isinstance(attention, dict) else [attention]:
        if isinstance(name, str) and name.startswith("paged"):
            raise UserError(f"attn_implementation={name!r} belongs to continuous batching, which does not work with a mixture")


def _place(expert: Any, otherwise: torch.device) -> torch.device:
    """Where an expert takes its input; accelerate's hooks move it on from there."""
    found: torch.device = expert.get_input_embeddings().weight.device
    return otherwise if found.type == "meta" else found


def _to(value: Any, place: torch.device) -> Any:
    return value.to(place) if isinstance(value, torch.Tensor) else value


def register() -> None:
    """Make the auto classes of transformers know mixtures; done when this module is imported."""
    AutoConfig.register(MODEL_TYPE, MixtureConfig, exist_ok=True)
    AutoModelForCausalLM.register(MixtureConfig, MixtureForCausalLM, exist_ok=True)


register()

__all__ = ["MixtureConfig", "MixtureForCausalLM", "register"]
