"""The search itself: what it finds, that its draws are its own, and what its folder refuses."""

from __future__ import annotations

import json
import warnings
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import UserError
from modist.search import evolve as module
from modist.search.evolve import Outcome, evolve
from modist.search.journal import Entry, Journal
from modist.search.pool import SearchError
from modist.search.random_search import random_search
from modist.search.settings import SearchSettings
from tests.search.evolve_driver import FakePool, bowl, genome, go

pytest.importorskip("cma")


def searched(folder: Path, genes: int, pool: FakePool | None = None, start: float | None = None, **settings: Any) -> Outcome:
    chosen = SearchSettings(**{"budget": 60, "seed": 3, **settings})
    with Journal(folder, {"genes": genes}) as journal:
        return evolve(genome(genes, start=start), pool or FakePool(), chosen, journal)


@pytest.mark.parametrize("genes", [1, 2, 4])
def test_it_climbs_a_hill(tmp_path: Path, genes: int) -> None:
    found = searched(tmp_path / "a", genes, budget=60 * genes)
    assert found.best.score > -1e-3 and len(found.candidates) == 60 * genes
    with Journal(tmp_path / "b", {}) as journal:
        drawn = random_search(genome(genes), FakePool(), SearchSettings(budget=60 * genes, seed=3), journal)
    assert drawn.best.score < found.best.score


@pytest.mark.parametrize("start", [-1.0, 3.0])
def test_it_leaves_a_corner(tmp_path: Path, start: float) -> None:
    found = searched(tmp_path / "a", 3, start=start, budget=200)
    assert found.candidates[0].vector == (start,) * 3
    assert found.best.score > -0.01
    assert all(-1 <= number <= 3 for entry in found.candidates for number in entry.vector)


def test_the_best_may_lie_on_a_bound(tmp_path: Path) -> None:
    found = searched(tmp_path / "a", 2, FakePool(lambda vector: float(vector.sum())), budget=300)
    assert found.best.score > 5.95


def test_many_genes_are_searched_by_variances_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not SearchSettings().is_diagonal(40) and SearchSettings().is_diagonal(41)
    assert SearchSettings(diagonal=True).is_diagonal(2) and not SearchSettings(diagonal=False).is_diagonal(500)
    asked = []
    real = module._package().CMAEvolutionStrategy

    class Watched:
        def CMAEvolutionStrategy(self, place: Any, sigma: float, options: dict[str, Any]) -> Any:
            asked.append((len(place), sigma, options["CMA_diagonal"], options["popsize"]))
            return real(place, sigma, options)

    monkeypatch.setattr(module, "_package", Watched)
    searched(tmp_path / "a", 41, budget=40)
    searched(tmp_path / "b", 40, budget=40, sigma=0.3, population=6)
    # 4 + floor(3 ln 41) = 15
    assert asked == [(41, 1 / 6, True, 15), (40, 0.3, False, 6)]


def test_the_population_is_hansen_s() -> None:
    assert [SearchSettings().population_of(genes) for genes in (1, 2, 6, 112)] == [4, 6, 9, 18]


def test_a_seed_decides_the_candidates_and_nothing_else_does(tmp_path: Path) -> None:
    def run(name: str, **settings: Any) -> list[tuple[float, ...]]:
        return [entry.vector for entry in searched(tmp_path / name, 4, **settings).candidates]

    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    one = run("a")
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    np.random.seed(99)
    assert run("b") == one
    other = run("c", seed=4)
    assert other[0] == one[0] and other[1:] != one[1:]


def test_a_metric_that_draws_does_not_disturb_it(tmp_path: Path) -> None:
    def greedy(vector: np.ndarray) -> float:
        np.random.random(7)
        return bowl(vector)

    one, two = searched(tmp_path / "a", 4), searched(tmp_path / "b", 4, FakePool(greedy))
    assert [entry.vector for entry in one.candidates] == [entry.vector for entry in two.candidates]


def test_flat_scores_spend_the_budget_elsewhere(tmp_path: Path) -> None:
    """Accuracy is flat over wide plains: that is no reason to stop."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = searched(tmp_path / "a", 2, FakePool(lambda vector: 0.0), budget=200)
    assert len(found.candidates) == 200 and found.best == found.candidates[0]
    spread = np.array([entry.vector for entry in found.candidates])
    assert spread.min() < -0.5 and spread.max() > 2.5
    assert [entry.generation for entry in found.candidates][:8] == [0, 1, 1, 1, 1, 1, 1, 2]


class Counted:
    """The package, and how many generations each optimiser had."""

    def __init__(self) -> None:
        self.package = module._package()
        self.generations: list[int] = []

    def CMAEvolutionStrategy(self, *given: Any) -> Any:
        strategy = self.package.CMAEvolutionStrategy(*given)
        self.generations.append(0)
        ask = strategy.ask

        def counted() -> Any:
            self.generations[-1] += 1
            return ask()

        strategy.ask = counted
        return strategy


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        # A few flat generations are waited out: the steps grow meanwhile.
        pytest.param(lambda vector: 0.0, 5, 5, id="flat"),
        pytest.param(bowl, 8, 80, id="converged"),
    ],
)
def test_where_it_stands_still_it_begins_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any, least: int, most: int
) -> None:
    counted = Counted()
    monkeypatch.setattr(module, "_package", lambda: counted)
    searched(tmp_path / "a", 1, FakePool(metric), budget=200)
    assert len(counted.generations) > 1 and all(least <= count <= most for count in counted.generations[:-1])


def test_a_budget_that_ends_within_a_generation(tmp_path: Path) -> None:
    pool = FakePool()
    found = searched(tmp_path / "a", 2, pool, budget=9, population=6)
    assert len(found.candidates) == len(pool.asked) == 9
    alone = FakePool()
    only = searched(tmp_path / "b", 2, alone, budget=1)
    assert len(alone.asked) == 1 and only.best == only.candidates[0]


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", 3, budget=50)
    for budget in (1, 10, 11, 30, 50):
        pool = FakePool()
        found = searched(tmp_path / "a", 3, pool, budget=budget)
        assert len(found.candidates) == budget
    assert [(e.vector, e.score) for e in found.candidates] == [(e.vector, e.score) for e in whole.candidates]
    assert len(pool.asked) == 20


def test_random_search_costs_the_same_and_shares_the_start(tmp_path: Path) -> None:
    pool = FakePool()
    one, two = go(tmp_path / "a", pool, genes=3, budget=40)
    assert len(one.candidates) == len(two.candidates) == 40 and len(pool.asked) == 79
    assert one.candidates[0] == two.candidates[0]
    drawn = np.array([entry.vector for entry in two.candidates[1:]])
    assert drawn.min() >= -1 and drawn.max() <= 3 and abs(drawn.mean() - 1) < 0.3 and len(set(map(tuple, drawn))) == 39
    _, other = go(tmp_path / "b", FakePool(), settings=SearchSettings(budget=40, seed=4), genes=3)
    assert not {entry.vector for entry in other.candidates[1:]} & set(map(tuple, drawn))


def test_what_is_best() -> None:
    scores = [0.5, 0.7, 0.2, 0.7, 0.7, 0.6]
    vectors = [(0.0,), (1.0,), (2.0,), (3.0,), (1.0,), (4.0,)]
    found = Outcome("cma", tuple(Entry("cma", n, v, s) for n, (v, s) in enumerate(zip(vectors, scores, strict=True))))
    assert found.best.number == 1
    assert [entry.number for entry in found.finalists(3)] == [1, 3, 5]
    assert found.so_far() == [0.5, 0.7, 0.7, 0.7, 0.7, 0.7]


def test_progress_is_told_with_the_best_so_far(tmp_path: Path) -> None:
    said: list[tuple[int, float]] = []
    go(tmp_path / "a", FakePool(shuffled=True), watch=lambda entry, done, best: said.append((done, best.score)), budget=20)
    first, second = said[:20], said[20:]
    for part in (first, second):
        assert [done for done, _ in part] == list(range(1, 21))
        assert [best for _, best in part] == sorted(best for _, best in part)
    again: list[tuple[int, float]] = []
    go(tmp_path / "a", FakePool(after=0), watch=lambda entry, done, best: again.append((done, best.score)), budget=20)
    assert again[19] == first[19] and again[-1] == second[-1]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers(tmp_path: Path, wrong: float) -> None:
    pool = FakePool(lambda vector: wrong if vector[0] > 1.5 else bowl(vector))
    with pytest.raises(SearchError, match=f"candidate \\d+ of the cma search scores {wrong}, which is no number to search by"):
        searched(tmp_path / "a", 2, pool)
    # What was scored before is kept, and it is not among it.
    kept = [json.loads(line) for line in (tmp_path / "a" / "search.jsonl").read_text().splitlines()[1:]]
    assert len(kept) == len(pool.asked) - 1 and all(np.isfinite(entry["score"]) for entry in kept)


def test_a_metric_that_raises_names_itself(tmp_path: Path) -> None:
    """Through the pool that the command uses."""
    from modist.search.pool import LocalPool

    class Workshop:
        tokenizer = None

        def merge(self, vector: Any) -> Any:
            return vector

    class Metric:
        name = "accuracy:mine.yml"

        def __call__(self, model: Any, tokenizer: Any) -> float:
            return float("nan")

    with (
        Journal(tmp_path / "a", {}) as journal,
        pytest.raises(Exception, match=r"accuracy:mine.yml: gives nan, which is no number"),
    ):
        evolve(genome(2), LocalPool(Workshop(), Metric()), SearchSettings(), journal)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "cma" else real(name, *rest))
    pool = FakePool()
    with pytest.raises(UserError, match=r"needs cma, which is not here: pip install 'modist\[search\]'"):
        searched(tmp_path / "a", 2, pool)
    assert not pool.asked


# ---------------------------------------------------------------- the folder


def test_two_searches_cannot_share_a_folder(tmp_path: Path) -> None:
    with Journal(tmp_path / "a", {}), pytest.raises(UserError, match="another process is searching there"):
        Journal(tmp_path / "a", {})
    Journal(tmp_path / "a", {}).close()


def test_another_search_is_refused_by_what_differs(tmp_path: Path) -> None:
    Journal(tmp_path / "a", {"seed": 3, "metric": "accuracy:a.yml", "genes": ["x" * 100]}).close()
    before = (tmp_path / "a" / "search.jsonl").read_bytes()
    for plan, said in (
        ({"seed": 4, "metric": "accuracy:a.yml", "genes": ["x" * 100]}, r"holds another search \(seed was 3, is 4\)"),
        ({"seed": 3, "metric": "accuracy:a.yml", "genes": ["x" * 99 + "y"]}, r"\(genes has changed\)"),
        ({"seed": 3, "metric": "accuracy:a.yml", "genes": ["x" * 100], "more": 1}, r"\(more was null, is 1\)"),
    ):
        with pytest.raises(UserError, match=said):
            Journal(tmp_path / "a", plan)
    assert (tmp_path / "a" / "search.jsonl").read_bytes() == before


def test_strange_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for name, said in (("file", "is a file"), ("mine", "was not made by modist search")):
        with pytest.raises(UserError, match=said):
            Journal(tmp_path / name, {})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    Journal(tmp_path / "a", {}).close()
    (tmp_path / "a" / "search.jsonl").write_text('{"other": "thing"}\n')
    with pytest.raises(UserError, match=r"its search.jsonl is no search's"):
        Journal(tmp_path / "a", {})


def test_candidates_of_another_optimiser_are_refused(tmp_path: Path) -> None:
    searched(tmp_path / "a", 3, budget=20)
    path = tmp_path / "a" / "search.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    entry = json.loads(lines[10])
    entry["vector"][1] += 1e-6
    lines[10] = json.dumps(entry) + "\n"
    path.write_text("".join(lines))
    with pytest.raises(
        UserError, match=r"candidate 9 of its cma search is not the one asked for now; .* versions of cma or numpy"
    ):
        searched(tmp_path / "a", 3, budget=20)
    # The last bits may differ from machine to machine.
    entry["vector"][1] -= 1e-6 - 1e-13
    lines[10] = json.dumps(entry) + "\n"
    path.write_text("".join(lines))
    pool = FakePool()
    assert len(searched(tmp_path / "a", 3, pool, budget=20).candidates) == 20 and not pool.asked


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modist.search import journal as journals

    class Full:
        def __getattr__(self, name: str) -> Any:
            import os

            if name != "write":
                return getattr(os, name)

            def write(descriptor: int, data: bytes) -> int:
                if b'"number": 5' in data:
                    os.write(descriptor, data[:9])
                    raise OSError(28, "No space left on device")
                return os.write(descriptor, data)

            return write

    with monkeypatch.context() as patch:
        patch.setattr(journals, "os", Full())
        with pytest.raises(SearchError, match=r"search.jsonl: cannot be written \(No space left"):
            searched(tmp_path / "a", 3)
    assert (tmp_path / "a" / "search.jsonl").read_bytes().count(b"\n") == 6
    assert (tmp_path / "a" / "search.jsonl").read_bytes().endswith(b"\n")
    pool = FakePool()
    assert searched(tmp_path / "a", 3, pool).best == searched(tmp_path / "b", 3).best or len(pool.asked) == 55
