"""Prompts with tokenizers that put special tokens around a text."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from skipwise.config import EvaluationConfig
from skipwise.evals.task import Inputs, special_prefix
from support.tiny import tiny_tokenizer


@pytest.mark.parametrize(
    ("template", "prefix"),
    [("$A", []), ("<s> $A", [0]), ("$A </s>", []), ("<s> $A </s>", [0]), ("<s> </s> $A </s> </s>", [0, 1])],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_prompt_ends_with_its_text(tmp_path: Path, template: str, prefix: list[int], named: bool) -> None:
    """Also where the tokenizer does not name the token it puts behind a text as its EOS."""
    plain = tiny_tokenizer(tmp_path)
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    names: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"} if named else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    assert special_prefix(tokenizer) == prefix
    text = "What is the pass key? The pass key is"
    assert Inputs(tokenizer, EvaluationConfig()).encode(text[:21], text[21:]) == prefix + plain(text)["input_ids"]
