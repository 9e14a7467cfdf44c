"""What a result takes over from one parent beside tensors: config, generation config, tokenizer, chat template."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from modist.checkpoint.dtype import TORCH_NAMES
from modist.checkpoint.folder import Checkpoint, read_json, refuse_link_out
from modist.errors import CheckpointError
from modist.merge.layer_lists import restack
from modist.merge.plan import Plan

CARRIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_CARRIED_SUFFIXES = (".model", ".tiktoken")


def patched_config(plan: Plan) -> str:
    """The donor's config.json with the result's dtype, layers and tying, and no path of the donor's machine."""
    config: dict[str, Any] = json.loads(json.dumps(plan.donor.config))
    counts: Counter[str] = Counter()
    for planned in plan.tensors:
        if planned.dtype in TORCH_NAMES:
            counts[TORCH_NAMES[planned.dtype]] += planned.tensor.size
    if counts:
        main = counts.most_common(1)[0][0]
        inner = config.get("text_config")
        for part in (config, *([inner] if isinstance(inner, dict) else [])):
            keys = [key for key in ("dtype", "torch_dtype") if key in part]
            for key in keys or (["dtype"] if part is config else []):
                part[key] = main
    config.pop("_name_or_path", None)
    if plan.origins is not None:
        restack(config, plan.donor, plan.origins)
    if plan.untied:
        (config["text_config"] if isinstance(config.get("text_config"), dict) else config)["tie_word_embeddings"] = False
    _patch_vocabulary(plan, config)
    return json.dumps(config, indent=2) + "\n"


def _patch_vocabulary(plan: Plan, config: dict[str, Any]) -> None:
    """The number of rows, and the ids of special tokens where the tokenizer is another model's."""
    if plan.vocabulary is None:
        return
    inner = config.get("text_config")
    parts = [config, *([inner] if isinstance(inner, dict) else [])]
    counted = [part for part in parts if "vocab_size" in part] or parts[-1:]
    for part in counted:
        part["vocab_size"] = plan.vocabulary.rows
    for key, value in plan.vocabulary.special.get("config.json", {}).items():
        for part in [part for part in parts if key in part] or parts[:1]:
            part[key] = value


def result_files(plan: Plan, allow_code: bool) -> dict[str, bytes]:
    """The small files of the result beside config.json: the donor's, with the result's tokenizer and chat template.

    Raises: as `carried_files`.
    """
    files = carried_files(plan.donor, allow_code)
    if plan.vocabulary is not None:
        made = plan.vocabulary.files
        files = {name: data for name, data in {**files, **made}.items() if data is not None}
        special = plan.vocabulary.special.get("generation_config.json", {})
        if special and "generation_config.json" in files:
            generation = {**read_json(plan.donor.folder / "generation_config.json"), **special}
            files["generation_config.json"] = (json.dumps(generation, indent=2) + "\n").encode()
    return files if plan.template is None else plan.template.put(files)


def carried_files(donor: Checkpoint, allow_code: bool) -> dict[str, bytes]:
    """Small files of the donor that belong with its tokenizer and config, by name.

    Args:
        allow_code: also its Python files, for architectures that live in the model's repository.

    Raises:
        CheckpointError: a file cannot be read, or is a link out of the folder.
    """
    found: dict[str, bytes] = {}
    for path in sorted(donor.folder.iterdir()):
        wanted = path.name in CARRIED or path.name.endswith(_CARRIED_SUFFIXES) or (allow_code and path.suffix == ".py")
        if wanted and path.is_file():
            refuse_link_out(path, donor.folder)
            try:
                found[path.name] = path.read_bytes()
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    return found
