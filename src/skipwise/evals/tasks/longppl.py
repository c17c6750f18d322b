"""LongPPL (arXiv 2410.23771): perplexity of the tokens that need the long context, beside plain perplexity.

A token is a key token if an evaluator model finds it much more likely after the whole text than after a short part of
it (log P(long) - log P(short) > `gain`, the paper's α, equation 5), and likely after the whole text (log P(long) >
`log_probability`, β, equation 6). LongPPL is the perplexity of a model over these tokens (equation 7). Thresholds and
lengths are those of the published code (https://github.com/PKU-ML/LongPPL): 2, -2, a short context of 4,096 tokens
that 1,024 tokens share.

A model's values compare with another's only where one evaluator chose the tokens of both; rows of several evaluators
are never paired. docs/evaluation.md lists what differs from the published code.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from skipwise.config import EvaluationConfig, LongPplConfig, ModelConfig
from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals import intervals
from skipwise.evals.division import Piece
from skipwise.evals.document_losses import Document, PerplexityVariant, read_document, windows
from skipwise.evals.intervals import Losses
from skipwise.evals.rows import Row, digest_of
from skipwise.evals.served.perplexity import EXTRA_TOKENS, PromptLosses
from skipwise.evals.served.session import ServedSession
from skipwise.evals.session import AnswerSession, Session
from skipwise.evals.task import CustomTask, LocalPlan, TaskPlan
from skipwise.evals.tasks import perplexity
from skipwise.models import checkpoint, configuration, sources
from skipwise.models.chunked_reader import Reader
from skipwise.models.device import arithmetic, device_of
from skipwise.models.load import load
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text, value_text

VERSION = 1
SHORT_CONTEXT = 4096
STEP = 1024
VARIANTS = ("key", "all")
"""Rows of one length: over the key tokens (LongPPL), and over all tokens of the same texts."""

Mask = npt.NDArray[np.bool_]


class KeyRule(NamedTuple):
    """Which tokens are key tokens."""

    short: int
    """Tokens of the short context, BOS included."""
    step: int
    """Tokens that share one."""
    gain: float
    log_probability: float

    def keys(self, long: Losses, short: Losses) -> Mask:
        """Judge tokens by their losses (nats) after the whole text and after the short context, both (T,)."""
        mask: Mask = (short - long > self.gain) & (-long > self.log_probability)
        return mask


def rule(settings: LongPplConfig, longest: int) -> KeyRule:
    """The rule of some settings; its lengths are a quarter of the longest length, or of the short context, at most.

    Args:
        settings: Of the task.
        longest: The longest length that is measured, tokens.

    Raises:
        SkipwiseError: The short context or the step does not fit.
    """
    short = settings.short_context or max(min(SHORT_CONTEXT, longest // 4), 2)
    step = settings.step or max(min(STEP, short // 4), 1)
    if short + step >= longest:
        raise SkipwiseError(
            f"evaluation.longppl: a short context of {length_text(short)} tokens and a step of {length_text(step)} "
            f"leave no token of {length_text(longest)} tokens to judge; give longer evaluation.lengths or a shorter "
            "evaluation.longppl.short_context"
        )
    return KeyRule(short, step, settings.gain, settings.log_probability)


class LossReader:
    """The losses of one model in this process.

    Args:
        reader: The model.
        documents: (name, tokens without BOS).
        bos: BOS token before every document and short context; None for none.
    """

    def __init__(self, reader: Reader, documents: Sequence[Document], bos: int | None) -> None:
        self._reader, self._documents, self._bos = reader, documents, bos
        self.apart = hf_config.changes_with_length(reader.model.config)
        """Whether a token's loss depends on the length of what is read."""

    def tokens(self, lengths: Sequence[int], rule: KeyRule | None) -> int:
        """Tokens that `long` at some lengths, and `short` with a rule at the longest, will read."""
        read = sum(lengths) if self.apart else max(lengths)
        if rule is not None:
            read += sum(stop - start for start, stop, _ in windows(max(lengths), rule.short + rule.step, rule.step))
        return read * len(self._documents)

    def long(self, lengths: Sequence[int], advance: Callable[[int], None]) -> dict[int, list[Losses]]:
        """For each length the losses of each document's tokens given all before them, from the second token on.

        There are length - 1 of them or, where one reading serves all lengths, as many as for the longest.
        """
        variant = PerplexityVariant("prefix", bos_id=self._bos)
        if self.apart:
            return {length: self._losses(variant, length, advance) for length in lengths}
        return dict.fromkeys(lengths, self._losses(variant, max(lengths), advance))

    def short(self, length: int, rule: KeyRule, advance: Callable[[int], None]) -> list[Losses]:
        """Losses of the same tokens given a short context of `rule.short` to `rule.short + rule.step - 1` tokens."""
        variant = PerplexityVariant("sliding", rule.step, length, self._bos)
        return self._losses(variant, rule.short + rule.step, advance)

    def _losses(self, variant: PerplexityVariant, length: int, advance: Callable[[int], None]) -> list[Losses]:
        return [read_document(self._reader, one, length, variant, advance).losses for one in self._documents]


class ServedLossReader(LossReader):
    """The losses of a served model, where its server gives the log-probabilities of a prompt's tokens.

    Args:
        session: The server.
        documents: (name, tokens without BOS).
        bos: BOS token before every document and short context; None for none.
    """

    def __init__(self, session: ServedSession, documents: Sequence[Document], bos: int | None) -> None:
        self._documents, self._bos, self._source = documents, bos, PromptLosses(session, documents)
        config = session.deployment.config
        self.apart = config is None or hf_config.changes_with_length(config)

    @functools.cached_property
    def _way(self) -> Any:
        """How this server is asked. Errors: SkipwiseError for one that gives no log-probabilities."""
        return self._source.way()

    def _losses(self, variant: PerplexityVariant, length: int, advance: Callable[[int], None]) -> list[Losses]:
        return self._source.losses(self._source.requests(variant, length), self._way, advance)


class Evaluator(NamedTuple):
    """The model that says which tokens are key tokens."""

    path: str
    fingerprint: str
    dtype: str
    """Type of its numbers, which decides for tokens near a threshold; `served` behind a server."""


def find_evaluator(settings: LongPplConfig, dtype: str) -> Evaluator | None:
    """Find the evaluator that the settings name, without its weights; None for "each model for itself".

    Args:
        settings: Of the task.
        dtype: Type that its numbers will have: that of the measured model.

    Raises:
        SkipwiseError: There is no such model.
    """
    if settings.evaluator is None:
        return None
    inside = Path(settings.evaluator).expanduser() / "model"
    path = str(inside) if (inside / "config.json").is_file() else settings.evaluator
    source = sources.find(ModelConfig(path=path))
    return Evaluator(path, checkpoint.fingerprint(source, configuration.read(source)), dtype)


def headers(
    documents: Sequence[Document], length: int, variant: PerplexityVariant, rule: KeyRule, evaluator: Evaluator
) -> dict[str, Row]:
    """Make the rows of a length without figures; no row for key tokens where the short context holds all.

    Their `data` is a digest of texts, evaluator and rule, so that other key tokens never pass for these.
    """
    text = perplexity.header(documents, 0, length, variant._replace(name="prefix"))
    parts = [text.data, evaluator.fingerprint, evaluator.dtype, str(rule.gain), str(rule.log_probability)]
    head = text.replace(
        task="longppl",
        task_version=VERSION,
        span=rule.short,
        stride=rule.step,
        start=None,
        evaluator=evaluator.path,
        data=digest_of(parts),
    )
    names = VARIANTS if length > rule.short + rule.step else VARIANTS[1:]
    return {name: head.replace(variant=name) for name in names}


def row_of(head: Row, losses: Sequence[Losses], keys: Sequence[Mask], seconds: float) -> Row | None:
    """The row of a header with its figures; None where it has no token.

    Args:
        head: The header.
        losses: Loss (nats) of each token of each document, from its second on.
        keys: Which of them are key tokens.
        seconds: What reading took.
    """
    assert head.length is not None
    count = head.length - 1
    scored = [part[:count] for part in losses]
    if head.variant == "key":
        scored = [part[mask[:count]] for part, mask in zip(scored, keys, strict=True)]
        if len(scored) > 1:  # a document without key tokens says nothing
            scored = [part for part in scored if len(part)]
    if not sum(map(len, scored)):
        return None
    units = intervals.units(scored)
    interval = intervals.perplexity_interval(units) if len(scored) == len(losses) or len(scored) > 1 else intervals.NONE
    # Blocks of a few key tokens, far from each other, say nothing about the texts that were read.
    blocks = [intervals.document_blocks(part) for part in scored] if len(scored) > 1 and head.variant == "all" else []
    return head.replace(
        value=intervals.perplexity(scored),
        low=interval.low,
        high=interval.high,
        interval=interval.name,
        tokens=sum(map(len, scored)),
        seconds=round(seconds, 3),
        sums=[round(value, 4) for value in units.sums.tolist()],
        counts=units.counts.tolist(),
        block_sums=[[round(value, 4) for value in part.sums.tolist()] for part in blocks],
        block_counts=[part.counts.tolist() for part in blocks],
    )


class _Measured(NamedTuple):
    """What one length gave: losses and key tokens of each document."""

    length: int
    losses: list[Losses]
    keys: list[Mask]
    seconds: float


class _LongPplPlan:
    """The rows of one model: LongPPL and plain perplexity at each length."""

    def __init__(self, session: AnswerSession, lengths: list[int], itself: Evaluator, beyond: int) -> None:
        self._session, settings = session, session.inputs.settings.longppl
        self._documents, variant = perplexity.choose(session.inputs, session.documents, lengths)
        self._variant, self._lengths, self.longest = variant, lengths, max(lengths) + beyond
        self._rule = rule(settings, max(lengths))
        self._dtype = _dtype(session)
        named = find_evaluator(settings, str(self._dtype))
        self._evaluator = itself if named is None or named.fingerprint == itself.fingerprint else named
        self._other = self._evaluator is not itself

    def rows(self) -> list[Row]:
        """The finished rows, and those that are missing, measured. Lengths without key tokens have no such row."""
        session = self._session
        heads = {
            (length, name): session.of_model(head)
            for length in self._lengths
            for name, head in self._headers(length).items()
        }
        rows = {place: row for place, head in heads.items() if (row := session.finished(head))}
        missing = sorted({length for length, name in heads if (length, name) not in rows})
        if missing:
            mine = self._loss_reader()
            for part in self._measure(mine, missing):
                for place in [place for place in heads if place[0] == part.length]:
                    row = row_of(heads[place], part.losses, part.keys, part.seconds)
                    if row is None:
                        progress.say(
                            f"{session.label}: longppl at {length_text(part.length)}: no token needs the long context, "
                            "so there is no value"
                        )
                    elif place not in rows:
                        rows[place] = session.append(row.replace(beyond_window=part.length > session.window))
                        progress.say(self._summary(rows[place]))
        return [rows[place] for place in heads if place in rows]

    def pieces(self, processes: int) -> list[Piece]:
        """One: the key tokens of all documents and lengths come from the same readings."""
        return [Piece(self.longest, self.rows)]

    def _loss_reader(self) -> LossReader:
        """Reads with the measured model."""
        session, bos = self._session, self._variant.bos_id
        if isinstance(session, ServedSession):
            return ServedLossReader(session, self._documents, bos)
        assert isinstance(session, Session)
        return LossReader(session.reader, self._documents, bos)

    def _headers(self, length: int) -> dict[str, Row]:
        return headers(self._documents, length, self._variant, self._rule, self._evaluator)

    def _summary(self, row: Row) -> str:
        value = value_text(row.metric, row.value)
        return f"{self._session.label}: longppl at {length_text(row.length)}, {row.variant} tokens: {value}"

    def _measure(self, mine: LossReader, lengths: list[int]) -> Iterator[_Measured]:
        session = self._session
        judge = self._load_evaluator() if self._other else mine
        total = judge.tokens(lengths, self._rule) + (mine.tokens(lengths, None) if self._other else 0)
        with progress.bar(f"{session.label}: longppl", total=total, unit="tok") as bar:
            started = time.monotonic()
            short = judge.short(max(lengths), self._rule, bar.advance)
            judged = judge.long(lengths, bar.advance)
            if self._other:
                del judge  # its weights
            read = mine.long(lengths, bar.advance) if self._other else judged
            seconds = time.monotonic() - started
        for length in lengths:
            pairs = zip(judged[length], short, strict=True)
            keys = [self._rule.keys(long[: length - 1], part[: length - 1]) for long, part in pairs]
            yield _Measured(length, read[length], keys, seconds)

    def _load_evaluator(self) -> LossReader:
        """The evaluator with its weights. Errors: SkipwiseError for one with another tokenizer."""
        session = self._session
        loaded = load(ModelConfig(path=self._evaluator.path), dtype=self._dtype)
        if loaded.tokenizer.get_vocab() != session.inputs.tokenizer.get_vocab():
            raise SkipwiseError(
                f"evaluation.longppl.evaluator: {self._evaluator.path} has another tokenizer than {session.label}; key "
                "tokens are compared token by token, so name an evaluator of the same family"
            )
        return LossReader(Reader(loaded.model), self._documents, self._variant.bos_id)


def check(settings: EvaluationConfig) -> None:
    """Refuse what can be refused without a model.

    Raises:
        SkipwiseError: A file of documents or the evaluator is missing.
    """
    if settings.data:  # a run without documents of its own takes text that is held out of the training
        text_sources.sources(settings.data)
    find_evaluator(settings.longppl, "")


def _dtype(session: AnswerSession) -> torch.dtype:
    """Type of the numbers of an evaluator: that of the measured model; behind a server, the default here."""
    return session.loaded.model.dtype if isinstance(session, Session) else arithmetic("auto", device_of("auto"))


def _plan(session: Session, lengths: list[int]) -> LocalPlan:
    loaded = session.loaded
    return _LongPplPlan(session, lengths, Evaluator(loaded.path, loaded.fingerprint, str(loaded.model.dtype)), 0)


def _served_plan(session: ServedSession, lengths: list[int]) -> TaskPlan:
    itself = Evaluator(session.client.config.address, session.deployment.fingerprint, "served")
    return _LongPplPlan(session, lengths, itself, EXTRA_TOKENS)


TASK = CustomTask(name="longppl", plan=_plan, check=check, served=_served_plan)
