"""The small models of several families: Skipwise reads each as it was trained."""

from pathlib import Path

import pytest
import torch

from lab import families
from lab.bench import Bench
from skipwise.config import ModelConfig
from skipwise.models.load import load


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_a_saved_family_is_read_as_it_was_trained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-J is read as Phi and Baichuan 2 as Llama, with the logits of the model that was trained."""
    monkeypatch.setattr(families, "QUICK_STEPS", 2)
    monkeypatch.setattr(families, "tokens", lambda: (torch.arange(4000) * 7 % 4096).numpy().astype("uint16"))
    trained = []
    made = families.FAMILIES[name]
    monkeypatch.setitem(families.FAMILIES, name, lambda: trained.append(made()) or trained[0])
    folder = families.family(Bench(tmp_path, quick=True, seeds=1), name)
    ids = torch.arange(2, 66)[None] * 31 % 4096  # (1, T)
    with torch.no_grad():
        expected = trained[0].eval()(input_ids=ids).logits
        logits = load(ModelConfig(path=str(folder), precision="float32")).model(input_ids=ids).logits
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-4, rtol=1e-3)
    assert families.family(Bench(tmp_path, quick=True, seeds=1), name) == folder
    assert len(trained) == 1
