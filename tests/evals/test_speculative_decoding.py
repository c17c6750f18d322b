"""Answers of many prompts: the same as decoding one by one, for less reading; readers that go back; attention."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Gemma3TextConfig, Qwen2Config

from skipwise.errors import SkipwiseError
from skipwise.evals import speculative_decoding
from skipwise.evals.document_losses import PerplexityVariant
from skipwise.evals.speculative_decoding import Prompt
from skipwise.evals.tasks import perplexity
from skipwise.models import causal_attention, forward, memory
from skipwise.models.chunked_reader import Reader, common_prefix
from skipwise.models.load import LoadedModel
from support.tiny import llama_config, tiny_model

LIMIT = 6


def never(i, new):
    return False


def prompts_of(small, *, seed=0, shared=(40, 90, 90, 130), each=3, spread=17, right=0.5):
    """Prompts that leave a common text at several places; some drafts are what the model would say, others are not."""
    generator = np.random.default_rng(seed)
    trunk = generator.integers(2, 400, size=200).tolist()
    found = []
    for at in shared:
        for _ in range(each):
            ids = trunk[:at] + generator.integers(2, 400, size=int(generator.integers(3, spread))).tolist()
            truth = plain(small, ids)
            draft = truth[: int(generator.integers(1, LIMIT))] if generator.random() < right else [*truth[:2], 7, 7]
            found.append(Prompt(ids, draft))
    return [found[i] for i in generator.permutation(len(found))]


def plain(small, ids):
    small(input_ids=torch.tensor([[1]]))  # dynamic RoPE remembers the longest text until it meets a short one
    out = small.generate(torch.tensor([ids]), max_new_tokens=LIMIT, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def model_of(kind, window=512):
    if kind == "llama":
        return tiny_model(llama_config(window=window))
    if kind == "qwen2 sliding":
        values = llama_config(window=window).to_dict()
        keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
        small = {key: values[key] for key in keys} | {"initializer_range": 0.2, "num_hidden_layers": 2}
        kinds = ["sliding_attention", "full_attention"]
        return tiny_model(Qwen2Config(**small, use_sliding_window=True, sliding_window=24, layer_types=kinds))
    if kind == "gemma3":
        return tiny_model(
            Gemma3TextConfig(
                **{"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
                **{"vocab_size": 512, "head_dim": 8, "num_hidden_layers": 2, "sliding_window": 16},
                layer_types=["sliding_attention", "full_attention"],
                initializer_range=0.3,
            )
        )
    scaling = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return tiny_model(llama_config(window=64, rope_parameters=scaling))


def found_by(small, prompts, ended=never, **settings):
    reader = Reader(small, **settings)
    return reader, dict(speculative_decoding.answer(reader, prompts, LIMIT, ended))


@pytest.mark.parametrize("kind", ["llama", "qwen2 sliding", "gemma3", "dynamic"])
@pytest.mark.parametrize("chunk", [32, 2048])
def test_answers_are_those_of_plain_generation(kind, chunk):
    small = model_of(kind)
    prompts = prompts_of(small)
    reader, found = found_by(small, prompts, chunk=chunk)
    assert found == {i: plain(small, prompt.ids) for i, prompt in enumerate(prompts)}
    assert (reader.whole, reader.maskless) == (kind == "dynamic", kind == "llama")


def test_rounding_to_bf16_is_not_taken_for_a_model_that_cannot_be_read_in_chunks():
    small = tiny_model(llama_config(window=512, layers=24, initializer_range=0.3)).to(torch.bfloat16)
    ids = torch.arange(3, 27)[None]
    cache = Reader(small).cache(1, 24)
    reader = Reader(small)
    whole = torch.cat([states for _, states in reader.read(ids)], dim=1)
    with reader.reading():
        parts = [states for part in ids.split(15, dim=1) for _, states in reader.read(part, cache)]
    gap = (whole - torch.cat(parts, dim=1)).abs().max()
    assert gap > 0.1 * whole.abs().max(), "rounding must be as large here as a mistake could be"
    assert (reader.whole, reader.maskless) == (False, True)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_other_attention_gives_the_same(kind):
    small = tiny_model(llama_config(window=512, attn_implementation=kind))
    prompts = prompts_of(small)
    assert found_by(small, prompts)[1] == {i: plain(small, prompt.ids) for i, prompt in enumerate(prompts)}
    assert small.config._attn_implementation == kind


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_tree_and_the_batches(seed):
    small = tiny_model(llama_config(window=512, layers=1, hidden=32))
    places = np.random.default_rng(seed).integers(1, 190, size=6)
    prompts = prompts_of(small, seed=seed, shared=places, each=4, spread=60)
    wanted = {i: plain(small, prompt.ids) for i, prompt in enumerate(prompts)}
    for chunk in (64, 256, 1000):
        assert found_by(small, prompts, chunk=chunk)[1] == wanted


def test_batches_are_used_and_change_nothing(monkeypatch):
    small = model_of("llama")
    prompts = prompts_of(small, right=0.3)
    sizes = []
    batch = speculative_decoding._batch
    monkeypatch.setattr(
        speculative_decoding, "_batch", lambda job, group, trunk: sizes.append(group) or batch(job, group, trunk)
    )
    together = found_by(small, prompts, chunk=2048)[1]
    assert max(len(group.members) for group in sizes) >= 3
    sizes.clear()
    assert found_by(small, prompts, chunk=1)[1] == together
    assert not sizes


def test_a_draft_is_believed_only_where_the_model_says_it():
    small = model_of("llama")
    ids = list(range(5, 60))
    truth = plain(small, ids)
    other = [(token + 1) % 400 for token in truth]
    for draft in ([], truth[:3], truth, truth[:2] + other[2:], other):
        assert found_by(small, [Prompt(ids, draft)])[1] == {0: truth}
        assert found_by(small, [Prompt(ids, draft)] * 3)[1] == dict.fromkeys(range(3), truth)


def test_an_answer_ends_where_it_is_said_to():
    small = model_of("llama")
    prompts = prompts_of(small)
    wanted = {i: plain(small, prompt.ids)[: 1 + i % 3] for i, prompt in enumerate(prompts)}
    assert found_by(small, prompts, lambda i, new: len(new) == 1 + i % 3)[1] == wanted


def test_shared_text_is_read_once():
    small = model_of("llama")
    trunk = list(range(2, 402))
    prompts = [Prompt([*trunk[:at], 401, 7, at % 50], []) for at in (100, 200, 300, 400)]
    read = []
    reader = Reader(small, chunk=16)
    dict(speculative_decoding.answer(reader, prompts, 1, never, read.append))
    assert sum(read) == speculative_decoding.tokens_to_read(reader, prompts) == 400 + 4 * 3


def test_memory_that_runs_out_halves_the_batch(monkeypatch, capsys):
    small = model_of("llama")
    # The long one must not make room for batches of the short ones.
    prompts = [*prompts_of(small, each=8), Prompt(list(range(2, 482)), [])]
    wanted = found_by(small, prompts)[1]
    batch = speculative_decoding._batch

    def tight(job, group, trunk):
        if len(group.members) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch(job, group, trunk)

    monkeypatch.setattr(speculative_decoding, "_batch", tight)
    assert found_by(small, prompts)[1] == wanted
    assert "out of memory with" in capsys.readouterr().err


def test_memory_that_never_suffices_is_told(monkeypatch):
    def full(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(speculative_decoding, "_single", full)
    small = model_of("llama")
    with pytest.raises(SkipwiseError, match="out of memory while reading a text; give shorter"):
        found_by(small, [Prompt([1, 2, 3], [])])


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(*args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(speculative_decoding, "_single", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        found_by(model_of("llama"), [Prompt([1, 2, 3], [])])


def test_reading_that_runs_out_of_memory_goes_on_in_smaller_chunks(monkeypatch, capsys):
    small, calls = model_of("llama"), []
    loaded = LoadedModel(small, None, "m", "m", 512, 512, "f", None)
    documents = [("a", np.random.default_rng(0).integers(2, 500, size=300))]
    reader = Reader(small, chunk=512)
    token_nll = Reader.token_nll

    def tight(self, *args, **kwargs):
        calls.append(self.chunk)
        if self.chunk > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return token_nll(self, *args, **kwargs)

    variant = PerplexityVariant("sliding", 64, 300)
    [wanted] = perplexity.measure(loaded, reader, documents, [(0, 100)], variant)
    monkeypatch.setattr(Reader, "token_nll", tight)
    [found] = perplexity.measure(loaded, reader, documents, [(0, 100)], variant)
    assert found.value == pytest.approx(wanted.value, rel=1e-5)
    assert calls[:3] == [512, 256, 128]
    assert "going on with chunks of 128 tokens" in capsys.readouterr().err


# The reader ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2 sliding", "gemma3", "dynamic"])
@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_give_the_losses_of_one_pass(kind, rows):
    small = model_of(kind)
    ids = torch.randint(2, 500, (rows, 150), generator=torch.Generator().manual_seed(1))
    wanted = forward.token_nll(small, ids)
    assert torch.allclose(torch.cat(list(Reader(small, chunk=48).token_nll(ids)), dim=1), wanted, rtol=1e-4, atol=1e-5)


def test_unscored_tokens_cost_no_logits():
    small = model_of("llama")
    ids = torch.randint(2, 500, (2, 90), generator=torch.Generator().manual_seed(1))
    wanted = forward.token_nll(small, ids)
    wanted[0, :-10] = 0
    wanted[1, :-25] = 0
    found = torch.cat(list(Reader(small, chunk=32).token_nll(ids, scored=[10, 25])), dim=1)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 3, 40, 13), (4, 4, 17, 17), (8, 2, 33, 1), (6, 1, 300, 128)])
def test_attention_without_a_mask_is_causal_attention(shape):
    heads, keys, past_and_own, count = shape
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, count, 16, generator=generator)
    key, value = (torch.randn(2, keys, past_and_own, 16, generator=generator) for _ in range(2))
    seen = torch.arange(past_and_own)[None] <= torch.arange(past_and_own - count, past_and_own)[:, None]
    key_all, value_all = (t.repeat_interleave(heads // keys, dim=1) for t in (key, value))
    wanted = F.scaled_dot_product_attention(query, key_all, value_all, attn_mask=seen, scale=0.3)
    found, _ = causal_attention.causal(torch.nn.Module(), query, key, value, None, scaling=0.3)
    assert torch.allclose(found, wanted.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [([], [1], 0), ([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3, 4], [1, 2, 9], 2), ([5], [6], 0), ([1, 2], [1, 2, 3], 2)],
)
def test_common_prefix(first, second, shared):
    assert common_prefix(first, second) == common_prefix(second, first) == shared


def test_a_chunk_bounds_memory():
    small = model_of("llama")
    whole, chunked = (memory.forward_bytes(small, 100_000, chunk=chunk) for chunk in (None, 1000))
    assert chunked < whole / 2
