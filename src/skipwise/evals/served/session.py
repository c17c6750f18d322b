"""The evaluation of a model behind a server: its answers in the form in which a model in this process gives them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from skipwise.evals.served.client import Client, Completion, Request
from skipwise.evals.served.deployment import Deployment, text_of
from skipwise.evals.served.server_tokenizer import ServerTokenizer
from skipwise.evals.session import AnswerSession
from skipwise.evals.task import Inputs, Question, special_prefix
from skipwise.utils import progress
from skipwise.utils.text import length_text


class ServedSession(AnswerSession):
    """What a task of prompts needs of a served model.

    Args:
        client: The connection.
        deployment: The model.
        inputs: What prompts are made from.
        label: Name of the model in the rows.
        out: File that finished rows are read from and appended to; None keeps them in memory.
        documents: (name, tokens without BOS) of the documents for perplexity, the best ones first.
    """

    def __init__(
        self,
        client: Client,
        deployment: Deployment,
        inputs: Inputs,
        *,
        label: str = "",
        out: Path | None = None,
        documents: Sequence[tuple[str, Any]] = (),
    ) -> None:
        columns = {
            "path": client.config.address,
            "fingerprint": deployment.fingerprint,
            "window": deployment.window,
            "original_length": deployment.original_length,
            "scaling": deployment.scaling,
            "served": deployment.served,
        }
        super().__init__(inputs, columns, label=label, out=out, documents=documents)
        self.client, self.deployment = client, deployment
        self._prefix = len(special_prefix(deployment.tokenizer))
        self._cut: set[tuple[int, ...]] = set()
        self._lines: set[str] = set()

    def tokens_to_read(self, questions: Sequence[Question]) -> int:
        """Tokens of all prompts: what a server computes once is not seen."""
        return sum(len(question.ids) for question in questions)

    def answer(
        self, questions: Sequence[Question], limit: int, ended: Callable[[int, list[int]], bool], advance: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """Greedy answers as (index of the question, tokens), as they arrive; empty where the server cut the prompt.

        A server goes on to the limit; what follows the end of an answer is left out here.
        """
        requests = [self.request(question.ids, question.answer_tokens or limit) for question in questions]
        for i, completion in self.client.complete_all(requests):
            advance(len(requests[i].ids))
            if self._is_cut(requests[i], completion):
                self._cut.add(tuple(requests[i].ids))
                yield i, []
            else:
                yield i, self._until(completion, requests[i].answer_tokens, lambda new, i=i: ended(i, new))  # type: ignore[misc]

    def cut(self, questions: Sequence[Question]) -> int:
        """How many of these prompts the server cut."""
        return sum(tuple(question.ids) in self._cut for question in questions)

    def request(self, ids: list[int], answer_tokens: int, **extra: Any) -> Request:
        """A request for a prompt, in the form that the server takes."""
        chat = self.deployment.chat
        if chat is not None:
            return Request(ids, None, answer_tokens, extra, chat.messages(ids))
        return self.plain_request(ids, answer_tokens, **extra)

    def plain_request(self, ids: list[int], answer_tokens: int, **extra: Any) -> Request:
        """A request for a completion, whatever the settings of chats."""
        text = None if self.deployment.takes_tokens else text_of(self.deployment.tokenizer, ids)
        return Request(ids, text, answer_tokens, extra)

    def _is_cut(self, request: Request, completion: Completion) -> bool:
        """Whether the server read less than it was sent; a line says so once for each length."""
        read, deployment = completion.prompt_tokens, self.deployment
        missing = 0 if deployment.takes_tokens else self._prefix  # a server may put no special tokens
        if deployment.chat is not None:
            surplus, turns = deployment.chat.surplus, (len(request.messages or ()) + 1) // 2
            missing = -surplus if surplus > 0 else -surplus * turns  # a shorter template is shorter in every turn
        if read is None or read >= len(request.ids) - missing:
            return False
        self._tell(
            f"{self.label}: the server cut a prompt of {length_text(len(request.ids))} tokens to {length_text(read)}; "
            "such prompts count as wrong, and rows tell how many there were"
        )
        return True

    def _until(self, completion: Completion, limit: int, ended: Callable[[list[int]], bool]) -> list[int]:
        """The tokens of an answer up to where decoding in this process would have ended it.

        They are those of its text, which may be more than the server decoded.
        """
        if completion.finish_reason == "length" and (completion.completion_tokens or limit) < limit:
            self._tell(
                f"{self.label}: the server ended an answer after {completion.completion_tokens} of {limit} tokens; "
                "look for a limit on answers"
            )
        tokenizer = self.deployment.tokenizer
        ids: list[int]
        if isinstance(tokenizer, ServerTokenizer):
            ids = tokenizer.pieces(completion.text, min(limit, len(completion.text)))
        else:
            ids = tokenizer(completion.text, add_special_tokens=False, verbose=False)["input_ids"]
        for end in range(1, min(len(ids), limit)):
            if ended(ids[:end]):
                return ids[:end]
        return ids

    def _tell(self, line: str) -> None:
        if line not in self._lines:
            self._lines.add(line)
            progress.say(line)
