"""What only a GPU can show, with models of a few kilobytes: `pytest -m gpu tests/gpu`.

They need pytest, torch, transformers, accelerate and PEFT only.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from skipwise.config import AdapterConfig, TrainingConfig
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.models.chunked_reader import Reader
from skipwise.models.forward import loss, token_nll
from skipwise.training import adapters
from skipwise.training.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SKIPPED = torch.cat([torch.arange(40), torch.arange(4000, 4024)])[None]


def model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=8192,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype).cuda()


def test_losses_equal_those_of_the_cpu() -> None:
    net, ids = model(), torch.randint(0, 512, (1, 64))
    on_gpu = token_nll(net, ids.cuda(), SKIPPED.cuda()).cpu()
    torch.testing.assert_close(on_gpu, token_nll(net.cpu(), ids, SKIPPED), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_second_chunk_sees_the_first(dtype: torch.dtype) -> None:
    net, ids = model(dtype), torch.randint(0, 512, (1, 64)).cuda()
    other = ids.clone()
    other[0, 3] = (other[0, 3] + 1) % 512
    first, second = (token_nll(net, each, SKIPPED.cuda()) for each in (ids, other))
    assert (first[0, 45:] != second[0, 45:]).any()


def test_the_training_loss_equals_that_of_transformers() -> None:
    net, ids = model().train(), torch.randint(0, 512, (2, 64)).cuda()
    torch.testing.assert_close(loss(net, ids, None, ids), net(ids, labels=ids).loss, rtol=1e-4, atol=1e-4)


def test_chunks_equal_one_pass() -> None:
    net, ids = model().eval(), torch.randint(0, 512, (1, 300)).cuda()
    pieces = torch.cat(list(Reader(net, chunk=64).token_nll(ids)), dim=1)
    torch.testing.assert_close(pieces, token_nll(net, ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"recompute_elementwise": True}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("method", ["none", "lora"])
def test_a_training_learns(method: str, settings: dict[str, bool], tmp_path: Path) -> None:
    net = model(torch.float32 if method == "none" else torch.bfloat16)
    if method == "lora":
        adapters.attach(net, AdapterConfig(method="lora", rank=4))
    documents = [np.arange(3, 500) for _ in range(4)]
    examples = SkippedPositions(documents, target_length=256, train_length=64, examples=40)
    held_out = {"skipped": SkippedPositions(documents, target_length=256, train_length=64, examples=2)}
    config = TrainingConfig(steps=20, batch_size=2, learning_rate=1e-2, warmup_steps=1, log_every=1, save_every=10)
    train(net, config.model_copy(update=settings), examples, held_out, folder=tmp_path, precision="bfloat16")
    rows = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"train"' in line]
    first, last = (float(line.split('"loss": ')[1].split(",")[0].rstrip("}")) for line in (rows[0], rows[-1]))
    assert last < 0.9 * first
