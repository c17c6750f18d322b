"""The section `evaluation`, and one below it for each task."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from skipwise.config.presets import SUITES
from skipwise.config.stage import Stage
from skipwise.config.task_names import TaskName
from skipwise.config.values import Batch, Count, CountOrZero, Length, Seed, merge


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
    questions: list[Literal["title", "author", "first_line"]] = Field(
        default=["title", "author", "first_line"], min_length=1
    )
    """What is asked about a document, as far as its start tells it."""


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


class BabilongConfig(Stage):
    """Task `babilong`: reasoning over facts that are scattered in a long text."""

    kinds: list[Annotated[int, Field(ge=1, le=10)]] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    """bAbI's kinds: 1 to 3 supporting facts, 4 and 5 relations, 6 yes or no, 7 counting, 8 lists, 9 negation, 10
    indefinite knowledge."""
    samples: Count = 10
    """Prompts for each kind and length. BABILong's authors use 100."""
    examples: bool = True
    """Put the published worked examples into the prompt. They take 70 to 140 words."""
    filler: list[str] = ["python-reference"]
    """Prose between the facts (files, folders, `datasets` ids, packaged names, or `PATH::FIELD`), repeated where too
    short. BABILong's own are the books of PG-19."""


class LongPplConfig(Stage):
    """Task `longppl`: perplexity of the tokens that need the long context. Documents are those of perplexity."""

    evaluator: str | None = None
    """Model that says which tokens need the long context, with the tokenizer of the measured ones. When absent each
    model does so for itself, and the values of two models do not compare."""
    short_context: Annotated[Length, Field(ge=2)] | None = None
    """Tokens of the short context. When absent the paper's 4k, or a quarter of the longest length where that is
    less."""
    step: Length | None = None
    """Tokens that share one short context. When absent the paper's 1k, or a quarter of the short context where that is
    less."""
    gain: float = 2.0
    """Log-probability (nats) that the long context has to add; the paper's alpha."""
    log_probability: float = -2.0
    """Log-probability (nats) that a token has to have after the long context; the paper's beta."""


class MrcrConfig(Stage):
    """Task `mrcr`: the k-th of several answers to one request in a long conversation."""

    needles: list[Annotated[int, Field(ge=2, le=8)]] = [2, 4, 8]
    """How often the request is made, each a variant with rows of its own."""
    samples: Count = 8
    """Questions for each number of needles and length."""
    conversations: Count = 4
    """Different conversations at each length. Questions about one share the reading of it; intervals are over them."""
    sentences: Annotated[int, Field(ge=1, le=16)] = 3
    """Sentences of each text after its opening; more make longer answers."""


class NonLiteralConfig(Stage):
    """Task `non_literal`: needles that share no word with their question, and twins that do."""

    filler: list[str] = ["python-reference"]
    """Prose that hides the needles (files, folders, `datasets` ids, packaged names, or `PATH::FIELD`), repeated where
    too short."""


class PlacedConfig(Stage):
    """Task `placed`: short multiple-choice questions at several places of long filler, and without filler."""

    questions: str | None = None
    """A .jsonl file of multiple-choice questions, read as `harness` reads it (`evaluation.harness.question_field`,
    `choices_field`, `answer_field`). When absent, 24 plain questions that come with Skipwise."""
    limit: Count | None = None
    """The first so many questions. All when absent."""
    depths: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.5, 1.0]
    """Places of the question in the filler, from 0 (start) to 1 (end)."""
    answer: Literal["likelihood", "letter"] = "likelihood"
    """`likelihood`: the likeliest choice, which needs the weights; `letter`: the model writes the letter of a choice. A
    served model always writes the letter."""
    filler: list[str] = ["python-reference"]
    """Prose around the question (files, folders, `datasets` ids, packaged names, or `PATH::FIELD`), repeated where too
    short."""


class InstructionsConfig(Stage):
    """Task `instructions`: short instructions whose answers rules can check."""

    samples: Count = 10
    """Prompts of each of the fourteen kinds."""


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


class LongBenchV2Config(Stage):
    """Task `longbench_v2`: LongBench v2's multiple-choice questions about long texts."""

    data: str | None = None
    """LongBench v2's published file, data.json, or the same rows as .jsonl."""
    limit: Count | None = None
    """Questions, drawn by the seed. All when absent."""


class InfiniteBenchConfig(Stage):
    """Task `infinitebench`: InfiniteBench's tasks that a rule scores."""

    data: list[str] = []
    """InfiniteBench's published files, such as passkey.jsonl, or the folder that holds them."""
    limit: Count | None = 50
    """Examples of each file, drawn by the seed. The whole files when null."""


class HelmetConfig(Stage):
    """Task `helmet`: HELMET's tasks that a rule scores."""

    data: list[str] = []
    """HELMET's published test files, as `NAME=PATH` with HELMET's name of the dataset, such as
    `json_kv=data/json_kv/test_k50_dep6.jsonl`."""
    demos: list[str] = []
    """Files of solved examples for the datasets that take them, as `NAME=PATH`."""
    shots: CountOrZero = 2
    """Solved examples before each question, of the datasets that take them."""
    limit: Count | None = 100
    """Examples of each file, drawn by the seed. The whole files when null."""


class EvaluationConfig(Stage):
    """Evaluation, before and after training (docs/evaluation.md)."""

    suite: Literal["quick", "standard", "thorough"] | None = None
    """A set of tasks with their numbers of prompts: `quick` shows that nothing is broken, `standard` compares two
    models, `thorough` decides small differences. Its values are defaults: other settings replace them. Tasks that the
    lengths or a server cannot hold are left out."""
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
    documents: Count = 8
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
    babilong: BabilongConfig = BabilongConfig()
    longppl: LongPplConfig = LongPplConfig()
    mrcr: MrcrConfig = MrcrConfig()
    non_literal: NonLiteralConfig = NonLiteralConfig()
    placed: PlacedConfig = PlacedConfig()
    instructions: InstructionsConfig = InstructionsConfig()
    longbench_v2: LongBenchV2Config = LongBenchV2Config()
    infinitebench: InfiniteBenchConfig = InfiniteBenchConfig()
    helmet: HelmetConfig = HelmetConfig()
    seed: Seed = 0
    """Seed of prompts, keys and documents."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_suite(cls, values: Any) -> Any:
        """Put the values of the suite below those that are given."""
        suite = values.get("suite") if isinstance(values, dict) else None
        return merge(SUITES[suite], values) if isinstance(suite, str) and suite in SUITES else values
