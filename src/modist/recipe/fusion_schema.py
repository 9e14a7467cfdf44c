"""The dialect of `modist fuse` as pydantic models: a pivot, experts, data, how to fuse, how to train.

Defaults are FuseChat's (arXiv 2408.07990 and its code) where it has any.  UMM (the paper whose second half this is) publishes
neither code nor hyper-parameters, so each of them is a setting here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from modist.recipe.schema import Weight, _number

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)]
Below1 = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_number)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FusionModel(_Strict):
    """A pivot or an expert."""

    source_model: str = Field(description="a local folder or a hub id, perhaps with @revision")
    weight: Weight | None = Field(None, description="of its distribution under `target: weights`; all of them sum to 1")


class MergeSettings(_Strict):
    """How the pairwise models become one: SCE with the pivot as base (arXiv 2408.07990, section 3.3)."""

    select: Literal["deltas", "weights"] = Field(
        "deltas", description="what the selection decides: deltas, as mergekit has it; or weights alone, as the authors' fork"
    )
    select_topk: Share = Field(0.1, description="share of each tensor's elements kept, by variance; FuseChat 0.1, FuseO1 1")


class FusionSettings(_Strict):
    """What the experts say, and what becomes of it."""

    mode: Literal["unified", "pairwise_then_merge"] = "unified"
    target: Literal["mince", "mince_position", "avgce", "weights"] = Field(
        "mince", description="whose distribution is the target: that of the lowest cross-entropy, or a weighted sum"
    )
    include_pivot: bool = Field(True, description="whether the pivot's own distribution takes part, as in FuseChat")
    temperature: Positive = Field(1.0, description="avgce: T of softmax(-CE / T)")
    compare: Literal["text", "token"] = Field(
        "text",
        description="cross-entropy by which responses are compared: nats of the whole text over the pivot's tokens, "
        "which is fair between tokenizers; or each expert's mean over its own tokens, as FuseChat has it",
    )
    top_k: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="ids that are stored for a position")
    align: Literal["exact", "edit", "statistics"] = Field("edit", description="how an expert's ids become the pivot's")
    spans: Literal["chain", "label"] = Field(
        "chain",
        description="where an expert's tokens together make one of the pivot's: their product by the chain rule, or the label",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        "auto", description="in which the experts are run; auto: as stored"
    )
    too_long: Literal["refuse", "skip"] = Field("refuse", description="what to do with chats above training.max_length")
    merge: MergeSettings = Field(default_factory=lambda: MergeSettings.model_validate({}), description="of pairwise_then_merge")


class LoraSettings(_Strict):
    """Low-rank updates in place of all parameters (needs peft); they are merged into the result."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Positive = 32.0
    dropout: Below1 = 0.0
    targets: Annotated[
        list[str],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        WithJsonSchema({"anyOf": [{"const": "all-linear"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(["all-linear"], min_length=1, description="names of modules, or all-linear")


class TrainingSettings(_Strict):
    """Of transformers' Trainer; FuseChat's values by default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    lambda_: Share = Field(0.9, alias="lambda", description="loss = lambda * CLM + (1 - lambda) * CE(fused target)")
    learning_rate: Positive = 5e-6
    epochs: Positive = 3.0
    max_steps: Annotated[int, Field(ge=1)] | None = Field(None, description="goes before epochs")
    global_batch: Annotated[int, Field(ge=1)] = Field(128, description="chats a step, over all devices and accumulation")
    batch_size: Annotated[int, Field(ge=1)] = Field(4, description="chats a device holds at once")
    warmup: Below1 = Field(0.03, description="share of the steps")
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: NotNegative = 0.0
    adam_beta1: Below1 = 0.9
    adam_beta2: Below1 = 0.999
    max_grad_norm: NotNegative = Field(1.0, description="0: no clipping")
    max_length: Annotated[int, Field(ge=2)] = Field(2048, description="tokens of a chat, by every expert's own tokenizer")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic; the parameters are float32. auto: bfloat16 on a GPU that has it"
    )
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    save_every: Annotated[int, Field(ge=1)] = Field(500, description="steps between checkpoints to go on from")
    log_every: Annotated[int, Field(ge=1)] = Field(10, description="steps between points of the loss curve")


class FusionFile(_Strict):
    """Experts of any architecture and tokenizer, distilled into a pivot (`modist fuse`)."""

    pivot: Annotated[
        FusionModel,
        BeforeValidator(lambda given: {"source_model": given} if isinstance(given, str) else given),
        WithJsonSchema({"anyOf": [{"type": "string"}, FusionModel.model_json_schema()]}),
    ] = Field(description="the model that is trained: a folder or a hub id")
    experts: list[FusionModel] = Field(min_length=1, description="whose distributions it learns from")
    data: Annotated[
        list[str],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(description="JSONL of chats ('messages'), the last message the assistant's")
    fusion: FusionSettings = Field(default_factory=lambda: FusionSettings.model_validate({}))
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings.model_validate({}))
