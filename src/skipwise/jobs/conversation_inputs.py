"""The conversations that a run learns from: which of its paths hold them, and the examples made of them."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from skipwise.config import DataConfig, RunConfig
from skipwise.data.conversation_sources import conversation_sources
from skipwise.data.conversation_store import ConversationStore, fitted, open_conversations
from skipwise.data.earlier_sources import EarlierSources, all_known
from skipwise.data.packed_conversations import PackedConversations, split_conversations
from skipwise.data.text_sources import TextSource
from skipwise.positions.sampler import Sampler
from skipwise.utils.progress import say
from skipwise.utils.text import length_text


class Conversations(NamedTuple):
    """The examples of some sources of conversations, those of the ones held out, and the store of both."""

    examples: PackedConversations
    validation: dict[str, PackedConversations]
    store: ConversationStore


def divided(data: DataConfig, paths: list[str]) -> tuple[list[str], list[TextSource]]:
    """Tell paths of text from those of conversations.

    Args:
        data: Names the field with the text, the split and what is left out.
        paths: Some of `data.paths`.

    Returns:
        The paths of text, and the sources of conversations.

    Raises:
        SkipwiseError: A path cannot be read, or a folder holds both.
    """
    texts, chats = list[str](), list[TextSource]()
    for path in paths:
        sources = conversation_sources(path, exclude=data.exclude, field=data.field, split=data.split)
        chats += sources
        if not sources:
            texts.append(path)
    return texts, chats


def open_examples(
    config: RunConfig,
    sources: list[TextSource],
    tokenizer: Any,
    sampler: Sampler,
    examples: int,
    earlier: EarlierSources,
) -> Conversations:
    """Tokenise conversations, or find them tokenised, and divide them.

    Args:
        config: The resolved configuration.
        sources: Sources of conversations.
        tokenizer: The model's.
        sampler: Lays out positions.
        examples: Length of the training's dataset.
        earlier: What the sources before hold.

    Raises:
        SkipwiseError: A row cannot be learned from, or too few conversations fit into an example.
    """
    for source in sources:
        say(f"{source.name}: its rows are read as conversations (field {source.chat!r})")
    store = open_conversations(config.data, sources, tokenizer)
    fit = fitted(store, sampler.example_length)
    fresh = earlier.fresh(store, fit.indices)
    if not len(fresh.indices):
        raise all_known(sources[0].name)
    fit = fit._replace(indices=fresh.indices, lengths=fit.lengths[np.isin(fit.indices, fresh.indices)])
    learned, held_out = split_conversations(fit, config.data.validation)
    pad = next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)
    made = PackedConversations(
        store, sampler=sampler, conversations=learned, pad=pad, examples=examples, plain_share=config.data.plain
    )
    full = made.tokens_per_epoch / (made.per_epoch * made.example_length)
    size = length_text(made.example_length)
    say(
        f"conversations: {len(fit.indices):,}, {int(fit.lengths.sum()):,} tokens, in rows of {size} tokens, {full:.0%} "
        f"full; cut behind an answer that fits: {fit.cut:,}; left out, with a first answer that does not: "
        f"{fit.left_out:,}{store.duplicates_text}{fresh.text}"
    )

    def validation(positions: Sampler) -> PackedConversations:
        count = config.training.validation_examples
        return PackedConversations(store, sampler=positions, conversations=held_out, pad=pad, examples=count)

    plain = dataclasses.replace(sampler, name="original")
    return Conversations(made, {"skipped": validation(sampler.final), "plain": validation(plain)}, store)
