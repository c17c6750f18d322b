"""What a server says about itself and its model: name, admitted window, how it reads a prompt.

Field names are those of the released servers: vLLM (`max_model_len` and `root` in `/v1/models`, `/version`), SGLang
(`max_model_len`), llama.cpp (`/props`), Ollama (`/api/version`), TGI (`/info`).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer, PreTrainedConfig

from skipwise.config import ModelConfig, ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.served import failures
from skipwise.evals.served.chat import Chat, explore_chat
from skipwise.evals.served.client import Client, Completion, Request
from skipwise.evals.served.server_tokenizer import PROBE, ServerTokenizer
from skipwise.evals.task import special_prefix
from skipwise.models import checkpoint, configuration, sources
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text

_NO_LIMIT = 10**12
"""transformers writes 1e30 as the `model_max_length` of a tokenizer without one."""

_SERVERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("llama.cpp", "props", ("build_info",), ("default_generation_settings", "n_ctx")),
    ("TGI", "info", ("version",), ("max_total_tokens",)),
    ("Ollama", "api/version", ("version",), ()),
    ("SGLang", "get_server_info", ("version",), ("context_length",)),
    ("vLLM", "version", ("version",), ()),
)
"""Name of a server, a path that it answers, and where its version and its window stand in that answer."""


class Deployment(NamedTuple):
    """A served model."""

    address: str
    """Address of the API, without secrets."""
    name: str
    """As the server calls it."""
    served: str
    """Server and version, such as `vLLM 0.33.0`; `unknown server` where it does not say."""
    admitted: int | None
    """Tokens of prompt and answer that the server admits; None where it does not say."""
    window: int
    """`admitted`, else the window in the configuration beside the tokenizer."""
    original_length: int
    scaling: dict[str, Any] | None
    """RoPE scaling in the configuration beside the tokenizer."""
    tokenizer: Any
    config: PreTrainedConfig | None
    takes_tokens: bool
    """Whether a prompt is sent as tokens; otherwise as text, before which the server puts special tokens itself."""
    counts: bool
    """Whether the server counts the tokens of prompts."""
    fingerprint: str
    """Digest of what the server says of itself; its weights are not seen."""
    chat: Chat | None = None
    """How prompts become chats; None for completions."""


def explore(client: Client, *, chat: bool = False) -> Deployment:
    """Ask a server for its model and its window, load the tokenizer, and try how prompts are sent.

    Args:
        client: The connection.
        chat: Whether prompts are sent as chats.

    Raises:
        SkipwiseError: No server or model, a tokenizer that cannot be loaded or is not the served model's.
    """
    entries = client.models()
    entry = _entry(client, entries)
    client.model = entry["id"]
    served, admitted = _server(client, entry)
    given = client.config.tokenizer or _folder_of(entry)
    config, tokenizer = None, None
    if given is not None:
        tokenizer, config = _tokenizer(given, required=client.config.tokenizer is not None)
    window = admitted or client.config.window or _window(tokenizer, config, given, client.config)
    tokenizer = tokenizer or ServerTokenizer(client, window, chat=chat)
    identity = [client.config.address, entry["id"], entry.get("root"), served, window]
    deployment = Deployment(
        client.config.address,
        entry["id"],
        served,
        admitted,
        window,
        hf_config.true_original_length(config) if config else window,
        hf_config.describe(config) if config else None,
        tokenizer,
        config,
        takes_tokens=False,
        counts=True,
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        chat=explore_chat(client, tokenizer) if chat else None,
    )
    if isinstance(tokenizer, ServerTokenizer) and not tokenizer.exact:
        return deployment
    try:
        takes_tokens, counts = _try(client, tokenizer, given or "the server")
    except SkipwiseError:
        if chat:  # a server may offer chats alone
            return deployment
        raise
    return deployment._replace(takes_tokens=takes_tokens, counts=counts)


def _entry(client: Client, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the model that is asked. `transformers serve` lists only what the hub's cache holds."""
    wanted = client.config.model
    if wanted is None:
        if len(entries) == 1:
            return entries[0]
        names = ", ".join(client.names[:5])
        listed = f"lists {len(entries)} models ({names})" if entries else "lists no model"
        raise SkipwiseError(f"{client.config.address} {listed}; name one with --model NAME")
    named = next((entry for entry in entries if entry["id"] == wanted), None)
    if named is None and any(entry.get("owned_by") in _OWNERS or "max_model_len" in entry for entry in entries):
        raise SkipwiseError(failures.unknown_model(client.config.address, wanted, client.names))
    return named or {"id": wanted}


_OWNERS = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp", "library": "Ollama"}
"""`owned_by` in `/v1/models`."""


def _server(client: Client, entry: dict[str, Any]) -> tuple[str, int | None]:
    """Name with version, and the admitted window."""
    owner = _OWNERS.get(str(entry.get("owned_by")))
    answers = client.optional([path for _, path, _, _ in _SERVERS])
    served, admitted = owner or "unknown server", _count(entry.get("max_model_len"))
    for (name, _, version, window), answer in zip(_SERVERS, answers, strict=True):
        release = _at(answer, version)
        if not isinstance(release, str) or (owner is not None and owner != name):
            continue
        served = f"{name} {release}"
        admitted = admitted or (_count(_at(answer, window)) if window else None)
        break
    return served, admitted


def _at(answer: Any, path: Sequence[str]) -> Any:
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _folder_of(entry: dict[str, Any]) -> str | None:
    """The folder of the served model, where the server names it and it is on this machine."""
    for name in (entry.get("root"), entry["id"]):
        if isinstance(name, str) and Path(name).is_absolute() and Path(name).is_dir():
            return name
    return None


def _tokenizer(given: str, *, required: bool) -> tuple[Any, PreTrainedConfig | None]:
    """The tokenizer of a model folder or hub id with its configuration, or of a folder with a tokenizer alone.

    (None, None) for a folder that the server names and that holds no tokenizer, unless it is `required`.
    """
    try:
        folder = Path(given).expanduser()
        if folder.is_dir() and not (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file():
            bare = sources.Source(folder.name, str(folder), None, {})
            return sources.call(bare, "tokenizer", AutoTokenizer.from_pretrained), None
        source = sources.find(ModelConfig(path=given), weights=False)
        return checkpoint.tokenizer(source), configuration.read(source)
    except SkipwiseError:
        if required:
            raise
        return None, None


def _window(tokenizer: Any, config: PreTrainedConfig | None, given: str | None, server: ServerConfig) -> int:
    """The window of the checkpoint, for a server that does not tell its own."""
    window = _NO_LIMIT
    if config is not None:
        window = hf_config.window(config)
    elif tokenizer is not None:
        window = int(min(tokenizer.model_max_length, _NO_LIMIT))
    if window >= _NO_LIMIT:
        raise SkipwiseError(
            f"{server.address} does not tell the window that it admits, and no config.json is at hand that tells the "
            "model's; give --window LENGTH, or --tokenizer the whole model folder"
        )
    progress.say(
        f"{server.address} does not tell the window that it admits; {length_text(window)} tokens are taken from {given}"
    )
    return window


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """The text that a server reads as `ids` once it has put the tokenizer's special tokens before it.

    Raises:
        SkipwiseError: No text gives exactly these tokens.
    """
    prefix = special_prefix(tokenizer)
    body = ids[len(prefix) :] if ids[: len(prefix)] == prefix else ids
    text = str(tokenizer.decode(body, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] != body:
        raise SkipwiseError(
            "the server takes prompts as text alone, and this tokenizer does not give the same tokens for the text of "
            "a prompt; serve the model with vLLM or llama.cpp, which take tokens"
        )
    return text


def _try(client: Client, tokenizer: Any, given: str) -> tuple[bool, bool]:
    """(whether prompts can be tokens, whether they are counted), from two short requests at most."""
    ids = list(special_prefix(tokenizer)) + tokenizer(PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    try:
        answer = client.complete(Request(ids, None, 1), retries=1)
        if answer.prompt_tokens == len(ids):
            return True, True
    except SkipwiseError as error:
        if getattr(error.__cause__, "status_code", 0) not in (400, 415, 422, 500, 501):
            raise
        if "has no model" in str(error):
            raise
    answer = client.complete(Request(ids, text_of(tokenizer, ids), 1))
    _check_count(answer, ids, tokenizer, given, client.config.address)
    return False, answer.prompt_tokens is not None


def _check_count(answer: Completion, ids: list[int], tokenizer: Any, given: str, where: str) -> None:
    """Refuse another tokenizer; tell what is not as in this process."""
    if answer.prompt_tokens is None:
        progress.say(f"{where} does not count the tokens of prompts: one that it cuts cannot be told from one it reads")
        return
    prefix = len(special_prefix(tokenizer))
    surplus = answer.prompt_tokens - len(ids)
    if prefix and abs(surplus) == prefix:
        how = "twice" if surplus > 0 else "not at all"
        progress.say(
            f"{where} puts the tokenizer's special tokens before a text {how}: its prompts are not as they were"
        )
    elif surplus:
        raise SkipwiseError(
            f"{where} counts {answer.prompt_tokens} tokens in a text that has {len(ids)} by the tokenizer of {given}; "
            "give --tokenizer the folder of the served model, or look for special tokens that are put twice"
        )
