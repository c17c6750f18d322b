"""A small OpenAI-compatible server in a process of its own, which answers in vLLM's words and fails on demand.

Fields and messages are those of vLLM 0.11 (`vllm/entrypoints/openai/protocol.py`, `serving_engine.py`): `max_model_len`
and `root` in `/v1/models`, `/version`, `/tokenize`, `prompt_logprobs`, errors under `error`. Without a model it reads
the pass key in the prompt; with `"generate": true` it answers greedily with the model in the folder.

`serving(folder, fail_every=5)` starts it and yields its address. It is a program too: `openai_server.py SETTINGS_JSON`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

DEFAULTS: dict[str, Any] = {
    "name": "tiny",
    "window": 4096,
    "key": None,  # asked for as `Authorization: Bearer`
    "generate": False,
    "text_only": False,  # refuses prompts of tokens, as `transformers serve` and Ollama do
    "special_twice": False,  # puts special tokens before a text twice
    "cut_at": None,  # reads only the last so many tokens of a prompt, without a word
    "fail_every": 0,  # 500 to every n-th completion
    "busy_every": 0,  # 429
    "break_every": 0,  # closes the connection in the middle of an answer
    "die_after": 0,  # ends the process at the n-th completion
    "seconds": 0.0,  # of each completion
    "logprobs": "prompt_logprobs",  # how log-probabilities of prompts are given: so, by `echo`, or `none`
    "template": None,  # a chat template in place of the checkpoint's
    "continues": True,  # continues a last message of the assistant under `continue_final_message`
    "tokenize": "vllm",  # how tokens are shown: so, as `llama.cpp` does, or `none`
    "tells_window": True,  # in `/v1/models`
    "log": None,  # file with one line of JSON for each request
}


class State:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = {**DEFAULTS, **settings}
        self.folder = Path(self.settings["folder"])
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.lock = threading.Lock()
        self.asked = 0
        self.active = 0
        self.most_active = 0
        self.model: Any = None
        if self.settings["generate"]:
            import torch
            from transformers import AutoModelForCausalLM

            torch.set_num_threads(1)
            self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def ids(self, prompt: Any, special: bool = True) -> list[int]:
        if isinstance(prompt, list):
            return prompt[0] if isinstance(prompt[0], list) else prompt
        ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=special).ids
        if special and self.settings["special_twice"]:
            plain = self.tokenizer.encode(prompt, add_special_tokens=False).ids
            ids = ids[: len(ids) - len(plain)] + ids
        return ids

    def chat(self, messages: list[dict[str, str]], continued: bool = False) -> str:
        import jinja2

        lead = messages[-1]["content"] if continued and self.settings["continues"] else ""
        turns = messages[:-1] if lead else messages
        template = self.settings["template"] or (self.folder / "chat_template.jinja").read_text(encoding="utf-8")
        return jinja2.Template(template).render(messages=turns, add_generation_prompt=True, bos_token="<s>") + lead

    def answer(self, ids: list[int], limit: int) -> tuple[str, int, str]:
        """(text, tokens, finish reason)."""
        if self.model is not None:
            import torch

            with self.lock, torch.no_grad():
                inputs = torch.tensor([ids])
                out = self.model.generate(
                    inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=limit, do_sample=False
                )
            new = out[0, len(ids) :].tolist()
            reason = "length" if len(new) == limit else "stop"
            return self.tokenizer.decode(new, skip_special_tokens=True), len(new), reason
        keys = re.findall(r"The pass key is (\d{5})\. Remember", self.tokenizer.decode(ids))
        new = self.tokenizer.encode(f" {keys[0]}. It is." if keys else " unknown", add_special_tokens=False).ids[:limit]
        return self.tokenizer.decode(new), len(new), "stop"

    def prompt_logprobs(self, ids: list[int]) -> list[dict[str, Any] | None]:
        if self.model is None:
            values = [-2.0] * (len(ids) - 1)
        else:
            import torch

            with self.lock, torch.no_grad():
                logits = self.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
            values = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        return [
            None,
            *({str(i): {"logprob": v, "rank": 1, "decoded_token": ""}} for i, v in zip(ids[1:], values, strict=True)),
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, body: Any, status: int = 200, *, broken: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if broken else data)
        if broken:
            self.close_connection = True

    def fail(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        self.reply({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)

    def refused(self) -> bool:
        key = self.state.settings["key"]
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.reply({"error": "Unauthorized"}, 401)
            return True
        return False

    def do_GET(self) -> None:
        settings = self.state.settings
        self.path = self.path.partition("?")[0]
        if self.path == "/version":
            self.reply({"version": "0.11.0"})
        elif self.path == "/most_active":
            self.reply({"most_active": self.state.most_active})
        elif self.path == "/v1/models":
            if not self.refused():
                entry = {"id": settings["name"], "object": "model", "created": int(time.time()), "owned_by": "vllm"}
                entry |= {"root": "served-elsewhere", "parent": None}
                entry |= {"max_model_len": settings["window"]} if settings["tells_window"] else {"owned_by": "me"}
                self.reply({"object": "list", "data": [entry]})
        else:
            self.reply({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        self.path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/v1/") and self.refused():
            return
        state = self.state
        if body.get("model", state.settings["name"]) != state.settings["name"]:
            return self.fail(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if self.path == "/tokenize" and state.settings["tokenize"] != "none":
            self.tokenize(body)
        elif self.path == "/detokenize" and state.settings["tokenize"] != "none":
            name = "prompt" if state.settings["tokenize"] == "vllm" else "content"
            self.reply({name: state.tokenizer.decode(body["tokens"], skip_special_tokens=False)})
        elif self.path in ("/v1/completions", "/v1/chat/completions"):
            with state.lock:
                state.asked += 1
                state.active += 1
                state.most_active = max(state.most_active, state.active)
                number = state.asked
            try:
                self.complete(body, number)
            finally:
                with state.lock:
                    state.active -= 1
        else:
            self.reply({"detail": "Not Found"}, 404)

    def tokenize(self, body: dict[str, Any]) -> None:
        """`/tokenize` as vLLM answers it (tokenize/protocol.py), or llama.cpp (tools/server/README.md)."""
        state, window = self.state, self.state.settings["window"]
        if state.settings["tokenize"] == "llama.cpp":
            return self.reply({"tokens": state.ids(body.get("content", ""), body.get("add_special", False))})
        text = state.chat(body["messages"]) if "messages" in body else body["prompt"]
        ids = state.ids(text, body.get("add_special_tokens", "messages" not in body))
        if len(ids) > window:
            return self.fail(400, f"This model's maximum context length is {window} tokens.")
        self.reply({"count": len(ids), "max_model_len": window, "tokens": ids})

    def complete(self, body: dict[str, Any], number: int) -> None:
        state, settings = self.state, self.state.settings
        chat = "messages" in body
        if settings["log"]:
            shown = {key: body[key] for key in ("prompt", "messages", "max_tokens") if key in body}
            with Path(settings["log"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(shown) + "\n")
        if settings["die_after"] and number >= settings["die_after"]:
            os._exit(1)
        time.sleep(settings["seconds"])
        for name, status, message in (("fail_every", 500, "out of luck"), ("busy_every", 429, "too many requests")):
            if settings[name] and number % settings[name] == 0:
                return self.fail(status, message, "InternalServerError")
        if settings["text_only"] and not chat and not isinstance(body["prompt"], str):
            return self.reply({"detail": "prompt must be a string."}, 400)
        if chat:
            ids = state.ids(state.chat(body["messages"], body.get("continue_final_message", False)), special=False)
        else:
            ids = state.ids(body["prompt"])
        limit = body["max_tokens"]
        if len(ids) + limit > settings["window"]:
            return self.fail(
                400,
                f"This model's maximum context length is {settings['window']} tokens. However, you requested "
                f"{len(ids) + limit} tokens ({len(ids)} in the messages, {limit} in the completion).",
            )
        ids = ids[-settings["cut_at"] :] if settings["cut_at"] else ids
        text, tokens, reason = state.answer(ids, limit)
        reply = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice: dict[str, Any] = {"index": 0, **reply, "logprobs": None, "finish_reason": reason}
        if body.get("prompt_logprobs") is not None and settings["logprobs"] == "prompt_logprobs":
            choice["prompt_logprobs"] = state.prompt_logprobs(ids)
        if body.get("echo") and settings["logprobs"] == "echo":
            values = [next(iter(entry.values()))["logprob"] if entry else None for entry in state.prompt_logprobs(ids)]
            choice["logprobs"] = {"token_logprobs": [*values, -0.5]}
        usage = {"prompt_tokens": len(ids), "completion_tokens": tokens, "total_tokens": len(ids) + tokens}
        broken = bool(settings["break_every"]) and number % settings["break_every"] == 0
        answer = {"id": f"cmpl-{number}", "object": "text_completion", "model": settings["name"], "choices": [choice]}
        self.reply({**answer, "usage": usage}, broken=broken)


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


@contextlib.contextmanager
def serving(folder: Path, *, port: int = 0, **settings: Any) -> Iterator[str]:
    """The address of the API, `http://127.0.0.1:PORT/v1`, of a server process with the model in `folder`."""
    given = json.dumps({"folder": str(folder), "port": port, **settings})
    command = [sys.executable, str(Path(__file__)), given]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    Handler.state = State(given)
    server = Server(("127.0.0.1", given.get("port", 0)), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
