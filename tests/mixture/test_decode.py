"""Decoding real models: passes, seeds, prompts, chats, streams and what is reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.mixture import Experts, assemble, load_experts
from modist.mixture.decode import Generation, Ledger, Run, Settings, encode_prompts, generate, stream
from modist.mixture.gate import Gate
from modist.recipe import load_recipe
from tests.mixture.fakes import decode, fake_experts, table
from tests.mixture.tiny_experts import GRIMM, GSM8K, greedy_by_hand, tiny
from tests.tiny_models import write_recipe

torch.set_num_threads(1)
TINY = Path(__file__).parents[2] / "examples" / "experts"
PROMPTS = ["Once upon a time", "Natalia sold clips to", "A", "The king said"]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    if not GRIMM.is_dir():
        pytest.skip("the shared models are not here")
    listed = [{"source_model": folder} for folder in (GSM8K, GRIMM)]
    path = write_recipe(tmp_path_factory.mktemp("stories") / "mix.yml", {"experts": listed, "weights": [0.6, 0.4]})
    return load_experts(load_recipe(path))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    listed = [{"source_model": TINY / name} for name in ("general", "math")]
    path = write_recipe(tmp_path_factory.mktemp("chatty") / "mix.yml", {"experts": listed, "weights": [0.5, 0.5]})
    return load_experts(load_recipe(path))


def complete(found: Generation) -> None:
    """Every token has its log-probability and shares that sum to 1."""
    assert len(found.token_ids) == len(found.logprobs) == len(found.responsibilities) > 0
    assert all(np.isfinite(found.logprobs)) and max(found.logprobs) <= 0
    np.testing.assert_allclose(np.sum(found.responsibilities, 1), 1, atol=1e-9)


def test_a_batch_pays_one_pass_a_step(stories: Experts) -> None:
    rows, ledger = generate(stories, PROMPTS, Settings(30, 1.0, seed=2))
    assert ledger.passes_per_step == 1 and sum(ledger.passes.values()) == ledger.steps
    assert ledger.certified_share == 1 and ledger.tokens == sum(len(row.token_ids) for row in rows)
    assert ledger.seconds > 0 and ledger.tokens_per_second > 0
    for name in stories.names:
        assert len(ledger.chunks[name]) == ledger.passes[name]
    for row in rows:
        complete(row)


def test_eager_pays_for_everyone(stories: Experts) -> None:
    _, ledger = generate(stories, PROMPTS[:2], Settings(5, 1.0, eager=True))
    assert ledger.passes == dict.fromkeys(stories.names, 5) and ledger.certified_share == 0


def test_greedy_is_the_argmax_of_models_read_afresh(stories: Experts) -> None:
    ids = encode_prompts(stories, PROMPTS[:1])[0][0]
    wanted = greedy_by_hand(stories.models, stories.weights, ids, 20, set(stories.stop_ids))
    (row,), ledger = generate(stories, PROMPTS[:1], Settings(20))
    assert list(row.token_ids) == wanted and ledger.passes_per_step <= 2
    complete(row)


def test_scores_are_those_of_models_read_afresh(stories: Experts) -> None:
    (row,), _ = generate(stories, PROMPTS[:1], Settings(20, 1.0, seed=1))
    prompt = encode_prompts(stories, PROMPTS[:1])[0][0]
    ids = torch.tensor([prompt + list(row.token_ids)])
    with torch.no_grad():
        said = [torch.log_softmax(model(ids).logits[0].double(), -1) for model in stories.models]
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    joint = (
        torch.stack([own[places, ids[0, len(prompt) :]] for own in said])
        + torch.tensor(stories.weights).double().log()[:, None]
    )
    np.testing.assert_allclose(row.logprobs, torch.logsumexp(joint, 0), atol=1e-4)
    np.testing.assert_allclose(row.responsibilities, joint.softmax(0).T, atol=1e-4)


def test_seeds_reproduce_and_differ(stories: Experts) -> None:
    first, again, other = (generate(stories, PROMPTS, Settings(20, 1.0, seed=seed))[0] for seed in (3, 3, 4))
    assert [row.token_ids for row in first] == [row.token_ids for row in again] != [row.token_ids for row in other]


def test_a_rows_response_does_not_depend_on_its_neighbours() -> None:
    """Row 0 is keyed as row 0 in any batch; rows that end early or have longer prompts leave it alone."""
    experts, parts = fake_experts([0.6, 0.4], [9, 9], stops={1}), [table(1, 9), table(2, 9)]
    (alone,), _, _ = decode(experts, parts, [[2, 3]], Settings(20, 1.0, seed=6), context=16)
    together, _, _ = decode(experts, parts, [[2, 3], [4] * 9, [5]], Settings(20, 1.0, seed=6), context=16)
    assert together[0] == alone
    assert len(together[1].token_ids) <= 7


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_length_and_context_limits(temperature: float | None, eager: bool) -> None:
    experts, parts = fake_experts([0.6, 0.4], [9, 9]), [table(1, 9), table(2, 9)]
    settings = Settings(12, temperature, eager=eager)
    for context, wanted in ((None, [12, 12]), (10, [8, 5]), (6, [4, 1])):
        rows, _, _ = decode(experts, parts, [[1, 2], [3, 4, 5, 6, 7]], settings, context=context)
        assert [len(row.token_ids) for row in rows] == wanted
        assert all(row.finish_reason == "length" for row in rows)


def test_a_text_up_to_the_edge_of_the_context(stories: Experts) -> None:
    assert stories.context is not None
    prompt = "Once upon a time there was a little girl. " * 40
    length = len(encode_prompts(stories, [prompt])[0][0])
    room = stories.context - length
    assert room > 0
    for temperature in (None, 1.0):
        (row, short), _ = generate(stories, [prompt, "A"], Settings(room + 5, temperature, eager=temperature is not None))
        assert len(row.token_ids) == room and row.finish_reason == "length"
        complete(row)
        complete(short)
        assert len(short.token_ids) == room + 5 or short.finish_reason == "stop"


def test_stop_ids_end_a_row_and_belong_to_its_ids() -> None:
    experts, parts = fake_experts([0.6, 0.4], [9, 9], stops={1, 2}), [table(1, 9, spread=0.5), table(2, 9, spread=0.5)]
    for temperature in (None, 1.0):
        rows, _, _ = decode(experts, parts, [[index] for index in range(3, 9)], Settings(60, temperature, seed=3))
        for row in rows:
            ended = row.finish_reason == "stop"
            assert ended == (row.token_ids[-1] in (1, 2)) and not {1, 2} & set(row.token_ids[:-1])
        assert any(row.finish_reason == "stop" for row in rows)


def test_streams_concatenate_to_the_text(stories: Experts) -> None:
    for settings in (
        Settings(40),
        Settings(40, 1.0, seed=1),
        Settings(40, 1.2, seed=2, eager=True),
        Settings(30, 0.8, top_p=0.9, warp="mixture"),
    ):
        *pieces, last = stream(stories, PROMPTS[0], settings)
        assert isinstance(last, tuple)
        result, ledger = last
        assert isinstance(ledger, Ledger) and "".join(map(str, pieces)) == result.text and len(pieces) > 5
        (row,), _ = generate(stories, PROMPTS[:1], settings)
        assert row == result


def test_streaming_sampling_gives_each_token_as_it_is_drawn(stories: Experts) -> None:
    pieces = stream(stories, PROMPTS[0], Settings(200, 1.0, seed=1))
    first = next(pieces)
    assert isinstance(first, str) and first
    pieces.close()  # type: ignore[attr-defined]


def test_the_prompts_are_recorded(stories: Experts) -> None:
    rows, _ = generate(stories, PROMPTS[:2], Settings(2))
    assert [row.prompts for row in rows] == [
        tuple(stories.tokenizer.decode(stories.tokenizer(text)["input_ids"]) for _ in range(2)) for text in PROMPTS[:2]
    ]


def test_chats_go_through_templates_of_their_own(chatty: Experts) -> None:
    import copy

    question = [{"role": "user", "content": "What is 3 + 4?"}]
    other = copy.deepcopy(chatty.tokenizers[1])
    other.chat_template = "{% for m in messages %}Q: {{ m['content'] }}\nA:{% endfor %}"
    experts = replace(chatty, tokenizers=(chatty.tokenizers[0], other))
    first, second = encode_prompts(experts, [question])
    assert experts.tokenizer.decode(second[0]) == "Q: What is 3 + 4?\nA:" and first != second
    for temperature in (None, 1.0):
        lazy, _ = generate(experts, [question, question[:1]], Settings(8, temperature))
        eager, _ = generate(experts, [question, question[:1]], Settings(8, temperature, eager=True))
        assert [row.token_ids for row in lazy] == [row.token_ids for row in eager]
        assert lazy[0].prompts[1] == "Q: What is 3 + 4?\nA:" and lazy[0].prompts[0] == experts.tokenizer.decode(first[0])
        complete(lazy[0])
    borrowed = replace(chatty, tokenizers=(chatty.tokenizers[0], None))
    assert encode_prompts(borrowed, [question])[0] == encode_prompts(borrowed, [question])[1]


def test_texts_and_chats_in_one_batch(chatty: Experts) -> None:
    rows, ledger = generate(chatty, ["two plus two is", [{"role": "user", "content": "Hi"}]], Settings(6, 1.0))
    assert len(rows) == 2 and ledger.passes_per_step == 1


def test_no_template_no_chat(stories: Experts) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        generate(stories, [[{"role": "user", "content": "Hi"}]], Settings(2))


def test_the_bayes_gate_moves_towards_who_is_right(stories: Experts) -> None:
    experts = replace(stories, weights=(0.9, 0.1))
    (row,), _ = generate(experts, ["Once upon a time"], Settings(60, gate=Gate("bayes"), eager=True))
    (lazy,), _ = generate(experts, ["Once upon a time"], Settings(60, gate=Gate("bayes")))
    assert row.token_ids == lazy.token_ids
    complete(lazy)


def test_nothing_to_do(stories: Experts) -> None:
    assert generate(stories, [], Settings()) == ([], Ledger(0, 0, {}, {}, 0.0, 0.0))


@pytest.mark.parametrize("family", ["llama", "qwen2-tied", "mistral", "gemma"])
def test_architectures_lazy_and_eager(family: str) -> None:
    """Random models of several families, in float64, with prompts of different lengths."""
    from modist.mixture.decode import Run
    from modist.mixture.load import assemble
    from tests.mixture.tiny_experts import tiny

    experts: Any = assemble([tiny(seed, family, dtype=torch.float64) for seed in (1, 2)], [0.7, 0.3])
    for settings in (
        Settings(15),
        Settings(15, 1.0, seed=1),
        Settings(15, 0.8, top_p=0.9, warp="mixture"),
        Settings(15, gate=Gate("bayes", stride=3)),
    ):
        found = []
        for eager in (False, True):
            rows = []
            for prompts in ([[[5, 6, 7]]], [[[8]]]) if settings.temperature is None else ([[[5, 6, 7], [8]]],):
                run = Run(experts, prompts * 2, replace(settings, eager=eager))
                for _ in run.steps():
                    pass
                rows += [row.token_ids for row in run.results()]
            found.append(rows)
        assert found[0] == found[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.8, "warp": "mixture"},
        {"temperature": 1.0, "gate": Gate("bayes")},
        {"eager": True},
        {},
    ],
    ids=str,
)
def test_without_scores_the_same_tokens_and_no_logprobs(settings: dict[str, Any]) -> None:
    """What is not asked for is not computed: a late reader then gives its last distribution alone."""
    models, rows = [tiny(1), tiny(2)], [[3, 4, 5], [6, 7]] if settings else [[3, 4, 5]]
    experts, found = assemble(models, (0.5, 0.5)), {}
    for scores in (True, False):
        run = Run(experts, [rows, rows], Settings(20, scores=scores, **settings))
        for _ in run.steps():
            pass
        results, ledger = run.results(), run.ledger()
        found[scores] = [one.token_ids for one in results], ledger.passes
        assert all(len(one.logprobs) == (len(one.token_ids) if scores else 0) for one in results)
        assert scores or not any(one.responsibilities for one in results)
    assert found[True][0] == found[False][0]
    kept = [len(reader.scores) for reader in run.state.readers]
    needed = "gate" in settings or not settings  # the bayes gate and greedy checks ask for scores themselves
    assert any(kept) if needed else not any(kept)
