"""A script for a process of its own, where Skipwise cannot be imported: what plain transformers makes of a model.

It reads a request (JSON file: model, probes, prompts, new_tokens; of an adapter the base too, and how it is read) and
writes `facts.json` and `logits.npy` beside it.
"""

import importlib
import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any


class NoSkipwise(importlib.abc.MetaPathFinder):
    """Makes Skipwise unimportable, installed or not."""

    def find_spec(self, fullname: str, *rest: Any) -> None:
        """Raise `ImportError` for Skipwise and its parts."""
        if fullname.split(".")[0] == "skipwise":
            raise ImportError("Skipwise is not to be used here")


def answer(at: Path) -> None:
    """Answer the request in the file `at`: load the model, compute the probes' logits and the prompts' continuations.

    Probes hold `ids` and `positions`, each (T,) and of one length; logits.npy holds their logits (probe, T, V) in fp32.
    """
    request = json.loads(at.read_text(encoding="utf-8"))
    import numpy as np
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    place, options = request.get("base") or [request["model"], {}]
    if "base" in request and (Path(request["model"]) / "config.json").is_file():  # the RoPE of the adapter
        options["config"] = transformers.AutoConfig.from_pretrained(request["model"])
    load = transformers.AutoModelForCausalLM.from_pretrained
    model, report = load(place, dtype=torch.float32, output_loading_info=True, **options)
    if "base" in request:
        import peft

        model = peft.PeftModel.from_pretrained(model, request["model"]).merge_and_unload()
    model = model.to(device).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["model"])
    logits = []
    with torch.no_grad():
        for probe in request["probes"]:
            ids = torch.tensor([probe["ids"]], device=device)  # (1, T)
            positions = torch.tensor([probe["positions"]], device=device)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False)
            logits.append(output.logits[0].float().cpu().numpy())
    np.save(at.with_name("logits.npy"), np.stack(logits))
    # After the probe with the farthest positions, which is the last: some frequencies depend on them.
    frequencies = {
        name: buffer.float().cpu().tolist()
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and "original" not in name
    }
    # By layer type there is one for each; sliding layers keep theirs.
    names = ("attention_scaling", "full_attention_attention_scaling")
    attention = [getattr(module, name) for module in model.modules() for name in names if hasattr(module, name)]
    settings = {"max_new_tokens": request["new_tokens"], "do_sample": False}
    answers = []
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt], device=device)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        answers.append(made[0, len(prompt) :].tolist())
    text = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    facts = {
        "report": {kind: sorted(names) for kind, names in report.items()},
        "tied": None if head is None else head.weight is embedding.weight,
        "tie_word_embeddings": getattr(text, "tie_word_embeddings", False),
        "transformers": transformers.__version__,
        "rope_parameters": text.rope_parameters,
        "max_position_embeddings": text.max_position_embeddings,
        "model_max_length": tokenizer.model_max_length,
        "frequencies": frequencies,
        "attention_scaling": attention,
        "answers": answers,
    }
    at.with_name("facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    sys.meta_path.insert(0, NoSkipwise())
    try:
        importlib.import_module("skipwise")
    except ImportError:
        answer(Path(sys.argv[1]))
    else:
        sys.exit("Skipwise can be imported here")
