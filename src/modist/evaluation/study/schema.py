"""What a study's YAML may say: names, types and ranges.  What the words mean is in docs/evaluate.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: object) -> object:
    # YAML 1.1 reads 1e-1 as a string; people mean the number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_number)]
Dtype = Literal["auto", "float16", "bfloat16", "float32", "float64"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ParentEntry(_Strict):
    model: str = Field(description="a folder, or a hub id, perhaps with @revision")
    label: str | None = None


class RowEntry(_Strict):
    """One line of the table; exactly one of merge, mixture, route and vote says what it is."""

    name: str = Field(description="of its folders: letters, digits, '_', '-' and '.'")
    label: str | None = Field(None, description="as the table shows it; the name when absent")
    paper: str | None = Field(None, description="the row of `paper.rows` to show beside")
    note: str | None = Field(None, description="one line for the page")
    merge: str | dict[str, Any] | None = Field(None, description="a recipe's file, or a recipe written here")
    allow: list[str] = Field(default_factory=list, description="differences between the parents to accept, such as rope")
    seed: int = 0
    tune: dict[str, list[Number]] | None = Field(
        None, description="one top-level parameter of the recipe and the values to try on the development data"
    )
    mixture: str | dict[str, Any] | None = Field(None, description="a recipe with experts and weights, or one written here")
    gate: Literal["static", "bayes"] | None = None
    discount: Share | None = None
    stride: int | None = Field(None, ge=1)
    law: Literal["arithmetic", "logits"] | None = None
    route: list[str] | None = Field(None, min_length=2, description="parents to choose from, prompt by prompt")
    vote: list[str] | None = Field(None, min_length=1, description="parents whose sampled answers are counted")
    samples: int | None = Field(None, ge=1, description="vote: answers in all, a multiple of the parents")


class DecodeEntry(_Strict):
    """How answers are drawn and how much runs at once."""

    style: str | None = Field(
        default=None, description="of the prompts: chat, plain, qwen25-math-cot; each benchmark's own when absent"
    )
    generator: Literal["transformers", "vllm"] = "transformers"
    device: str | None = None
    dtype: Dtype = "auto"
    batch_size: int | None = Field(default=None, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1, description="in place of each benchmark's own")
    seed: int = 0
    workers: int | None = Field(default=None, ge=1, le=64)
    temperature: Positive = Field(default=0.7, description="of the answers that are voted over; all others are greedy")
    top_p: Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)] = 1.0
    top_k: int = Field(default=0, ge=0)


class PaperEntry(_Strict):
    source: str
    columns: list[str] = Field(min_length=1, description="benchmarks, in the order of every row below")
    rows: dict[str, list[Percent]]


class PriceEntry(_Strict):
    """What --dry-run reckons with where nothing better is known."""

    tokens_per_answer: Positive = 400
    tokens_per_second: Positive = Field(default=2000, description="one model, generating in batches")
    hardware: str = "the machine meant"
    bytes: dict[str, int] = Field(default_factory=dict, description="what a model's download weighs, by its hub id")


class StudyFile(_Strict):
    title: str
    parents: dict[str, str | ParentEntry] = Field(min_length=1)
    benchmarks: list[str] = Field(min_length=1)
    retention: list[str] = Field(default_factory=list, description="shown after the average and not part of it")
    development: list[str] = Field(default_factory=list, description="what `tune` scores its candidates on")
    development_limit: int | None = Field(None, ge=1, description="at most so many questions of each of them")
    decode: DecodeEntry = DecodeEntry()
    price: PriceEntry = PriceEntry()
    paper: PaperEntry | None = None
    notes: list[str] = Field(default_factory=list)
    rows: list[RowEntry] = Field(default_factory=list)
