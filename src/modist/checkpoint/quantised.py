"""Checkpoints whose weights are quantised: told from the config, the dtypes or the tensors' names, each with its way out.

Packed integers and their scales are no numbers that could be averaged: a merge of them would be noise that loads.
"""

from __future__ import annotations

from modist.checkpoint.dtype import FLOATS, QUANTISED
from modist.checkpoint.folder import Checkpoint

# The end of a packed tensor's name -> the kind, where no config says it.
_NAMES = {
    ".qweight": "gptq or awq",
    ".qzeros": "gptq or awq",
    ".weight.absmax": "bitsandbytes",
    ".weight.quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".weight.quant_state.bitsandbytes__fp4": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "fp8",
    "_proj_blocks": "mxfp4",
}
# How transformers opens a kind as plain numbers.
_LOADED = "load it with transformers' from_pretrained({how}) and save_pretrained()"
_WAYS = {
    "fp8": _LOADED.format(how="quantization_config=FineGrainedFP8Config(dequantize=True)"),
    "mxfp4": _LOADED.format(how="quantization_config=Mxfp4Config(dequantize=True)"),
    "metal": _LOADED.format(how="quantization_config=MetalConfig(dequantize=True)"),
    "compressed-tensors": _LOADED.format(how="quantization_config=CompressedTensorsConfig(dequantize=True)"),
    "bitsandbytes": "load it with transformers, then model.dequantize() and save_pretrained()",
}


def quantisation(checkpoint: Checkpoint) -> str | None:
    """The kind of a checkpoint's quantisation (`fp8`, `gptq`, `bitsandbytes`, ...), or None for plain numbers."""
    text = checkpoint.config.get("text_config")
    for config in (checkpoint.config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            said = config.get(key)
            if said:
                named = said.get("quant_method") if isinstance(said, dict) else None
                mlx = "mlx" if key == "quantization" else "an unknown kind"
                return str(named)[:40] if named else _by_tensors(checkpoint) or mlx
    return _by_tensors(checkpoint)


def _by_tensors(checkpoint: Checkpoint) -> str | None:
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in QUANTISED:
            return "fp8" if tensor.dtype.startswith(("F8_E4M3", "F8_E5M2")) else tensor.dtype
        for end, kind in _NAMES.items():
            if name.endswith(end) and (tensor.dtype not in FLOATS or end in (".weight_scale_inv", ".SCB", ".weight.absmax")):
                return kind
    return None


def way_out(kind: str) -> str:
    """What to do with a checkpoint of a kind, for an error's end."""
    known = _WAYS.get(kind)
    return "use the original checkpoint" + (f", or {known}" if known else " that it was made from")
