"""A recommendation in words: a dozen lines of evidence, the next commands, files to go on with."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.errors import UserError
from modist.search.shortlist import absolute
from modist.search.trial import mixture_data

if TYPE_CHECKING:
    from modist.search.evidence import Difference
    from modist.search.recommend import Recommendation, Weighed

MIX, MERGE, REPORT = "mix.yml", "merge.yml", "recommendation.json"
# Rows below which an interval is known to be too narrow.
_FEW = 100
_REASON = 160


def headline(found: Recommendation) -> str:
    """The verdict."""
    kind = found.verdict.kind
    if kind == "alone":
        return f"use {found.deciding.best} alone"
    if kind == "merge":
        assert found.merge is not None
        return f"merge so: {found.merge.title}"
    parts = [f"{found.kin.names[place]} {found.weights[place]:.4g}" for place in found.mixed]
    gate = f" {_gate_flags(found)}" if found.gated else ""
    return f"mix: {', '.join(parts)}{gate}"


def lines(found: Recommendation, out: Path | None = None) -> list[str]:
    """The report."""
    rows = [
        ("because", _because(found)),
        ("kinship", _kinship(found)),
        ("merging", _merging(found)),
        ("mixing", _mixing(found)),
        ("weights", _weights(found)),
        ("nats", _nats(found)),
        ("", _gains(found.likelihood)),
        ("answers", _answers(found)),
        ("", _gains(found.accuracy)),
        ("cost", _cost(found)),
        *(("note", note) for note in found.notes),
    ]
    said = [headline(found), *(f"  {name:8} {text}" for name, text in rows if text)]
    return [*said, "next:", *(f"  {command}" for command in commands(found, out))]


def _because(found: Recommendation) -> str:
    if found.accuracy is None:
        return f"by likelihood {found.verdict.reason} (--benchmark DEV.yml would decide by right answers)"
    other = found.likelihood.verdict.kind
    turned = {"alone": "one alone would do", "mix": "it would be the mixture", "merge": "it would be a merge"}[other]
    return f"by right answers {found.verdict.reason}" + (f"; by likelihood {turned}" if other != found.verdict.kind else "")


def _kinship(found: Recommendation) -> str:
    missing = found.kin.ancestor is None and bool(found.merges) and "--base" not in found.kin.how
    return found.kin.how + (" (--base MODEL would add task arithmetic)" if missing else "")


def _merging(found: Recommendation) -> str:
    if not found.merges:
        return f"not possible: {_cut(next(iter(found.refused.values())))}"
    return "; ".join(f"no {name}: {_cut(reason)}" for name, reason in found.refused.items())


def _mixing(found: Recommendation) -> str:
    names = [found.kin.names[place] for place in found.mixed]
    sizes = [facts.memory.weights_bytes for facts in found.kin.inspection.models if facts.name in names]
    whole = found.solved.likelihoods.log_masses is None
    ids = "one vocabulary" if whole else "vocabularies that differ in some ids, which are masked"
    return (
        f"possible: {ids}; keeps {_counted(len(sizes), 'model')} in memory, {_amount(sum(sizes))} (one: {_amount(max(sizes))})"
    )


def _weights(found: Recommendation) -> str:
    low, high = found.solved.intervals.low, found.solved.intervals.high
    each = zip(found.kin.names, found.solved.weights, low, high, strict=True)
    weights = ", ".join(f"{name} {at:.3f} ({one:.3f} to {other:.3f})" for name, at, one, other in each)
    gain = found.gate_gain
    if not gain.shown:
        return f"by EM {weights}; a gate that follows the text gains nothing that can be shown: {_interval(gain)}"
    shares = ", ".join(f"{weight:.3f}" for weight in found.gate.weights)
    return f"by EM {weights}; with a gate that follows the text {shares}, which gains {_interval(gain)} nats"


def _nats(found: Recommendation) -> str:
    few = "; few rows, so too narrow intervals" if found.solved.rows < _FEW else ""
    scores = _scores(found, found.likelihood, lambda score: f"{-score:.3f}" if math.isfinite(score) else "inf")
    return f"{scores} a token ({found.solved.tokens:,} tokens of {found.solved.rows:,} rows, held out{few})"


def _answers(found: Recommendation) -> str:
    if found.accuracy is None:
        return ""
    return f"{_scores(found, found.accuracy, lambda score: f'{100 * score:.1f}%')} of {found.questions:,} questions"


def _scores(found: Recommendation, weighed: Weighed, show: Callable[[float], str]) -> str:
    order = sorted(found.merges, key=lambda merge: -weighed.scores[merge.name])
    names = [*found.kin.names, "the mixture", *(merge.name for merge in order)]
    return ", ".join(f"{name} {show(weighed.scores[name])}" for name in names)


def _gains(weighed: Weighed | None) -> str:
    if weighed is None:
        return ""
    points = weighed.measure.kind == "accuracy"
    told = [f"the mixture is {_gain(weighed.mixture, weighed.best, points)}"]
    if weighed.gain is not None and weighed.beyond is not None:
        told = [f"the best merge is {_gain(weighed.gain, weighed.best, points)}", *told]
        told.append(f"{_gain(weighed.beyond, 'the merge', points)}")
    return ", ".join(told)


def _cost(found: Recommendation) -> str:
    models, merges = len(found.kin.models), len(found.merges)
    ways = models + merges + 1
    answered = f"; {ways} ways asked {found.questions:,} questions" if found.questions else ""
    return f"{sum(found.cost.values()):.0f} s: {models} experts scored, {merges} merges made in memory and scored{answered}"


def commands(found: Recommendation, out: Path | None = None) -> list[str]:
    """The next commands, as they can be typed; with `out`, on the files that `write` made there."""
    kind = found.verdict.kind
    if kind == "alone":
        return [_talk(found, found.kin.models[found.kin.names.index(found.deciding.best)])]
    asked = found.accuracy is not None
    if kind == "mix":
        recipe = MIX if out is None else str(out / MIX)
        first = [] if out is not None else [f"echo {shlex.quote(json.dumps(_mixture(found)))} > {MIX}"]
        gate = f" {_gate_flags(found)}" if found.gated else ""
        more = "".join(f" --benchmark {_quoted(name)}" for name in found.benchmarks)
        search = f"modist search mixture {_quoted(recipe)} --data {_quoted(found.data)} --picture weights.png"
        search += f" --metric accuracy{more}" if asked else ""
        return [*first, _talk(found, recipe) + gate, search]
    assert found.merge is not None
    recipe = MERGE if out is None else str(out / MERGE)
    first = [] if out is not None else [f"echo {shlex.quote(json.dumps(found.merge.data))} > {MERGE}"]
    metrics = [f"accuracy:{name}" for name in found.benchmarks] if asked else [f"likelihood:{found.data}"]
    search = f"modist search merge {_quoted(recipe)}" + "".join(f" --metric {_quoted(metric)}" for metric in metrics)
    return [*first, f"modist merge {_quoted(recipe)} merged", search]


def _talk(found: Recommendation, what: str) -> str:
    facts = [facts for facts in found.kin.inspection.models if facts.name in found.kin.names]
    if all(one.template for one in facts):
        return f"modist chat {_quoted(what)}"
    return f"modist generate {_quoted(what)} --prompt -"


def _mixture(found: Recommendation) -> dict[str, Any]:
    """Its recipe, of the experts that have a weight."""
    return mixture_data([found.kin.models[place] for place in found.mixed], [found.weights[place] for place in found.mixed])


def as_dict(found: Recommendation, out: Path | None = None) -> dict[str, Any]:
    """Plain data, for JSON."""
    gate = {"discount": found.gate.discount, "stride": found.gate.stride, "gain": found.gate_gain.as_dict()}
    return {
        "verdict": found.verdict.kind,
        "headline": headline(found),
        "reason": found.verdict.reason,
        "experts": list(found.kin.models),
        "names": list(found.kin.names),
        "ancestor": found.kin.ancestor,
        "kinship": found.kin.how,
        "weights": list(found.weights),
        "interval": [
            [float(low), float(high)] for low, high in zip(found.solved.intervals.low, found.solved.intervals.high, strict=True)
        ],
        "gate": gate | {"used": found.gated},
        "likelihood": found.likelihood.as_dict(),
        "accuracy": found.accuracy and found.accuracy.as_dict(),
        "merges": {merge.name: merge.data for merge in found.merges},
        "refused": dict(found.refused),
        "tokens": found.solved.tokens,
        "rows": found.solved.rows,
        "benchmarks": list(found.benchmarks),
        "questions": found.questions,
        "seconds": dict(found.cost),
        "notes": list(found.notes),
        "report": lines(found, out),
        "commands": commands(found, out),
    }


def check_out(out: Path) -> None:
    """Refuse a folder that holds anything not from here.

    Raises:
        UserError: it does, or is a file, or cannot be read.
    """
    try:
        if not out.exists():
            return
        if not out.is_dir():
            raise UserError(f"--out {out}: is a file; name a folder")
        others = sorted({path.name for path in out.iterdir()} - {MIX, MERGE, REPORT})
        ours = (out / REPORT).exists() or not any(out.iterdir())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be read ({error.strerror})") from None
    if others or not ours:
        raise UserError(
            f"--out {out}: holds {(others or [MIX])[0]!r}, which modist recommend did not write; name another folder"
        )


def write(found: Recommendation, out: Path, data: dict[str, Any]) -> None:
    """Write the recipes of the mixture and of the best merge, and the report; each file appears whole.

    Raises:
        UserError: as `check_out`, or the folder cannot be written.
    """
    check_out(out)
    mixture = _mixture(found)
    for entry in mixture["experts"]:
        entry["source_model"] = absolute(entry["source_model"])
    texts = {MIX: _recipe(_remark(found), mixture)}
    if found.merge is not None:
        texts[MERGE] = _recipe(found.merge.title, found.merge.absolute().data)
    # Last: it is what marks the folder as finished.
    texts[REPORT] = json.dumps(data, indent=1) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (MIX, MERGE):
            if name not in texts:
                (out / name).unlink(missing_ok=True)
        for name, text in texts.items():
            growing = out / f".{name}.{os.getpid()}"
            try:
                growing.write_text(text, encoding="utf-8")
                os.replace(growing, out / name)
            finally:
                growing.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None


def _remark(found: Recommendation) -> str:
    return f"the likeliest weights on {found.solved.rows} rows of {Path(found.data).name}"


def _recipe(remark: str, data: dict[str, Any]) -> str:
    import yaml

    return f"# by modist recommend: {' '.join(remark.split())}\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _gate_flags(found: Recommendation) -> str:
    return f"--gate bayes --discount {found.gate.discount:.4g} --stride {found.gate.stride}"


def _gain(change: Difference, over: str, points: bool) -> str:
    if math.isinf(change.value):
        return f"able to say tokens that {over} cannot" if change.value > 0 else f"unable to say tokens that {over} can"
    word, ends = ("better", (change.low, change.high)) if change.value >= 0 else ("worse", (-change.high, -change.low))
    value, low, high = (100 * part if points else part for part in (abs(change.value), *ends))
    digits, unit = (1, " points") if points else (3, "")
    return f"{value:.{digits}f}{unit} {word} than {over} ({low:.{digits}f} to {high:.{digits}f})"


def _interval(change: Difference) -> str:
    if not math.isfinite(change.value):
        return "without a limit" if change.value > 0 else "it cannot say some token"
    return f"{change.value:.3f} ({change.low:.3f} to {change.high:.3f})"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _amount(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON else line[: _REASON - 4] + " ..."


def _quoted(value: str | Path) -> str:
    return shlex.quote(str(value))
