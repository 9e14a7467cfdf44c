"""The dialects of merging and mixing as pydantic models: what may be written where.

`MixtureFile` is Configuration 1 of the MoD paper (arXiv 2411.00406, appendix D); `MergeFile` is mergekit's dialect, which its
Configurations 2-6 are written in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_SCALAR = {"type": ["number", "boolean", "string"]}
_VALUE = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}
_CASE = {
    "type": "object",
    "properties": {"filter": {"type": ["string", "null"]}, "value": _VALUE},
    "required": ["value"],
    "additionalProperties": False,
}
_SETTING = {"anyOf": [_VALUE, _CASE, {"type": "array", "items": _CASE, "minItems": 1}]}

# The setting's own reader gives better lines than a union can; pydantic only carries it, and describes it.
Settings = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": _SETTING})]


def _number(value: object) -> object:
    # YAML 1.1 reads 1e-1 as a string; people mean the number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)]
Dtype = Literal["float16", "bfloat16", "float32", "float64"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExpertEntry(_Strict):
    source_model: str = Field(description="a local folder or a hub id, perhaps with @revision")


class MixtureFile(_Strict):
    """Experts and their weights: merged by `mod`, or mixed as distributions."""

    base_model: str | None = Field(
        None, description="whose config and tokenizer the result carries; the first expert's when absent"
    )
    experts: list[ExpertEntry] = Field(min_length=1)
    model_kwargs: dict[str, Any] | list[dict[str, Any]] | None = Field(
        None,
        description="keyword arguments for loading an expert when it is run; a list of mappings is joined",
    )
    weights: list[Weight] = Field(min_length=1, description="one for each expert; they sum to 1")
    normalize: Literal["minmax", "quantile"] | None = None
    select: Literal["threshold", "random"] | None = None
    scope: Literal["mlp", "all"] | None = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None


class ModelEntry(_Strict):
    model: str
    parameters: Settings | None = None


class SourceEntry(_Strict):
    model: str
    layer_range: list[int] = Field(min_length=2, max_length=2)
    parameters: Settings | None = None


class SliceEntry(_Strict):
    sources: list[SourceEntry] = Field(min_length=1)
    base_model: str | None = None
    residual_weight: float | None = None
    parameters: Settings | None = None


class ScalingEntry(_Strict):
    """How strongly the merged delta enters, by statistics of the base: modist's own, beside mergekit's keys."""

    kind: Literal["aim", "fisher"]
    statistics: str = Field(description="a safetensors file that `modist statistics` wrote for the base")
    omega: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)] | None = Field(
        None, description="aim: the share of the delta that the busiest input channel keeps; 0.4 where it is left out"
    )


class TokenSourceEntry(_Strict):
    kind: Literal["zero", "model_token"]
    model: str | None = None
    token: str | None = None
    token_id: int | None = Field(None, ge=0)


class TokenEntry(_Strict):
    source: str | TokenSourceEntry | None = Field(
        None, description="a model whose row of this token is taken, zeros, or a row of another token"
    )
    force: bool = Field(False, description="for models that have the token too")


class TokenizerEntry(_Strict):
    """Whose tokenizer the result carries; the rows of every tensor that is indexed by tokens are aligned to it."""

    source: str = Field("union", description="base, union, or a model")
    tokens: dict[str, TokenEntry] | None = None
    pad_to_multiple_of: int | None = Field(None, ge=1, le=1 << 20)


class MergeFile(_Strict):
    """A merge in mergekit's dialect, and `scaling` and `rank`."""

    merge_method: str
    models: list[ModelEntry] | None = Field(None, min_length=1)
    slices: list[SliceEntry] | None = Field(None, min_length=1)
    modules: dict[str, Any] | None = None
    base_model: str | None = None
    parameters: Settings | None = None
    scaling: ScalingEntry | None = Field(None, description="for methods of task vectors only")
    rank: int | None = Field(None, ge=1, description="for recipes of adapters only: cut the merged adapter to this rank")
    dtype: Dtype | None = Field(None, description="the dtype of the output; inputs are never rounded to it")
    out_dtype: Dtype | None = Field(None, description="the dtype of the output where it differs from dtype")
    tokenizer_source: str | None = Field(None, description="base, union, or a model; 'tokenizer' can say more")
    tokenizer: TokenizerEntry | None = None
    chat_template: str | None = Field(
        None, description="auto (what most parents have), alpaca, chatml, exaone, llama3, mistral, or a Jinja template"
    )
