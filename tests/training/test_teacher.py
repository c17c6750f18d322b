"""The original model as a teacher: what it reads, when it teaches, and that the trained model is left as it was."""

import copy
from typing import Any

import pytest
import torch

from skipwise.config import AdapterConfig
from skipwise.data.labels import IGNORED
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.errors import SkipwiseError
from skipwise.models import load
from skipwise.models.forward import hidden_states, loss
from skipwise.training import adapters
from skipwise.training.teacher import Teacher
from skipwise.training.trainer import SkippedLoss
from support.tiny import llama_config, tiny_model

WINDOW, TARGET = 32, 256


def batch(**more: Any) -> dict[str, torch.Tensor]:
    documents = [torch.randint(2, 512, (400,), generator=torch.Generator().manual_seed(0)).numpy()]
    lengths = {"target_length": TARGET, "train_length": WINDOW}
    examples = SkippedPositions(documents, **lengths, examples=4, mark_taught=True, **more)
    return {name: torch.stack([examples[i][name] for i in range(4)]) for name in examples[0]}


def test_tokens_before_the_first_seam_are_taught() -> None:
    rows = batch(mask_seams=True)
    for taught, labels in zip(rows["taught"], rows["labels"], strict=True):
        seam = int((labels == IGNORED).nonzero()[0]) if (labels == IGNORED).any() else WINDOW
        assert taught.tolist() == [1] * seam + [0] * (WINDOW - seam)
    assert bool((batch(text="contiguous")["taught"] == 1).all())
    assert "taught" not in SkippedPositions([range(99)], target_length=TARGET, train_length=WINDOW)[0]


def test_an_unchanged_model_at_plain_positions_has_no_loss() -> None:
    model = tiny_model(llama_config(window=WINDOW))
    module = SkippedLoss(model, Teacher(copy.deepcopy(model), 1.0)).train()
    rows = batch(plain_share=1)
    value = module(**rows)["loss"]
    value.backward()
    assert float(value) == 0
    assert all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)
    assert float(module(**{**rows, **{"position_ids": batch()["position_ids"]}})["loss"]) > 1e-3, "skips are felt"


def test_untaught_tokens_and_validation_have_the_ordinary_loss() -> None:
    model = tiny_model(llama_config(window=WINDOW))
    module = SkippedLoss(model, Teacher(tiny_model(llama_config(window=WINDOW), seed=1), 0.7))
    rows = batch()
    ordinary = loss(model, rows["input_ids"], rows["position_ids"], rows["labels"])
    assert float(module.eval()(**rows)["loss"]) == float(ordinary)
    module.train()
    assert float(module(**rows)["loss"]) != float(ordinary)
    nothing = {**rows, "taught": torch.zeros_like(rows["taught"])}
    assert float(module(**nothing)["loss"]) == float(ordinary)
    rows.pop("taught")
    assert float(module(**rows)["loss"]) == float(ordinary)


def test_the_losses_of_parts_add_up() -> None:
    """Rows of a batch one by one, divided by all labels: recall documents have no taught tokens, text has."""
    model = tiny_model(llama_config(window=WINDOW))
    module = SkippedLoss(model, Teacher(tiny_model(llama_config(window=WINDOW), seed=1), 0.7)).train()
    rows = batch(text="contiguous")
    rows["taught"][1] = 0
    count = int((rows["labels"][:, 1:] != IGNORED).sum())
    parts = [module(**{k: v[i : i + 1] for k, v in rows.items()}, num_items_in_batch=count)["loss"] for i in range(4)]
    assert float(sum(parts)) == pytest.approx(float(module(**rows)["loss"]), rel=1e-5)


@pytest.mark.parametrize("also", [[], ["embeddings"], ["norms"]])
def test_the_base_of_adapters_teaches(also: list[str]) -> None:
    """Its adapters off and its RoPE plain, whatever was trained; and the trained model is what it was afterwards."""
    config = llama_config(window=WINDOW)
    original, model = tiny_model(config), tiny_model(config)
    plain = copy.deepcopy(model.config)
    load.apply(model, "yarn", target_length=TARGET)
    wrapped = adapters.attach(model, AdapterConfig(method="lora", rank=4, dropout=0.1, also_train=also))
    for weight in wrapped.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    rows = batch(text="contiguous")
    model.eval()
    before = hidden_states(model, rows["input_ids"], rows["position_ids"])
    model.train()
    teaching = Teacher(model, 1.0, plain=plain).teach(rows["input_ids"], rows["taught"])
    assert teaching is not None
    expected = hidden_states(original, rows["input_ids"]).flatten(0, 1)
    torch.testing.assert_close(teaching.hidden, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teaching.head(expected), original.lm_head(expected), rtol=1e-5, atol=1e-4)
    assert model.training
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == trainable
    model.eval()
    assert torch.equal(hidden_states(model, rows["input_ids"], rows["position_ids"]), before)


def test_a_scaling_that_changes_attention_cannot_be_taken_off() -> None:
    model = tiny_model(llama_config(window=WINDOW))
    model.config.rope_parameters["mscale_all_dim"] = 1.0
    with pytest.raises(SkipwiseError, match="with adapters: this model"):
        Teacher(model, 1.0, plain=llama_config(window=WINDOW))


def test_a_teacher_whose_weights_are_divided_reads_where_nothing_is_taught() -> None:
    """Else a process with recall documents alone would let the others wait for its part of each layer."""
    model, reads = tiny_model(llama_config(window=WINDOW)), []
    model.get_decoder().register_forward_hook(lambda *_: reads.append(1))
    teacher, rows = Teacher(model, 0.5), batch()
    nothing = torch.zeros_like(rows["taught"])
    for in_step in (False, True):
        teacher.in_step = in_step
        assert teacher.teach(rows["input_ids"], nothing) is None
        assert len(reads) == in_step
