"""A fact that docs/serving.md tells of lm-eval: its model for servers cuts long prompts without an error."""

from pathlib import Path

import pytest

from skipwise.utils.atomic_files import read_jsonl
from support.openai_server import serving
from support.tiny import tiny_llama, tiny_tokenizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra `harness`)")
pytest.importorskip("tenacity", reason="lm-eval's models for servers are not installed (lm-eval[api])")


def test_completions_are_cut_to_max_length_minus_max_gen_toks(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    folder = tiny_llama(tmp_path / "tiny", layers=1, window=1024)
    tiny_tokenizer(folder)
    with serving(folder, window=1024, log=str(tmp_path / "log.jsonl")) as address:
        model = LocalCompletionsAPI(
            model="tiny",
            base_url=f"{address}/completions",
            tokenizer=str(folder),
            tokenizer_backend="huggingface",
            max_length=201,
        )
        text = "The grass is green. " * 100
        model.generate_until([Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 50}), 0)])
    (sent,) = read_jsonl(tmp_path / "log.jsonl")
    prompt = sent["prompt"][0] if isinstance(sent["prompt"][0], list) else sent["prompt"]
    assert len(prompt) == 201 - 1 - 50
    assert len(model.tok_encode(text)) > 2 * len(prompt)
