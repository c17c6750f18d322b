"""What went wrong with a request to a server, in one line that says what to do."""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from skipwise.config import ServerConfig
from skipwise.utils.text import duration


def explain(error: Exception, config: ServerConfig, model: str, names: Sequence[str], tries: int) -> str:
    """Describe a failed request.

    Args:
        error: What the `openai` client raised.
        config: The server.
        model: Name of the model that was asked for.
        names: Names that the server lists.
        tries: How often a request is sent at most.
    """
    import openai

    where = config.address
    if isinstance(error, openai.APITimeoutError):
        return (
            f"{where} gave no answer within {duration(config.timeout)}; give more with --timeout SECONDS, or a lower "
            "--concurrency"
        )
    if isinstance(error, openai.APIConnectionError):
        return _unreachable(error, where)
    if isinstance(error, openai.APIStatusError):
        return _refused(error, config, model, names, tries)
    if isinstance(error, json.JSONDecodeError):
        return f"{where} sent an answer that is cut off or no JSON: {error}"
    return f"{where}: {type(error).__name__}: {shortened(str(error))}"


def _unreachable(error: Exception, where: str) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ConnectionRefusedError):
        return f"nothing answers at {where}: connection refused; is the server running, and is the port right?"
    reason = shortened(str(cause)) or type(cause).__name__
    if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
        return f"cannot reach {where}: {reason}"
    return f"{where} ended a connection in the middle of an answer: {reason}; look at the server's log"


def _refused(error: Any, config: ServerConfig, model: str, names: Sequence[str], tries: int) -> str:
    status, where, message = error.status_code, config.address, _message(error)
    if status in (401, 403):
        if config.api_key_env is None:
            return f"{where} asks for a key ({status}); name the variable that holds it with --api-key-env VAR"
        return f"{where} refuses the key in {config.api_key_env} ({status}): {message}"
    if "model" in message.lower() and (status == 404 or re.search("not (exist|found)|pinned|unknown", message)):
        return unknown_model(where, model, names, message)
    if status in (404, 405):
        return (
            f"{where} has no {error.request.url.path} ({status}); the address usually ends with /v1, and the server "
            "must offer completions"
        )
    if status == 429 or status >= 500:
        return f"{where} answered {status} to the same request {tries} times: {message}"
    return f"{where} refuses a prompt ({status}): {message}"


def unknown_model(where: str, model: str, names: Sequence[str], message: str = "") -> str:
    """The line for a name that the server does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(model, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names[:5])}" if names else message
    return f"{where} has no model {model!r}; {hint}"


def _message(error: Any) -> str:
    """What the server says, from the places where servers put it."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("error", body)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return shortened(body) if body else shortened(str(error))


def shortened(value: Any, most: int = 300) -> str:
    """A value as one line of at most `most` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"
