"""An OpenAI-compatible server, asked for completions: many requests at once, retries, and errors in one line.

The `openai` client does what its documentation says: it sends the key, retries 408, 409, 429, 5xx, time-outs and lost
connections with growing pauses, and obeys `Retry-After`. It runs in a thread of its own, so that the caller is plain
code, in a notebook too, and Ctrl-C ends it at once. Answers are read as plain JSON, because servers add fields.
"""

import asyncio
import itertools
import os
import queue
import re
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from skipwise.config import ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.served import failures
from skipwise.models.chunked_reader import common_prefix

T = TypeVar("T")

RETRIES = 6
"""Tries after the first, over about 20 seconds."""


class Request(NamedTuple):
    """One completion that is asked for."""

    ids: list[int]
    """The prompt; requests are sorted by it, so that a server's prefix cache finds what neighbours share."""
    text: str | None
    """What is sent; None sends `ids` themselves."""
    answer_tokens: int
    extra: dict[str, Any] = {}  # noqa: RUF012 (a named tuple's default, never changed)
    """Further fields of the request."""
    messages: list[dict[str, str]] | None = None
    """A chat, sent in place of a prompt; the server puts its template around it."""


class Completion(NamedTuple):
    """What a server answered."""

    text: str
    prompt_tokens: int | None
    """As the server counts them; None where it does not."""
    completion_tokens: int | None
    finish_reason: str | None
    choice: dict[str, Any]
    """The whole choice, with the log-probabilities that were asked for."""


class Client:
    """A connection to a server; close it with `close`, or use it in a `with` statement.

    Args:
        config: The server.

    Raises:
        SkipwiseError: The package `openai` is missing, or the variable with the key is not set or holds no key.
    """

    def __init__(self, config: ServerConfig) -> None:
        try:
            import openai
        except ImportError as error:
            raise SkipwiseError(
                "a server is asked with the package openai, which is not installed: pip install 'skipwise[served]'"
            ) from error
        key = "none" if config.api_key_env is None else _key(config.api_key_env)
        self.config = config
        self.model = config.model or ""
        """Name of the model in requests."""
        self.names: list[str] = []
        """Names that the server lists."""
        self._key = key
        self._root = config.address.removesuffix("/v1") + "/"
        parts = urlsplit(config.url)
        self._client = openai.AsyncOpenAI(
            base_url=urlunsplit(parts._replace(query="", fragment="")),
            default_query=dict(parse_qsl(parts.query)),
            api_key=key,
            timeout=config.timeout,
            max_retries=RETRIES,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="skipwise-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is under way and end the connections."""
        if self._thread.is_alive():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait([*tasks, asyncio.create_task(self._client.close())], timeout=2)

    def models(self) -> list[dict[str, Any]]:
        """The entries of `/models`.

        None where the server fails to list them and the configuration names the model: `transformers serve` answers 500
        on a machine without a cache of the hub.

        Raises:
            SkipwiseError: The server is not there, refuses the key, or is no such API.
        """
        try:
            answer = self._run(self._explained(self._get("models", retries=2), tries=3))
        except SkipwiseError as error:
            if self.config.model is not None and getattr(error.__cause__, "status_code", 0) >= 404:
                return []
            raise
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list) or not all(
            isinstance(e, dict) and isinstance(e.get("id"), str) for e in listed
        ):
            raise SkipwiseError(
                f"{self.config.address}/models lists no models: it is no OpenAI-compatible API; the address usually "
                "ends with /v1"
            )
        self.names = [entry["id"] for entry in listed]
        return listed

    def optional(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """The JSON objects at some paths from the root of the server, such as `version`; {} where there is none."""
        return self._run(self._optional(paths))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that a server need not know; {} where it does not.

        Args:
            path: Below the address of the API, or from the root of the server where it begins with `/`.
            body: The request.
        """
        target = self._root + path.lstrip("/") if path.startswith("/") else path

        async def ask() -> Any:
            return await self._client.with_options(max_retries=1).post(target, body=body, cast_to=object)

        try:
            answer = self._run(self._explained(ask()))
        except SkipwiseError as error:
            if getattr(error.__cause__, "status_code", 0) in (400, 404, 405, 422, 500, 501):
                return {}
            raise
        return answer if isinstance(answer, dict) else {}

    def complete(self, request: Request, *, retries: int | None = None) -> Completion:
        """Ask for one completion. Raises SkipwiseError; the `__cause__` of one for a refusal has a `status_code`."""
        return self._run(self._explained(self._complete(request, retries)))

    def complete_all(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of every request, as they arrive.

        Requests whose prompts begin alike wait for the first of them, whose keys and values the server can then use
        again, and go out one after the other.

        Raises:
            SkipwiseError: For the first request that fails in the end; the others are given up.
        """
        results: queue.SimpleQueue[tuple[int, Completion] | BaseException] = queue.SimpleQueue()
        job = asyncio.run_coroutine_threadsafe(self._complete_all(requests, results), self._loop)
        try:
            for _ in requests:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            job.cancel()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        job = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return job.result()
        finally:
            job.cancel()

    async def _explained(self, work: Coroutine[Any, Any, T], tries: int | None = None) -> T:
        """Turn whatever fails into a SkipwiseError of one line, without the key."""
        try:
            return await work
        except SkipwiseError:
            raise
        except Exception as error:
            line = failures.explain(error, self.config, self.model, self.names, tries or RETRIES + 1)
            raise SkipwiseError(line if self._key == "none" else line.replace(self._key, "…")) from error

    async def _get(self, path: str, *, retries: int, timeout: float | None = None) -> Any:
        client = self._client.with_options(max_retries=retries, timeout=timeout or self.config.timeout)
        return await client.get(path, cast_to=object)

    async def _optional(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        async def one(path: str) -> dict[str, Any]:
            try:
                answer = await self._get(self._root + path, retries=0, timeout=10)
            except Exception:  # a server need not have any of these
                return {}
            return answer if isinstance(answer, dict) else {}

        return list(await asyncio.gather(*(one(path) for path in paths)))

    async def _complete(self, request: Request, retries: int | None = None) -> Completion:
        path, body = _body(request, self.model)
        client = self._client if retries is None else self._client.with_options(max_retries=retries)
        answer: Any = await client.post(path, body=body, cast_to=object)
        try:
            choice = answer["choices"][0]
            usage = answer.get("usage") or {}
            # The content of a message is null where the model wrote none, or only thoughts.
            text = choice.get("text") if request.messages is None else (choice["message"]["content"] or "")
            if not isinstance(text, str):
                raise TypeError
        except (LookupError, TypeError, AttributeError):
            where = "text" if request.messages is None else "message.content"
            raise SkipwiseError(
                f"{self.config.address}/{path} answered without choices[0].{where}: {failures.shortened(answer)}"
            ) from None
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        prompt, completion = (count if isinstance(count, int) else None for count in counts)
        return Completion(text, prompt, completion, choice.get("finish_reason"), choice)

    async def _complete_all(
        self, requests: Sequence[Request], results: "queue.SimpleQueue[tuple[int, Completion] | BaseException]"
    ) -> None:
        order, leaders = schedule([request.ids for request in requests])
        answered = {leader: asyncio.Event() for leader in leaders.values()}
        places = asyncio.Semaphore(self.config.concurrency)

        async def one(i: int) -> None:
            if leaders[i] != i:
                await answered[leaders[i]].wait()
            async with places:
                completion = await self._explained(self._complete(requests[i]))
            if leaders[i] == i:
                answered[i].set()
            results.put((i, completion))

        try:
            async with asyncio.TaskGroup() as group:
                for i in order:
                    group.create_task(one(i))
        except* Exception as failed:
            results.put(failed.exceptions[0])


def _key(variable: str) -> str:
    """The key in an environment variable. Errors: SkipwiseError, which never shows what may be the key itself."""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable):
        raise SkipwiseError("--api-key-env is no name of a variable; expected one such as API_KEY, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SkipwiseError(f"the environment variable {variable} (--api-key-env) is not set")
    if not (key.isascii() and key.isprintable()):
        raise SkipwiseError(
            f"the key in {variable} (--api-key-env) has a character that no key has, such as the end of a line; set "
            "the variable to the key alone"
        )
    return key


def _body(request: Request, model: str) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request."""
    shared: dict[str, Any] = {"model": model, "max_tokens": request.answer_tokens, "temperature": 0, **request.extra}
    if request.messages is None:
        return "completions", {**shared, "prompt": request.ids if request.text is None else request.text}
    if request.messages[-1]["role"] == "assistant":
        shared |= {"continue_final_message": True, "add_generation_prompt": False}
    return "chat/completions", {**shared, "messages": request.messages}


def schedule(prompts: Sequence[list[int]]) -> tuple[list[int], dict[int, int]]:
    """The order in which prompts are sent, and for each the one whose answer it waits for, itself for none.

    Sorted, so that what neighbours share at their start is computed once by a server with a prefix cache. A prompt of
    which at least half stands in its neighbour before waits for the first of its group.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    leaders = dict(zip(order[:1], order[:1], strict=True))
    for previous, i in itertools.pairwise(order):
        shared = common_prefix(prompts[previous], prompts[i])
        leaders[i] = leaders[previous] if 2 * shared >= len(prompts[i]) else i
    return order, leaders
