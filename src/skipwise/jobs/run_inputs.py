"""What a run works with: its configuration with everything written out, its examples and its documents."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from skipwise.config import DEFAULT_TRAIN_LENGTH, RunConfig, merge, validate
from skipwise.config.task_names import READS_DOCUMENTS
from skipwise.data import token_store
from skipwise.data.conversation_store import ConversationStore
from skipwise.data.earlier_sources import EarlierSources, all_known
from skipwise.data.mix import Examples, Mixture, source_seed
from skipwise.data.recall_documents import Recall
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.data.streaming import AHEAD, StreamedPositions, TextStream
from skipwise.data.token_store import Spans
from skipwise.data.tokenising import leading_bos
from skipwise.errors import SkipwiseError
from skipwise.evals import suites
from skipwise.evals.runner import Document, default_lengths, load_documents
from skipwise.evals.task import Inputs
from skipwise.evals.tasks import passkey
from skipwise.jobs import conversation_inputs
from skipwise.models.device import arithmetic, device_of
from skipwise.positions.sampler import Sampler, sampler_from_config
from skipwise.positions.samplers import method
from skipwise.rope import hf_config
from skipwise.rope.methods import FAR
from skipwise.rope.scale import scale, sharpen
from skipwise.utils.progress import say
from skipwise.utils.text import count_text, length_text

MOST_DOCUMENTS = 64
"""Held-out texts that perplexity may choose from, the longest ones."""


def resolved_config(config: RunConfig, model: PreTrainedConfig) -> RunConfig:
    """Write out every setting of a run that depends on the model.

    Args:
        config: The settings as given.
        model: The model's configuration; its weights are not needed.

    Raises:
        SkipwiseError: For lengths that clash, and a scaling that the model cannot take or train under.
    """
    original = config.model.original_length or hf_config.true_original_length(model)
    target = config.target_length
    if target <= original:
        raise SkipwiseError(
            f"target_length {length_text(target)} is not beyond the model's own window of "
            f"{length_text(original)} tokens; "
            f"give a longer one, e.g. --target {4 * original}"
        )
    train_length = config.training.train_length or min(original, DEFAULT_TRAIN_LENGTH)
    if train_length < 2:
        raise SkipwiseError("training.train_length 1: an example of one token has nothing to predict; give 2 or more")
    if config.data.plain and method(config.positions.sampler).whole_target:
        raise SkipwiseError(
            f"data.plain {config.data.plain:g}: examples of positions.sampler={config.positions.sampler} have the "
            "target's length, plain ones the train length; choose another sampler, or data.plain=0"
        )
    if config.training.distill and method(config.positions.sampler).whole_target:
        raise SkipwiseError(
            f"training.distill {config.training.distill:g}: examples of positions.sampler={config.positions.sampler} "
            "are longer than the original model's window; choose another sampler, or training.distill=0"
        )
    if config.training.distill and train_length > original:
        raise SkipwiseError(
            f"training.distill {config.training.distill:g}: the original model teaches within its window of "
            f"{length_text(original)} tokens; lower training.train_length from {length_text(train_length)} to that, or "
            "give training.distill=0"
        )
    scaled = scale(model, config.scaling, target_length=target, original_length=config.model.original_length)
    if config.training.steps:
        hf_config.refuse_training(scaled)
        if "method" not in config.scaling.model_fields_set and target > FAR * original:
            say(f"beyond {FAR} windows scaling.method=critical is recommended before yarn: `skipwise inspect` says why")
        if config.training.sharpen != 1:
            sharpen(scaled, config.training.sharpen)
    precision = str(arithmetic(config.model.precision, device_of(config.model.device))).removeprefix("torch.")
    settings = {
        "model": {"original_length": original, "precision": precision},
        "training": {"train_length": train_length},
        "evaluation": {"lengths": config.evaluation.lengths or default_lengths(original, target)},
    }
    return validate(RunConfig, merge(config.model_dump(), settings))


@dataclass(frozen=True)
class RunTexts:
    """The text of a run: what is learned from, and what is held out at the end of the corpus."""

    examples: Examples
    """One for each place in each step."""
    validation: dict[str, Examples]
    """Held-out examples at `skipped` positions and at `plain` ones, as in inference."""
    held_out: list[Spans]
    """Of each corpus of text: one, or one for each source of a mixture; none where all sources are conversations."""
    learned: list[Spans | TextStream]
    """What is trained on of each corpus of text."""
    conversations: list[ConversationStore]
    """Stores of the conversations that are learned from."""

    def close(self) -> None:
        """Stop tokenising."""
        for corpus in self.learned:
            if isinstance(corpus, TextStream):
                corpus.close()

    def documents(self) -> list[Document]:
        """Return the longest held-out texts as (name, tokens), longest first."""
        every = [(int(spans.lengths[i]), spans, i) for spans in self.held_out for i in range(len(spans))]
        every.sort(key=lambda each: -each[0])
        return [(spans.name(i), spans[i]) for _, spans, i in every[:MOST_DOCUMENTS]]


def run_texts(config: RunConfig, tokenizer: Any) -> RunTexts:
    """Tokenise the texts of a run, or find them tokenised, and divide them.

    Args:
        config: The resolved configuration.
        tokenizer: The model's.

    Raises:
        SkipwiseError: For texts that cannot be read, and where none is long enough for an example.
    """
    training, data = config.training, config.data
    steps = training.steps * training.batch_size * training.gradient_accumulation
    if training.distill and config.positions.text == "skip" and "text" in method(config.positions.sampler).uses:
        say("training.distill teaches the tokens before a text seam; positions.text=contiguous has no seams")
    earlier = EarlierSources(data)
    mixed = [(path, weight) for path, weight in zip(data.paths, data.mix, strict=False) if weight]
    if not mixed:
        source = _source(config, data.paths, tokenizer, training.seed, steps, earlier)
        return _run_texts(source.examples, source.validation, [source])
    weights = [weight for _, weight in mixed]
    shares = [weight / sum(weights) for weight in weights]
    parts = [
        _source(config, [path], tokenizer, source_seed(training.seed, number), round(steps * share), earlier)
        for number, ((path, _), share) in enumerate(zip(mixed, shares, strict=True))
    ]

    def mixture(sources: list[Examples], examples: int) -> Examples:
        marked = bool(training.distill)
        return Mixture(sources, weights, examples=examples, seed=training.seed, mark_taught=marked)

    validation = {
        name: mixture([part.validation[name] for part in parts], training.validation_examples)
        for name in parts[0].validation
    }
    examples = mixture([part.examples for part in parts], max(steps, 1))
    return _run_texts(examples, validation, parts)


def _run_texts(examples: Examples, validation: dict[str, Examples], parts: list["_Source"]) -> RunTexts:
    held_out = [spans for part in parts for spans in part.held_out]
    learned = [text for part in parts for text in part.learned]
    return RunTexts(examples, validation, held_out, learned, [store for part in parts for store in part.conversations])


class _Source(NamedTuple):
    """The examples of one corpus, those of its held-out part, and what they are made of."""

    examples: Examples
    validation: dict[str, Examples]
    held_out: list[Spans]
    learned: list[Spans | TextStream]
    conversations: list[ConversationStore]


def _source(
    config: RunConfig, paths: list[str], tokenizer: Any, seed: int, expected: int, earlier: EarlierSources
) -> _Source:
    """Open one corpus and divide it.

    Texts and conversations that no weights are given for are met as often as they fill examples.

    Args:
        config: The resolved configuration.
        paths: The texts and conversations of this corpus.
        tokenizer: The model's.
        seed: Of its positions and its order.
        expected: Examples that the training takes from it, over a share of which the target of `curriculum` grows.
        earlier: What the sources before hold.
    """
    training, data = config.training, config.data
    assert training.train_length is not None
    sampler = sampler_from_config(
        config.positions,
        train_length=training.train_length,
        target_length=config.target_length,
        seed=seed,
        examples=expected,
    )
    count = max(training.steps * training.batch_size * training.gradient_accumulation, 1)
    texts, chats = conversation_inputs.divided(data, paths)
    if not chats:
        return _text_source(config, texts, tokenizer, sampler, count, earlier)
    if texts and data.streaming:
        raise SkipwiseError(
            "data.streaming with texts and conversations needs their weights, because the number of texts is not known "
            "before; give data.mix, such as [3, 1]"
        )
    if data.streaming:
        say("data.streaming: conversations are tokenised whole first")
    chat = conversation_inputs.open_examples(config, chats, tokenizer, sampler, count, earlier)
    if not texts:
        if training.distill:
            say(f"training.distill teaches ordinary text alone: nothing of {', '.join(chat.name for chat in chats)}")
        return _Source(chat.examples, dict(chat.validation), [], [], [chat.store])
    text = _text_source(config, texts, tokenizer, sampler, count, earlier)
    assert isinstance(text.examples, SkippedPositions)
    weights = [text.examples.per_epoch, chat.examples.per_epoch]
    validation: dict[str, Examples] = {
        name: Mixture([text.validation[name], each], weights, examples=training.validation_examples, seed=seed)
        for name, each in chat.validation.items()
    }
    marked = bool(training.distill)
    examples = Mixture([text.examples, chat.examples], weights, examples=count, seed=seed, mark_taught=marked)
    return _Source(examples, validation, text.held_out, text.learned, [chat.store])


def _text_source(
    config: RunConfig, paths: list[str], tokenizer: Any, sampler: Sampler, count: int, earlier: EarlierSources
) -> _Source:
    """Open the texts of one corpus and divide them. `count`: examples of the whole training."""
    training, data = config.training, config.data
    if sampler.final.name == "skipalign":
        say("positions.sampler=skipalign: text has no turns, so its chunks begin anywhere, as those of pose")
    bos = leading_bos(tokenizer)
    recall = Recall(tokenizer) if data.recall else None
    if recall:
        recall.check(sampler.example_length)
    options: dict[str, Any] = {
        "sampler": sampler,
        "bos": bos,
        "mask_seams": training.mask_seams,
        "examples": count,
        "recall": recall,
        "recall_share": data.recall,
        "plain_share": data.plain,
        "mark_taught": bool(training.distill),
    }
    learned: Spans | TextStream
    if data.streaming:
        learned = stream = _stream(config, paths, tokenizer, sampler)
        examples: Examples = StreamedPositions(stream, **options)
        held_out = stream.held_out
    else:
        learned, held_out = _stored(config, paths, tokenizer, sampler, earlier)
        examples = SkippedPositions(learned, **options)

    def validation(positions: Sampler) -> Examples:
        return SkippedPositions(
            held_out,
            sampler=positions,
            bos=bos,
            mask_seams=training.mask_seams,
            examples=training.validation_examples,
        )

    plain = dataclasses.replace(sampler, name="original")
    return _Source(
        examples, {"skipped": validation(sampler.final), "plain": validation(plain)}, [held_out], [learned], []
    )


def _least(config: RunConfig, sampler: Sampler) -> tuple[int, str]:
    """Tokens that a document must have, and which setting asks for them."""
    minimum = config.data.minimum_tokens or 0
    if minimum > sampler.document_length:
        return minimum, "data.minimum_tokens"
    least = sampler.document_length
    return least, "training.train_length" if least == sampler.train_length else "target_length"


def _stored(
    config: RunConfig, paths: list[str], tokenizer: Any, sampler: Sampler, earlier: EarlierSources
) -> tuple[Spans, Spans]:
    """Tokenise a whole corpus, or find it tokenised. Returns what is trained on, and what is held out."""
    data = config.data
    store = token_store.open_store(data.model_copy(update={"paths": paths}), tokenizer)
    least, setting = _least(config, sampler)
    fresh = earlier.fresh(store, token_store.usable(store, least, setting=setting))
    usable = fresh.indices
    if not len(usable):
        raise all_known(paths[0])
    short = token_store.left_out(store, least)
    say(
        f"{', '.join(paths) if data.mix else 'text'}: {len(usable):,} documents, "
        f"{int(store.lengths[usable].sum()):,} tokens; left out {short.documents:,} "
        f"shorter than {length_text(least)} tokens ({short.tokens:,} tokens){store.duplicates_text}{fresh.text}"
    )
    learned, held_out = token_store.split(store, usable, data.validation, sampler.document_length)
    return Spans(store, learned), Spans(store, held_out)


def _stream(config: RunConfig, paths: list[str], tokenizer: Any, sampler: Sampler) -> TextStream:
    """Tokenise the beginning of a corpus, and go on while it is read."""
    training, data = config.training, config.data
    least, setting = _least(config, sampler)
    stream = TextStream(
        data.model_copy(update={"paths": paths}),
        tokenizer,
        document_length=least,
        example_length=sampler.example_length,
        hold_out=training.validation_examples * sampler.example_length,
        ahead=max(AHEAD, 2 * training.batch_size * training.gradient_accumulation),
        setting=setting,
    )
    held = stream.held_out
    say(
        f"{', '.join(paths) if data.mix else 'text'}: tokenised while training goes on; held out: "
        f"{count_text(len(held), 'document')} at its start, {int(held.lengths.sum()):,} tokens"
    )
    return stream


def evaluation_documents(
    config: RunConfig, tokenizer: Any, texts: RunTexts | None, *, lengths_given: bool
) -> tuple[RunConfig, list[Document]]:
    """Choose the documents for perplexity: those that the configuration names, or held-out text.

    Args:
        config: The resolved configuration.
        tokenizer: The model's.
        texts: Of the run; None for a run that only scales.
        lengths_given: Whether the user chose the lengths. Default lengths that no document reaches are left out.

    Returns:
        The configuration, with lengths that the documents reach, and the documents as (name, tokens).

    Raises:
        SkipwiseError: Where the documents do not reach the lengths.
    """
    assert config.evaluation.lengths is not None
    models = [(Inputs(tokenizer, config.evaluation), None)]
    fitted = suites.fitted(config.evaluation, config.evaluation.lengths, models, own_text=texts is not None)
    config = config.model_copy(update={"evaluation": fitted})
    evaluation = config.evaluation
    assert evaluation.lengths is not None
    reading = next((name for name in evaluation.tasks if name in READS_DOCUMENTS), None)
    if evaluation.data and reading:
        limit = evaluation.documents
        return config, load_documents(evaluation.data, tokenizer, minimum=max(evaluation.lengths), limit=limit)
    if texts is None or not texts.held_out:
        if reading:
            raise SkipwiseError(f"{reading} needs documents: name some with evaluation.data, or choose other tasks")
        return config, []
    documents = texts.documents()
    longest = len(documents[0][1])
    reached = [length for length in evaluation.lengths if length <= longest]
    if len(reached) == len(evaluation.lengths) or not reading:
        return config, documents
    reason = f"{reading}: the longest held-out text has {longest:,} tokens"
    if lengths_given or not reached:
        raise SkipwiseError(
            f"{reason}, evaluation.lengths go up to {max(evaluation.lengths):,}; name longer documents with "
            "evaluation.data"
        )
    say(f"{reason}, so it is measured up to {max(reached):,}; name longer documents with evaluation.data")
    minimum = passkey.minimum_length(Inputs(tokenizer, evaluation))
    settings = {
        "lengths": reached,
        "retrieval_lengths": evaluation.retrieval_lengths or [n for n in evaluation.lengths if n >= minimum],
    }
    return validate(RunConfig, merge(config.model_dump(), {"evaluation": settings})), documents
