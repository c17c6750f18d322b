"""Write a model or a run as a Hugging Face folder or a GGUF file that any loader reads, or upload it to a hub."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from skipwise.config import ModelConfig, RunConfig, read_yaml, validate
from skipwise.errors import SkipwiseError
from skipwise.evals import rows
from skipwise.export import legacy_fields, model_card, source_card
from skipwise.export.model_card import plain_card
from skipwise.models import agreement, checkpoint, configuration, gguf_header, sources
from skipwise.models.library_messages import one_line, quiet
from skipwise.rope import hf_config
from skipwise.runs.folder import model_of_run
from skipwise.utils.atomic_files import atomic_folder, write_text
from skipwise.utils.progress import say

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHARD_SIZE = "5GB"


def save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    *,
    window: int,
    dtype: torch.dtype,
    shard_size: str = SHARD_SIZE,
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a model and its tokenizer to `folder`, which appears whole or not at all.

    Args:
        model: Cast to `dtype` in place. Its head is written, and its configuration says whether it is tied.
        tokenizer: Gets `window` as its `model_max_length`.
        folder: The new folder.
        window: Tokens.
        dtype: How the weights are stored, in safetensors.
        shard_size: Weights beyond this size ("5GB", "500MB") are split into several files.
        also: Writes further files into the folder.

    Raises:
        SkipwiseError: Weights that are not finite, or that `dtype` cannot hold.
    """
    agreement.check_finite(model, str(folder), "nothing is written; train again with a lower training.learning_rate")
    agreement.check_range(model, dtype)
    agreement.settle_head(model)
    model.to(dtype)
    tokenizer.model_max_length = window
    with atomic_folder(folder) as partial, quiet():
        model.save_pretrained(partial, max_shard_size=shard_size)
        tokenizer.save_pretrained(partial)
        legacy_fields.mend_tokenizer(partial)
        if not legacy_fields.add_to_config(partial, model.config):
            say("config.json holds rope_parameters alone: this family would misread the fields of older loaders")
        also(partial)


class Origin:
    """What is exported: a model, and the run that made it where it is known."""

    def __init__(self, path: str, *, weights: bool = True) -> None:
        """Find a model and read its configuration.

        Args:
            path: A run folder, or whatever `skipwise eval` takes.
            weights: Whether its weights must be there and whole.

        Raises:
            SkipwiseError: No model, an incomplete one, or one that needs code from its repository.
        """
        self.source = sources.find(ModelConfig(path=str(model_of_run(path) or path)), weights=weights)
        at = Path(self.source.place).resolve()
        made = all((at.parent / name).is_file() for name in ("config.yaml", "environment.json"))
        self.run = at.parent if at.name in ("model", "adapter") and made else None
        try:
            self.config = configuration.read(self.source)
        except SkipwiseError as error:
            if "trust_remote_code" not in str(error):
                raise
            reason = "needs code from its own repository, which export and verify do not run"
            raise SkipwiseError(f"{path} {reason}") from error
        self.name = self.run.name if self.run else self.source.name

    def load(self, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model on the CPU with weights of `dtype`; an adapter is merged. Raises as `checkpoint.weights`."""
        return checkpoint.weights(self.source, self.config, "sdpa", dtype)

    def dtype(self, wanted: str | None) -> torch.dtype:
        """`wanted`, or else the one that the weights are stored in; bf16 for dequantised ones."""
        if wanted is not None:
            return DTYPES[wanted]
        stored = None if self.source.gguf else getattr(self.config, "dtype", None)
        return next((dtype for dtype in DTYPES.values() if dtype == stored), torch.bfloat16)

    def write_card(self, folder: Path) -> None:
        """README.md, and skipwise.yaml where a run is known."""
        if self.run:
            config = validate(RunConfig, read_yaml(self.run / "config.yaml"), str(self.run / "config.yaml"))
            environment = json.loads((self.run / "environment.json").read_text(encoding="utf-8"))
            return model_card.write_card(folder, config, environment, rows.read(self.run / "results.jsonl"))
        before = Path(self.source.place)
        if (before / "skipwise.yaml").is_file() and (before / "README.md").is_file():
            for name in ("skipwise.yaml", "README.md"):
                shutil.copyfile(before / name, folder / name)
            return None
        known = (
            hf_config.window(self.config),
            hf_config.true_original_length(self.config),
            hf_config.describe(self.config),
        )
        quantised = gguf_header.weight_type(self.source.root.file) if self.source.root.gguf else None
        described = source_card.facts(ModelConfig(path=self.source.place))
        return write_text(folder / "README.md", plain_card(self.name, *known, quantised, described))


def to_hf(path: str, out: Path, *, dtype: str | None = None, shard_size: str = SHARD_SIZE) -> Path:
    """Write a model or a run as a Hugging Face folder.

    Args:
        path: A run folder, or whatever `skipwise eval` takes.
        out: The new folder.
        dtype: A key of `DTYPES`; the stored one when absent.
        shard_size: Weights beyond this size ("5GB", "500MB") are split into several files.

    Returns:
        `out`.

    Raises:
        SkipwiseError: The model cannot be read, `out` is taken, or the size is none.
    """
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]I?B", shard_size.upper()):
        raise SkipwiseError(f"--shard-size {shard_size!r}: expected a size such as 5GB or 500MB")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SkipwiseError(f"{out} is there already; give another --out")
    origin = Origin(path)
    tokenizer = checkpoint.tokenizer(origin.source)
    text, window = origin.config.get_text_config(), hf_config.window(origin.config)
    if hf_config.parameters(text)["rope_type"] == "yarn":  # Qwen's leaves its original window there
        text.max_position_embeddings = window
    stored = origin.dtype(dtype)
    # float16 is reached from float32, so that what it cannot hold is seen.
    model = origin.load(torch.float32 if stored == torch.float16 else stored)
    size = shard_size.upper()
    save(model, tokenizer, out, window=window, dtype=stored, shard_size=size, also=origin.write_card)
    return out


def to_gguf(path: str, out: Path, *, dtype: str | None = None) -> Path:
    """Write a model or a run as a GGUF file.

    Args:
        path: A run folder, or whatever `skipwise eval` takes.
        out: The file, or a folder for a file named by model and dtype.
        dtype: A key of `gguf_writer.TYPES`; the stored one when absent.

    Returns:
        The file.

    Raises:
        SkipwiseError: As `to_hf`, and for what llama.cpp cannot compute, before any weight is read.
    """
    from skipwise.export import gguf_tokenizer, gguf_writer  # they need the gguf package, which training does not

    origin = Origin(path)
    stored = origin.dtype(None)
    kind = dtype or {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[stored]
    file = out if out.suffix == ".gguf" else out / f"{origin.name}-{kind}.gguf"
    if file.exists() or (out.exists() and file != out and not out.is_dir()):
        raise SkipwiseError(f"{file if file.exists() else out} is there already; give another --out")
    gguf_writer.check(origin.config)
    gguf_writer.scaling(origin.config)
    tokenizer = checkpoint.tokenizer(origin.source)
    gguf_tokenizer.vocabulary(tokenizer, origin.config.vocab_size)
    gguf_writer.write(origin.load(stored), tokenizer, file, name=origin.name, dtype=kind)
    return file


def push(folder: Path, repo: str) -> str:
    """Upload an exported folder to a hub. Its own settings count (HF_TOKEN, HF_ENDPOINT).

    Args:
        folder: The exported folder.
        repo: Name of the repository; a new one is private.

    Returns:
        The address of the repository.

    Raises:
        SkipwiseError: Whatever the hub's client raised, in one line.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        created = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Add the extended model")
    except Exception as error:  # the hub's client raises many kinds: no token, no network, a bad name …
        raise SkipwiseError(f"cannot push to {repo!r}: {one_line(error)}; {folder} is written") from error
    return str(created)
