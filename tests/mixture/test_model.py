"""A mixture as a transformers model: the law by hand, every way of generating, saved and loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from modist.errors import CheckpointError, ModistError, UserError
from modist.mixture import MixtureForCausalLM
from tests.mixture.tiny_experts import GRIMM, GSM8K, greedy_by_hand, mixed64, saved, tiny
from tests.tiny_models import add_tokenizer, write_recipe

WEIGHTS = [0.6, 0.4]
IDS = torch.tensor([[1, 17, 90, 4, 33]])

pytestmark = pytest.mark.filterwarnings("ignore:.*generation_config.*")
shared_models = pytest.mark.skipif(not GRIMM.is_dir(), reason="the shared models are not here")


@pytest.fixture(scope="module")
def pair() -> list[Any]:
    """Two architectures, one with its head tied to the embeddings."""
    return [tiny(1, "llama"), tiny(2, "qwen2-tied")]


@pytest.fixture(scope="module")
def mixture(pair: list[Any]) -> MixtureForCausalLM:
    return MixtureForCausalLM.from_experts(pair, WEIGHTS, names=["one", "two"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pair: list[Any]) -> list[Path]:
    home = tmp_path_factory.mktemp("experts")
    return [saved(home / name, model) for name, model in zip(("one", "two"), pair, strict=True)]


@pytest.fixture
def recipe(tmp_path: Path, folders: list[Path]) -> Path:
    experts = [{"source_model": folder} for folder in folders]
    return write_recipe(tmp_path / "mix.yml", {"experts": experts, "weights": WEIGHTS})


def gpt2(seed: int) -> Any:
    """A tiny model with a learned vector for each position."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=160, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return GPT2LMHeadModel(config).eval()


def logits_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


# ---------------------------------------------------------------- the law


def test_logits_are_the_mixtures_log_probabilities(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    found = logits_of(mixture)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mixed64(pair, WEIGHTS, IDS), atol=1e-5, rtol=0)
    assert found.exp().sum(-1).sub(1).abs().max() < 1e-5


def test_identical_experts_are_the_expert_and_so_is_weight_one(pair: list[Any]) -> None:
    twins = MixtureForCausalLM.from_experts([pair[0], tiny(1)], [0.3, 0.7])
    expected = logits_of(pair[0]).log_softmax(-1)
    torch.testing.assert_close(logits_of(twins), expected, atol=2e-6, rtol=0)
    assert twins.saved_bytes > 0
    lone = MixtureForCausalLM.from_experts(pair, [0.0, 1.0])
    assert torch.equal(logits_of(lone), logits_of(pair[1]).log_softmax(-1))


def test_order_changes_nothing(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    other = MixtureForCausalLM.from_experts(pair[::-1], WEIGHTS[::-1])
    torch.testing.assert_close(logits_of(other), logits_of(mixture), atol=1e-6, rtol=1e-6)
    again = other.generate(IDS, max_new_tokens=12, do_sample=False)
    assert torch.equal(again, mixture.generate(IDS, max_new_tokens=12, do_sample=False))


def test_the_product_of_experts_is_another_law(pair: list[Any]) -> None:
    model = MixtureForCausalLM.from_experts(pair, WEIGHTS, law="logits")
    expected = sum(w * logits_of(expert).double() for w, expert in zip(WEIGHTS, pair, strict=True)).log_softmax(-1)
    torch.testing.assert_close(logits_of(model).double(), expected, atol=1e-5, rtol=0)


def test_the_loss_is_nats_per_token(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    with torch.no_grad():
        loss = mixture(IDS, labels=IDS).loss
    expected = -mixed64(pair, WEIGHTS, IDS)[0, :-1].gather(1, IDS[0, 1:, None]).mean()
    assert abs(float(loss) - float(expected)) < 1e-5


def test_wrapping_leaves_living_experts_as_they_were() -> None:
    model = tiny(4)
    before, settings = logits_of(model), model.config.to_dict()
    MixtureForCausalLM.from_experts([model, tiny(5)], [0.5, 0.5])
    assert torch.equal(logits_of(model), before) and model.config.to_dict() == settings
    assert model.config._attn_implementation == "sdpa"


def test_tensors_put_in_after_loading_are_not_drawn_again() -> None:
    model = tiny(4)
    model.lm_head = torch.nn.Linear(64, 160, bias=False)  # without the mark transformers leaves on what it has loaded
    before = logits_of(model)
    mixture = MixtureForCausalLM.from_experts([model, tiny(5)], [1.0, 0.0])
    assert torch.equal(logits_of(model), before)
    mixture.config._attn_implementation = "eager"
    assert model.config._attn_implementation == "eager"


@shared_models
def test_scores_equal_a_float64_computation_on_trained_models() -> None:
    experts = [AutoModelForCausalLM.from_pretrained(folder) for folder in (GRIMM, GSM8K)]
    tokenizer = AutoTokenizer.from_pretrained(GRIMM)
    ids = tokenizer("Once upon a time there was a king who had 3 apples and gave 2 away.", return_tensors="pt").input_ids
    model = MixtureForCausalLM.from_experts(experts, [0.7, 0.3])
    found = logits_of(model, ids)[0, :-1].gather(1, ids[0, 1:, None])
    wide = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64) for folder in (GRIMM, GSM8K)]
    expected = mixed64(wide, [0.7, 0.3], ids)[0, :-1].gather(1, ids[0, 1:, None])
    assert (found.double() - expected).abs().max() < 1e-5


# ---------------------------------------------------------------- generating


def test_greedy_with_cache_without_and_by_hand(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    with_cache = mixture.generate(IDS, max_new_tokens=16, do_sample=False)
    without = mixture.generate(IDS, max_new_tokens=16, do_sample=False, use_cache=False)
    by_hand = greedy_by_hand(pair, WEIGHTS, IDS[0].tolist(), 16, {2})
    assert with_cache[0, 5:].tolist() == by_hand == without[0, 5:].tolist()
    assert len(set(by_hand)) > 3  # not stuck on one token, which any law would give
    alone = [greedy_by_hand([expert], [1.0], IDS[0].tolist(), 16, {2}) for expert in pair]
    assert by_hand not in alone


@pytest.mark.parametrize("learned_positions", [False, True])
def test_a_left_padded_batch_is_each_prompt_alone(mixture: MixtureForCausalLM, learned_positions: bool) -> None:
    if learned_positions:
        # Rotary positions forgive a shift; GPT-2's do not.
        mixture = MixtureForCausalLM.from_experts([tiny(1), gpt2(7)], WEIGHTS)
    prompts = [[1, 17, 90, 4, 33], [1, 8], [1, 140, 12, 12]]
    ids = torch.tensor([[0] * (5 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (5 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    together = mixture.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    for row, prompt in zip(together, prompts, strict=True):
        alone = mixture.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
        assert row[5 : 5 + len(alone)].tolist() == alone.tolist()


def test_beams_find_what_a_plain_search_finds(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    found = mixture.generate(IDS, max_new_tokens=5, num_beams=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    beams: list[tuple[float, list[int]]] = [(0.0, IDS[0].tolist())]
    for _ in range(5):
        grown = []
        for score, ids in beams:
            step = mixed64(pair, WEIGHTS, torch.tensor([ids]))[0, -1]
            top = step.topk(4)
            pieces = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            grown += [(score + value, [*ids, number]) for value, number in pieces]
        beams = sorted(grown, reverse=True)[:4]
    assert found[0].tolist() == beams[0][1]


def test_sampling_follows_the_law(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    torch.manual_seed(0)
    drawn = mixture.generate(IDS, max_new_tokens=1, do_sample=True, num_return_sequences=4000, top_k=0)[:, -1]
    law = mixed64(pair, WEIGHTS, IDS)[0, -1].exp()
    common = law > 5 / 4000
    seen = torch.bincount(drawn, minlength=160)[common] / 4000
    spread = (law[common] * (1 - law[common]) / 4000).sqrt()
    assert ((seen - law[common]).abs() / spread).max() < 4.5


def test_assisted_generation_gives_the_same_tokens(mixture: MixtureForCausalLM, pair: list[Any]) -> None:
    plain = mixture.generate(IDS, max_new_tokens=14, do_sample=False)
    drafted = mixture.generate(IDS, max_new_tokens=14, do_sample=False, assistant_model=pair[0])
    looked_up = mixture.generate(IDS, max_new_tokens=14, do_sample=False, prompt_lookup_num_tokens=2)
    assert torch.equal(drafted, plain) and torch.equal(looked_up, plain)
    alone = pair[1].generate(IDS, max_new_tokens=14, do_sample=False)
    assert torch.equal(pair[1].generate(IDS, max_new_tokens=14, do_sample=False, assistant_model=mixture), alone)


def test_a_cache_goes_on_where_it_stopped(mixture: MixtureForCausalLM) -> None:
    cache = mixture.new_cache()
    with torch.no_grad():
        mixture(IDS[:, :3], past_key_values=cache)
        rest = mixture(IDS[:, 3:], past_key_values=cache).logits
    torch.testing.assert_close(rest, logits_of(mixture)[:, 3:], atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 5 and len(cache) == 4 and not cache.is_compileable
    cache.crop(-2)
    assert [part.get_seq_length() for part in cache.parts] == [3, 3]


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate(IDS, max_new_tokens=2, cache_implementation="static"),
        lambda model: model.generate(IDS, max_new_tokens=2, cache_implementation="offloaded"),
        lambda model: model.generate(IDS, max_new_tokens=2, cache_implementation="quantized"),
        lambda model: model.generate(IDS, max_new_tokens=2, past_key_values=DynamicCache()),
        lambda model: model(IDS, past_key_values=DynamicCache()),
        lambda model: model(IDS, output_hidden_states=True),
        lambda model: model.generate_batch([[1, 2]]),
        lambda model: model.init_continuous_batching(),
        lambda model: model.set_attn_implementation("paged|sdpa"),
        lambda model: model.resize_token_embeddings(200),
        lambda model: model.generate(inputs_embeds=torch.zeros(1, 2, 64), max_new_tokens=2),
        lambda model: model.generate(torch.ones(1, 128, dtype=torch.long), max_new_tokens=2),
    ],
)
def test_what_cannot_work_is_refused(mixture: MixtureForCausalLM, call: Any) -> None:
    with pytest.raises(UserError) as raised:
        call(mixture)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- vocabularies


def test_a_padded_vocabulary(pair: list[Any]) -> None:
    wide = tiny(3, "qwen2-untied", vocab=192)
    model = MixtureForCausalLM.from_experts([pair[0], wide], [0.5, 0.5])
    found = logits_of(model)
    assert found.shape[-1] == model.config.vocab_size == 192
    assert torch.isneginf(found[..., 160:]).all()
    expected = 0.5 * logits_of(pair[0]).double().softmax(-1) + 0.5 * logits_of(wide).double().softmax(-1)[..., :160]
    torch.testing.assert_close(found[..., :160].double(), (expected / expected.sum(-1, keepdim=True)).log(), atol=1e-5, rtol=0)
    assert int(model.generate(IDS, max_new_tokens=20, do_sample=True, top_k=0).max()) < 160


def test_an_extended_vocabulary_ends_and_pads_with_ids_of_its_own(tmp_path: Path) -> None:
    """The wide expert ends with an id that the other has no row for, in a batch whose rows end at different times."""
    narrow = tiny(1)
    wide = tiny(3, vocab=166)
    wide.generation_config.eos_token_id = 164
    with torch.no_grad():
        wide.lm_head.weight[164] += 0.5  # so that it does end
    model = MixtureForCausalLM.from_experts([narrow, wide], [0.5, 0.5], names=["narrow", "wide"])
    model.generation_config.pad_token_id = model.config.pad_token_id = 164
    assert model.config.stop_ids == (2, 164) and model.generation_config.eos_token_id == [2, 164]
    found = logits_of(model)
    assert torch.isneginf(found[..., [160, 163, 165]]).all() and torch.isfinite(found[..., 164]).all()
    torch.manual_seed(1)
    ids = torch.tensor([[164, 164, 164, 1, 8], [1, 17, 90, 4, 33]])
    mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=True, num_return_sequences=8, top_k=0)
    ends = [row[5:].tolist() for row in out]
    assert any(164 in row for row in ends)
    assert all(set(row[row.index(164) :]) == {164} for row in ends if 164 in row)
    with pytest.raises(UserError, match="id 164, which narrow cannot read"):
        model(torch.tensor([[1, 164, 5]]))
    with pytest.raises(UserError, match="id 170 is outside"):
        model(torch.tensor([[1, 170]]))
    model.save_pretrained(tmp_path, materialise=True)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), found)


def test_different_tokenizers_are_refused(tmp_path: Path, pair: list[Any]) -> None:
    homes = [saved(tmp_path / "a", pair[0]), saved(tmp_path / "b", pair[1], words=[f"v{n}" for n in range(156)])]
    models = [AutoModelForCausalLM.from_pretrained(home) for home in homes]
    with pytest.raises(UserError, match="modist fuse"):
        MixtureForCausalLM.from_experts(models, WEIGHTS)


# ---------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("materialise", [False, True])
def test_a_saved_mixture_comes_back(tmp_path: Path, recipe: Path, pair: list[Any], materialise: bool) -> None:
    model = MixtureForCausalLM.from_recipe(recipe)
    assert torch.equal(logits_of(model), logits_of(MixtureForCausalLM.from_experts(pair, WEIGHTS)))
    model.generation_config.max_new_tokens = 7
    home = tmp_path / "saved"
    model.save_pretrained(home, materialise=materialise)
    weights = list(home.glob("*.safetensors"))
    assert bool(weights) == materialise
    back = AutoModelForCausalLM.from_pretrained(home)
    assert type(back) is MixtureForCausalLM and not back.training
    assert torch.equal(logits_of(back), logits_of(model))
    assert back.expert_1.lm_head.weight is back.expert_1.model.embed_tokens.weight  # tied
    assert back.expert_0.lm_head.weight is not back.expert_0.model.embed_tokens.weight
    assert torch.equal(back.expert_1.lm_head.weight, pair[1].lm_head.weight)
    assert back.generation_config.max_new_tokens == 7 and back.generation_config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(home)("word0 word1").input_ids == [4, 5]
    data = json.loads((home / "config.json").read_text())
    assert data["auto_map"]["AutoModelForCausalLM"] == "modeling_mixture.MixtureForCausalLM"
    if materialise:
        assert data["references"] == ["", ""] and not (home / "recipe.yml").exists()
        assert "experts0" not in (home / "config.json").read_text()
        # And once more, from a mixture that knows no folders.
        back.save_pretrained(tmp_path / "again", materialise=True)
        assert torch.equal(logits_of(MixtureForCausalLM.from_pretrained(tmp_path / "again")), logits_of(model))
        with pytest.raises(UserError, match="nothing to name"):
            back.save_pretrained(tmp_path / "no")
    else:
        assert sum(file.stat().st_size for file in home.iterdir()) < 60_000
        assert torch.equal(logits_of(MixtureForCausalLM.from_recipe(home / "recipe.yml")), logits_of(model))


@pytest.mark.parametrize("materialise", [False, True])
def test_dtype_attention_and_device_reach_the_experts(tmp_path: Path, recipe: Path, materialise: bool) -> None:
    MixtureForCausalLM.from_recipe(recipe).save_pretrained(tmp_path / "m", materialise=materialise)
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.bfloat16, attn_implementation="eager", device_map="cpu"
    )
    for expert in back.experts:
        assert {parameter.dtype for parameter in expert.parameters()} == {torch.bfloat16}
        assert expert.config._attn_implementation == expert.model.config._attn_implementation == "eager"
    assert logits_of(back).dtype == torch.float32
    plain = MixtureForCausalLM.from_pretrained(tmp_path / "m", dtype="float64", device_map="auto")
    assert logits_of(plain).dtype == torch.float64 and {expert.dtype for expert in plain.experts} == {torch.float64}
    plain.set_attn_implementation("eager")
    assert [expert.model.config._attn_implementation for expert in plain.experts] == ["eager", "eager"]


@pytest.mark.parametrize("materialise", [False, True])
def test_each_expert_keeps_a_dtype_of_its_own(tmp_path: Path, recipe: Path, materialise: bool) -> None:
    model = MixtureForCausalLM.from_recipe(recipe, dtype=["bfloat16", "float32"])
    model.save_pretrained(tmp_path / "m", materialise=materialise)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert [expert.dtype for expert in back.experts] == [torch.bfloat16, torch.float32]
    assert torch.equal(logits_of(back), logits_of(model))


def test_shared_tensors_are_written_for_each_expert(tmp_path: Path, pair: list[Any]) -> None:
    twin = tiny(2, "qwen2-tied")
    with torch.no_grad():
        twin.model.layers[1].mlp.up_proj.weight.mul_(2)
    models = [tiny(2, "qwen2-tied"), twin]
    model = MixtureForCausalLM.from_experts(models, WEIGHTS)
    expected = logits_of(model)
    assert model.saved_bytes > 0 and not torch.equal(logits_of(models[0]), logits_of(models[1]))
    model.save_pretrained(tmp_path, materialise=True, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(back), expected) and back.saved_bytes == model.saved_bytes


def test_the_stub_loads_where_modist_was_not_imported(tmp_path: Path, recipe: Path) -> None:
    """As lm_eval and TRL do it: nothing imported before, `trust_remote_code=True`."""
    model = MixtureForCausalLM.from_recipe(recipe)
    model.save_pretrained(tmp_path / "m", materialise=True)
    torch.save(logits_of(model), tmp_path / "expected.pt")
    code = f"""
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
assert not any(name.startswith("modist") for name in sys.modules)
config = AutoConfig.from_pretrained({str(tmp_path / "m")!r}, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "m")!r}, trust_remote_code=True)
found = model(torch.tensor({IDS.tolist()})).logits
assert torch.equal(found, torch.load({str(tmp_path / "expected.pt")!r}))
model.save_pretrained({str(tmp_path / "again")!r}, materialise=True)
"""
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "again").glob("*.py")) == ["modeling_mixture.py"]


def test_a_mixture_whose_experts_are_gone_says_which(tmp_path: Path, folders: list[Path], recipe: Path) -> None:
    MixtureForCausalLM.from_recipe(recipe).save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace(str(folders[1].resolve()), str(tmp_path / "gone")))
    with pytest.raises(ModistError, match="gone"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    data = json.loads(path.read_text()) | {"weights": [0.6, 0.6]}
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"sum to 1\.2"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")


def test_the_base_gives_the_tokenizer_for_good(tmp_path: Path, folders: list[Path]) -> None:
    """A base that is no expert, whose last id means something else: it stays the base through saving and loading."""
    base = add_tokenizer(tmp_path / "base", words=[f"word{n}" for n in range(155)] + ["<|im_end|>"])
    (base / "chat_template.jinja").write_text("{{ messages }}")
    experts = [{"source_model": folder} for folder in folders]
    written = write_recipe(tmp_path / "b.yml", {"base_model": base, "experts": experts, "weights": WEIGHTS})
    model = MixtureForCausalLM.from_recipe(written)
    assert int(model.vocabulary.shared.sum()) == 159 and not model.vocabulary.readable[:, 159].any()
    model.save_pretrained(tmp_path / "m")
    back = MixtureForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.equal(back.vocabulary.readable, model.vocabulary.readable)
    back.save_pretrained(tmp_path / "again", materialise=True)
    for home in (tmp_path / "m", tmp_path / "again"):
        tokenizer = AutoTokenizer.from_pretrained(home)
        assert tokenizer.convert_ids_to_tokens(159) == "<|im_end|>" and tokenizer.chat_template == "{{ messages }}"


def test_a_failing_expert_is_named(pair: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = MixtureForCausalLM.from_experts(pair, WEIGHTS, names=["one", "two"])
    monkeypatch.setattr(pair[1].model, "forward", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("lost the device")))
    with pytest.raises(RuntimeError, match="lost the device") as raised:
        model.generate(IDS, max_new_tokens=2)
    assert raised.value.__notes__ == ["while expert two ran on cpu"]


def test_a_mixture_is_no_expert(tmp_path: Path, folders: list[Path], recipe: Path) -> None:
    MixtureForCausalLM.from_recipe(recipe).save_pretrained(tmp_path / "m")
    experts = [{"source_model": tmp_path / "m"}, {"source_model": folders[0]}]
    nested = write_recipe(tmp_path / "nested.yml", {"experts": experts, "weights": WEIGHTS})
    with pytest.raises(UserError, match="itself a mixture"):
        MixtureForCausalLM.from_recipe(nested)
