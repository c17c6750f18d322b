"""Settings of an OpenAI-compatible server that is evaluated instead of a model in this process."""

from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator

from skipwise.config.stage import Stage
from skipwise.config.values import Length


class ServerConfig(Stage):
    """An OpenAI-compatible server and how it is asked (docs/serving.md)."""

    url: str
    """Base address of its API, such as `http://localhost:8000/v1`."""
    model: str | None = None
    """Name that the server has for the model. When absent, the one model that it lists."""
    api_key_env: str | None = None
    """Environment variable that holds the key. No key is sent when absent."""
    tokenizer: str | None = None
    """Model folder or hub id with the tokenizer and config.json of the served model. When absent, the folder that the
    server names, where it is on this machine; otherwise lengths are fitted by the server's own counts."""
    window: Length | None = None
    """Tokens of prompt and answer that the server admits, where neither it nor a config.json tells."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests that are under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise ValueError("expected the address of an API, such as http://localhost:8000/v1")
        return url

    @property
    def address(self) -> str:
        """The URL without user, password and query, which may be secrets. Rows and messages show this."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        return urlunsplit(
            (parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path.rstrip("/"), "", "")
        )


def is_url(text: str) -> bool:
    """Whether a model argument names a server."""
    return text.lower().startswith(("http://", "https://"))
