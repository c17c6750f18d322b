"""Perplexity of a served model, where its server gives the log-probabilities of a prompt's tokens.

vLLM gives them as `prompt_logprobs`; other servers as `logprobs` of completions with `echo`. Documents, protocols and
rows are those of `evals.tasks.perplexity`. A server generates one token at least, so a text must be one token shorter
than the admitted window.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.evals import document_losses
from skipwise.evals.document_losses import Document, PerplexityVariant
from skipwise.evals.intervals import Losses
from skipwise.evals.rows import Row
from skipwise.evals.served.client import Completion, Request
from skipwise.evals.served.session import ServedSession
from skipwise.evals.task import special_prefix
from skipwise.evals.tasks import perplexity
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text, value_text

EXTRA_TOKENS = 1
"""Tokens that a server must admit beyond a text: the one that it generates."""


class _Way(NamedTuple):
    """How log-probabilities are asked for, and where they stand in a choice."""

    extra: dict[str, Any]
    read: Callable[[dict[str, Any], list[int]], list[float]]
    """(choice, prompt) → log-probability of each token but the first. Errors: LookupError, TypeError, ValueError."""


def _prompt_logprobs(choice: dict[str, Any], ids: list[int]) -> list[float]:
    given = choice["prompt_logprobs"]
    if len(given) != len(ids):
        raise ValueError(f"{len(given)} log-probabilities for {len(ids)} tokens")
    return [float(entry[str(token)]["logprob"]) for token, entry in zip(ids[1:], given[1:], strict=True)]


def _echoed(choice: dict[str, Any], ids: list[int]) -> list[float]:
    given = choice["logprobs"]["token_logprobs"]
    if not len(ids) <= len(given) <= len(ids) + EXTRA_TOKENS:
        raise ValueError(f"{len(given)} log-probabilities for {len(ids)} tokens")
    return [float(value) for value in given[1 : len(ids)]]


_WAYS = (_Way({"prompt_logprobs": 0}, _prompt_logprobs), _Way({"echo": True, "logprobs": 1}, _echoed))


class _Part(NamedTuple):
    """A stretch of a document that one request reads, of which the last `scored` tokens count."""

    document: int
    ids: list[int]
    scored: int


class PromptLosses:
    """The losses of documents' tokens that a server gives.

    Args:
        session: The server.
        documents: (name, tokens without BOS).
    """

    def __init__(self, session: ServedSession, documents: Sequence[Document]) -> None:
        self._session, self._documents = session, documents

    def way(self) -> _Way:
        """The first way that this server knows, tried on a few tokens."""
        session = self._session
        plain = session.deployment.tokenizer("The grass is green.", add_special_tokens=False, verbose=False)
        ids = special_prefix(session.deployment.tokenizer) + plain["input_ids"]
        for way in _WAYS:
            try:
                way.read(session.client.complete(session.plain_request(ids, EXTRA_TOKENS, **way.extra)).choice, ids)
            except (LookupError, TypeError, ValueError) as error:
                if isinstance(error, SkipwiseError) and getattr(error.__cause__, "status_code", 0) not in (400, 422):
                    raise
                continue
            return way
        raise SkipwiseError(
            f"{session.client.config.address} gives no log-probabilities of prompts (prompt_logprobs, or echo with "
            "logprobs), which perplexity and longppl need; vLLM gives them; leave both out of --tasks here"
        )

    def requests(self, protocol: PerplexityVariant, length: int) -> list[_Part]:
        """What is read for one length: the beginnings of the documents, or windows over them."""
        parts = list[_Part]()
        bos = [] if protocol.bos_id is None else [protocol.bos_id]
        for i, (_, tokens) in enumerate(self._documents):
            if protocol.name == "prefix":
                parts.append(_Part(i, [*bos, *tokens[: length - len(bos)].tolist()], length - 1))
                continue
            text = tokens[: protocol.span - len(bos)].tolist()
            for start, stop, scored in document_losses.windows(len(text), length - len(bos), protocol.stride):
                ids = [*bos, *text[start:stop]]
                parts.append(_Part(i, ids, min(scored, len(ids) - 1)))
        return parts

    def losses(self, parts: Sequence[_Part], way: _Way, advance: Callable[[int], None]) -> list[Losses]:
        """Losses of the scored tokens of each document, in their order."""
        requests = [self._session.plain_request(part.ids, EXTRA_TOKENS, **way.extra) for part in parts]
        losses: dict[int, Losses] = {}
        for i, values in self._read(requests, way):
            losses[i] = -np.asarray(values[len(values) - parts[i].scored :], dtype=np.float32)
            document_losses.require_finite(losses[i], self._documents[parts[i].document][0])
            advance(len(parts[i].ids))
        return [
            np.concatenate([losses[i] for i, part in enumerate(parts) if part.document == document])
            for document in range(len(self._documents))
        ]

    def _read(self, requests: Sequence[Request], way: _Way) -> Iterator[tuple[int, list[float]]]:
        for i, completion in self._session.client.complete_all(requests):
            try:
                yield i, way.read(completion.choice, requests[i].ids)
            except (LookupError, TypeError, ValueError) as error:
                raise SkipwiseError(self._why(requests[i], completion, error)) from error

    def _why(self, request: Request, completion: Completion, error: Exception) -> str:
        where, sent = self._session.client.config.address, len(request.ids)
        if completion.prompt_tokens is not None and completion.prompt_tokens < sent:
            return f"{where} cut a text of {sent} tokens to {completion.prompt_tokens}: no perplexity can be told of it"
        return f"{where} gives other log-probabilities than were asked for: {error}"


class ServedPerplexity:
    """The rows of one served model.

    Raises:
        SkipwiseError: when made, for documents or lengths that cannot work, and a server that cannot give
            log-probabilities.
    """

    def __init__(self, session: ServedSession, lengths: list[int]) -> None:
        self._session = session
        self._documents, self._protocol = perplexity.choose(session.inputs, session.documents, lengths)
        config = session.deployment.config
        self._losses = PromptLosses(session, self._documents)
        self._apart = config is None or hf_config.changes_with_length(config) or self._protocol.name == "sliding"
        ordered = sorted(lengths)
        self._parts = [(0, length) for length in ordered] + ([] if self._apart else list(itertools.pairwise(ordered)))
        self.longest = max(lengths) + EXTRA_TOKENS

    def rows(self) -> list[Row]:
        """The finished rows, and those that are missing, measured."""
        session, protocol = self._session, self._protocol
        heads = {p: session.of_model(perplexity.header(self._documents, *p, protocol)) for p in self._parts}
        rows = {part: row for part, head in heads.items() if (row := session.finished(head))}
        missing = [part for part in self._parts if part not in rows]
        if missing:
            way = self._losses.way()
            lengths = sorted({length for _, length in missing})
            groups = [[length] for length in lengths] if self._apart else [lengths]
            requests = [self._losses.requests(protocol, max(group)) for group in groups]
            total = sum(len(part.ids) for parts in requests for part in parts)
            with progress.bar(f"{session.label}: perplexity", total=total, unit="tok") as bar:
                for group, parts in zip(groups, requests, strict=True):
                    started = time.monotonic()
                    losses = self._losses.losses(parts, way, bar.advance)
                    seconds = time.monotonic() - started
                    for part in [part for part in missing if part[1] in group]:
                        row = perplexity.row_of_losses(heads[part], losses, seconds)
                        rows[part] = session.append(row.replace(beyond_window=part[1] > session.window))
                        bar.note(f"{value_text(row.metric, row.value)} at {length_text(row.length)}")
        return [rows[part] for part in self._parts]
