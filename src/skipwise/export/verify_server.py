"""Check a deployment: whether the model behind an OpenAI-compatible server has the window of its checkpoint."""

from collections.abc import Iterator
from typing import Any, Literal

from skipwise.config import EvaluationConfig, ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.chat_template import rendered
from skipwise.evals.served.client import Client, Request
from skipwise.evals.served.deployment import Deployment, explore, text_of
from skipwise.evals.served.server_tokenizer import ServerTokenizer
from skipwise.evals.served.session import ServedSession
from skipwise.evals.task import Inputs, special_prefix
from skipwise.evals.tasks import passkey
from skipwise.export.verify import Check
from skipwise.rope import hf_config
from skipwise.utils.text import length_text

DEPTHS = [0.1, 0.5, 0.9]
SHARES = (0.25, 0.5, 1.0)
"""Of the window, at which a needle is asked for."""
BEYOND = 9 / 8
"""Of the original window: just beyond it, where a scaling that was not read shows first."""
_TURN = [{"role": "user", "content": "What is the pass key?"}]


def verify_server(config: ServerConfig) -> list[Check]:
    """Check a served model.

    Args:
        config: The server; its `tokenizer` is the checkpoint that the model should be.

    Returns:
        One check a row of the table in docs/serving.md.

    Raises:
        SkipwiseError: The server is not there, has no such model, or fails a request again and again.
    """
    with Client(config) as client:
        deployment = explore(client)
        inputs = Inputs(deployment.tokenizer, EvaluationConfig(depths=DEPTHS, trials=1))
        session = ServedSession(client, deployment, inputs, label=deployment.name)
        return [
            _window(deployment),
            _special_tokens(client, deployment),
            _chat_template(client, deployment),
            *_needles(session),
        ]


def _window(deployment: Deployment) -> Check:
    name, admitted = "window admitted", deployment.admitted
    model = hf_config.window(deployment.config) if deployment.config else None
    if admitted is None:
        return Check(name, "noted", f"{deployment.served} does not say; see whether the needles are found")
    shown = f"{length_text(admitted)} tokens by {deployment.served}"
    if model is None or admitted == model:
        return Check(name, "ok", shown + (", as in the checkpoint" if model else ""))
    if admitted > model:
        return Check(name, "noted", f"{shown}, the checkpoint has {length_text(model)}: longer prompts are admitted")
    return Check(
        name,
        "failed",
        f"{shown}, the checkpoint has {length_text(model)}; serve it with that window (vLLM: --max-model-len {model}, "
        f"llama.cpp: -c {model})",
    )


def _special_tokens(client: Client, deployment: Deployment) -> Check:
    """Whether the server reads a text as the tokenizer does, with the special tokens before it once."""
    name, tokenizer = "special tokens", deployment.tokenizer
    if isinstance(tokenizer, ServerTokenizer):
        return Check(name, "skipped", "no --tokenizer is given to compare with")
    prefix = special_prefix(tokenizer)
    ids = prefix + tokenizer(passkey.DESCRIPTION, add_special_tokens=False, verbose=False)["input_ids"]
    read = client.complete(Request(ids, text_of(tokenizer, ids), 1)).prompt_tokens
    if read is None:
        return Check(name, "skipped", "the server does not count the tokens of prompts")
    counts = f"{read} tokens in a text that has {len(ids)} by the checkpoint's tokenizer"
    if read == len(ids):
        return Check(name, "ok", counts)
    why = "put twice" if read > len(ids) else "left out"
    return Check(
        name, "failed", f"{counts}; {f'special tokens are {why}, or ' if prefix else ''}it is another tokenizer"
    )


def _chat_template(client: Client, deployment: Deployment) -> Check:
    """Whether a conversation becomes the same tokens; the same number of them, where the server does not show them."""
    name, tokenizer = "chat template", deployment.tokenizer
    if isinstance(tokenizer, ServerTokenizer):
        return Check(name, "skipped", "no --tokenizer is given to compare with")
    if not getattr(tokenizer, "chat_template", None):
        return Check(name, "skipped", "the checkpoint has none")
    try:
        text = rendered(tokenizer, _TURN)
    except SkipwiseError as error:
        return Check(name, "failed", str(error))
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    body: dict[str, Any] = {"model": client.model, "messages": _TURN}
    shown = client.post("/tokenize", {**body, "add_generation_prompt": True})
    if isinstance(shown.get("tokens"), list):
        same = shown["tokens"] == ids
        detail = f"{'equal' if same else 'other'} tokens for one turn, {len(shown['tokens'])} and {len(ids)}"
        return Check(name, "ok" if same else "failed", detail)
    read = (client.post("chat/completions", {**body, "max_tokens": 1}).get("usage") or {}).get("prompt_tokens")
    if not isinstance(read, int):
        return Check(name, "skipped", "the server offers no chat, or does not count its tokens")
    state: Literal["ok", "failed"] = "ok" if read == len(ids) else "failed"
    return Check(name, state, f"one turn has {read} tokens, {len(ids)} with the checkpoint's template")


def _needles(session: ServedSession) -> Iterator[Check]:
    """Passkeys at shares of the window, and just beyond the original one."""
    window, original = session.deployment.window, session.deployment.original_length
    wanted = {f"needle at {share:g} of the window": round(share * window) for share in SHARES}
    beyond = round(BEYOND * original)
    if window > original:
        wanted["needle beyond the original window"] = min(beyond, window)
    for name, length in wanted.items():
        try:
            cells = passkey.cells(session.inputs, length)
        except SkipwiseError as error:
            yield Check(name, "skipped", str(error))
            continue
        questions = [passkey.question(session.inputs, cell, 0) for cell in cells]
        try:
            answers = dict(session.answer(questions, passkey.ANSWER_TOKENS, lambda i, new: False, lambda tokens: None))
        except SkipwiseError as error:
            if getattr(error.__cause__, "status_code", 0) not in (400, 413, 422):
                raise
            yield Check(name, "failed", str(error))
            continue
        right = sum(passkey.TASK.score(session.inputs.decode(answers[i]), q) for i, q in enumerate(questions))
        detail = f"{right:.0f} of {len(questions)} found in prompts of {length_text(length)} tokens"
        if cut := session.cut(questions):
            detail += f", {cut} of which the server cut"
        yield Check(name, "ok" if 2 * right >= len(questions) and not cut else "failed", detail)
