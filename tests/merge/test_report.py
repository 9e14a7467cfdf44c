"""What a merge says of itself: shares, kept norms, weights, the manifest, the card, `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from modist.errors import UserError
from modist.merge import merge
from modist.merge.share import percent
from modist.merge.verify import verify
from tests.tiny_models import Trio, plain_trio, read_folder


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    return plain_trio(tmp_path / "trio", "F32")


def recipe(path: Path, trio: Trio, method: str, one: dict[str, Any], two: dict[str, Any], **shared: Any) -> Path:
    data = {
        "merge_method": method,
        "base_model": str(trio.base),
        "models": [
            {"model": str(trio.one), "parameters": one},
            {"model": str(trio.two), "parameters": two},
        ],
        "parameters": shared,
    }
    path.write_text(yaml.safe_dump(data))
    return path


def test_norm_of_the_delta_kept(trio: Trio, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yml", trio, "ties", {"weight": 1, "density": 0.3}, {"weight": 0})
    report = merge(path, tmp_path / "out")
    by_name = {parent.name: parent for parent in report.parents}
    base, one = read_folder(trio.base), read_folder(trio.one)
    kept = whole = 0.0
    layer = {"0": [0.0, 0.0]}
    for name in base:
        delta = np.sort(np.abs(one[name].float64 - base[name].float64).reshape(-1))[::-1]
        top = (delta[: max(1, int(0.3 * delta.size))] ** 2).sum()
        kept, whole = kept + top, whole + (delta**2).sum()
        if ".layers.0." in name:
            layer["0"] = [layer["0"][0] + top, layer["0"][1] + (delta**2).sum()]
    assert by_name["one"].overall == pytest.approx(np.sqrt(kept / whole), rel=1e-5)
    assert by_name["one"].layers["0"] == pytest.approx(np.sqrt(layer["0"][0] / layer["0"][1]), rel=1e-5)
    assert by_name["two"].overall == 0
    assert by_name["base"].overall is None


def test_elected_signs_lower_the_norm_kept(trio: Trio, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yml", trio, "ties", {"weight": 1}, {"weight": 1})
    one, two = merge(path, tmp_path / "out").parents[:2]
    # The larger deltas of `two` win most elections.
    assert one.overall is not None and two.overall is not None
    assert one.overall < two.overall < 1


def test_weights_are_reported_for_averages(trio: Trio, tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    models = [{"model": str(f), "parameters": {"weight": w}} for f, w in ((trio.one, 1), (trio.two, 3))]
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    report = merge(path, tmp_path / "out")
    assert [parent.overall for parent in report.parents] == pytest.approx([0.25, 0.75])


def test_a_base_has_no_weight_where_the_others_alone_have(trio: Trio, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yml", trio, "nuslerp", {"weight": 1}, {"weight": 3})
    assert [parent.overall for parent in merge(path, tmp_path / "out").parents] == [0.25, 0.75, None]
    path = recipe(tmp_path / "r.yml", trio, "multislerp", {"weight": 1}, {"weight": 3}, normalize_weights=False)
    assert [parent.overall for parent in merge(path, tmp_path / "out").parents] == [1, 3, None]


def test_model_stock_tells_how_far_it_went(trio: Trio, tmp_path: Path) -> None:
    """|t| of the tensors, by norm: twins are followed all the way, right angles not at all."""
    path = recipe(tmp_path / "r.yml", trio, "model_stock", {}, {})
    one, two, base = merge(path, tmp_path / "out").parents
    assert one.overall is not None and one.overall < 0.2 and base.overall is None
    assert one.overall == pytest.approx(two.overall, rel=0.05)


def test_manifest_and_card(trio: Trio, tmp_path: Path) -> None:
    (trio.one / "README.md").write_text("---\nlicense: mit\n---\n# one\n")
    (trio.two / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    path = recipe(tmp_path / "r.yml", trio, "dare_linear", {"weight": 1, "density": 0.5}, {"weight": 0.5})
    report = merge(path, tmp_path / "out", seed=7, hash_inputs=True)
    manifest = json.loads((tmp_path / "out" / "modist_manifest.json").read_text())
    assert manifest["seed"] == 7 and manifest["recipe"]["text"] == path.read_text()
    assert {parent["name"] for parent in manifest["parents"]} == {"one", "two", "base"}
    assert all(len(entry["sha256"]) == 64 for one in manifest["inputs"] for entry in one["files"].values())
    assert manifest["parents"][0]["overall"] == report.parents[0].overall
    card = (tmp_path / "out" / "README.md").read_text()
    meta = yaml.safe_load(card.split("---")[1])
    assert meta["base_model"] == ["one", "two", "base"] and "merge" in meta["tags"]
    assert meta["license"] == "other"
    assert "| mit |" in card and "| apache-2.0 |" in card and "not stated" in card and path.read_text().strip() in card


def test_one_licence_of_all_parents_is_the_merges(trio: Trio, tmp_path: Path) -> None:
    for folder in trio.folders:
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    path = recipe(tmp_path / "r.yml", trio, "task_arithmetic", {"weight": 1}, {"weight": 0.5})
    merge(path, tmp_path / "out")
    assert yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])["license"] == "apache-2.0"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_verify(trio: Trio, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yml", trio, "ties", {"weight": 1}, {"weight": 1})
    out = tmp_path / "out"
    merge(path, out)
    assert verify(out, path).passed
    other = tmp_path / "other.yml"
    other.write_text(path.read_text() + "# another\n")
    assert [check.name for check in verify(out, other).checks if not check.passed] == ["recipe"]
    weights = out / "model.safetensors"
    flip(weights, -1)
    assert [check.name for check in verify(out).checks if not check.passed] == ["hashes"]
    flip(weights, -1)
    assert verify(out).passed
    flip(weights, 20)
    assert not verify(out).passed
    flip(weights, 20)
    (out / "modist_recipe.yml").write_text("merge_method: linear\n")
    assert {check.name for check in verify(out).checks if not check.passed} == {"hashes", "recipe"}
    (out / "config.json").unlink()
    assert not verify(out).passed
    with pytest.raises(UserError, match="no modist_manifest"):
        verify(trio.base)


@pytest.mark.parametrize(
    ("fraction", "text"), [(0, "0.0%"), (1, "100.0%"), (0.5, "50.0%"), (0.99998, "99.998%"), (0.0003, "0.03%")]
)
def test_percent_hides_no_trace(fraction: float, text: str) -> None:
    assert percent(fraction) == text
