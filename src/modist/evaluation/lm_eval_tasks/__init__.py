"""Tasks for lm-evaluation-harness 0.4.13: the seven of the paper's benchmarks that it lacks, with our prompts and graders.

    export MODIST_DATA=DIR     # where the questions are; or --metadata '{"data": "DIR"}'
    lm_eval run --model hf --model_args pretrained=MODEL --include_path "$(modist eval --lm-eval-tasks)" --tasks modist_svamp

`--tasks modist` runs all seven.  Prompts are the published text, ChatML by hand, so they go without `--apply_chat_template`.
For a model's own template give both `--apply_chat_template` and `--metadata '{"style": "chat"}'`.  The metrics `equal` and
`equal_compatible` are the shares that the default grader and the published rules call right.
"""

from __future__ import annotations

from pathlib import Path

LACKING = ("svamp", "mawps", "carp_en", "gaokao2023en", "olympiadbench", "college_math", "amc23")


def folder() -> Path:
    """The folder for the harness's `--include_path`."""
    return Path(__file__).resolve().parent
