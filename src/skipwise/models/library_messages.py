"""The libraries that load models speak to programmers; this turns their words into ours, or keeps them silent."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from skipwise.utils.progress import say

# What a library's message contains, and what we say in its place; {0} is what the first parentheses hold.
_SENTENCES = (
    (
        r"trust_remote_code=True|requires you to execute",
        "it needs custom code from its repository, which is not run unless asked for; if you trust that code, add "
        "--set model.trust_remote_code=true",
    ),
    (
        r"model type `([^`]*)` but Transformers does not recognize",
        "model type {0!r} is not known to transformers {version}; check model_type, or install a newer transformers",
    ),
    (
        r"Unrecognized model in|Should have a `model_type` key",
        'config.json names no model_type; write e.g. "model_type": "llama"',
    ),
    (
        r"The hidden size \((\d+)\) is not a multiple of the number of attention heads \((\d+)\)",
        "hidden_size = {0}: expected a multiple of num_attention_heads, {1}; compare both with the original file",
    ),
    (
        r"even rotary dimension, but got `head_dim`=(\d+) with `partial_rotary_factor`=([\d.]+)",
        "head_dim = {0} times partial_rotary_factor = {1}: expected an even number of dimensions to rotate in pairs; "
        "compare both with the original file",
    ),
    (
        r"`layer_types` entries must be in \(.*\) but got (.*)",
        "layer_types = {0}: expected a kind of attention for each layer, e.g. full_attention or sliding_attention",
    ),
    (
        r"`num_hidden_layers` \((\d+)\) must be equal to the number of `layer_types` \((\d+)\)",
        "layer_types names {1} layers: expected {0}, as many as num_hidden_layers; correct the one that is wrong",
    ),
    (r"Validation error for field '\w+': \w+: Field '(\w+)' (.*)", "{0} is wrong: {1}"),
    (r"Validation error for field '(\w+)': \w+: (.*)", "{0} is wrong: {1}"),
    (r"Class validation error for validator '\w+': \w+: (.*)", "{0}"),
    (
        r"above report|ignore_mismatched_sizes",
        "its weights have other shapes than its config.json says; take both from the same model, or correct the sizes "
        "in config.json",
    ),
    (r"couldn't connect to '(.+?)'", "the hub at {0} does not answer, and the cache holds no copy"),
    (r"outgoing traffic has been disabled", "the hub is switched off (HF_HUB_OFFLINE), and the cache holds no copy"),
    (r"cannot find the requested files in the .*cache", "the hub cannot be reached, and the cache holds no copy"),
    (
        r"[Gg]ated repo|access to it is restricted|awaiting a review",
        "the repository is gated: ask for access on its page, then log in with: hf auth login",
    ),
    (
        r"is not a local folder and is not a valid model identifier",
        "the hub has no such repository, or it is private (then log in with: hf auth login)",
    ),
    (r"not a valid git identifier|Invalid rev id", "the repository has no such model.revision"),
    (
        r"does not appear to have a file named config\.json",
        "there is no config.json, so it holds no model (an adapter has to be merged into its base model first)",
    ),
    (
        r"no file named model\.safetensors|does not appear to have a file named (?:pytorch_)?model",
        "there is no model.safetensors; convert the weights to safetensors first",
    ),
    (
        r"Couldn't instantiate the backend tokenizer",
        "it needs tokenizer.json, or the package sentencepiece: pip install 'skipwise[sentencepiece]'",
    ),
    (r"requires the (\S+) library", "it needs the package {0}: pip install {0}"),
    (
        r"data did not match any variant|expected value at line|EOF while parsing|key must be a string at line",
        "tokenizer.json is not the file of a tokenizer; download or copy it again",
    ),
    (
        r"(?:modulo|division) by zero",
        "config.json holds a 0 by which something is divided; compare it with the original file",
    ),
)

_RETRY = re.compile(r"(?:Retrying in|Waiting) ([\d.]+)s.* \[Retry (\d+)/(\d+)\]")


_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "dict": "a mapping"}
_PYTHON = {"None": "null", "True": "true", "False": "false"}
_WRONG_TYPE = re.compile(r"Field '(\w+)' expected (\w+), got \w+ \(value: (.{0,100}).*\)", re.DOTALL)


def one_line(error: BaseException) -> str:
    """The first sentence or two of an error, on one line, in words that help a user of Skipwise."""
    text = " ".join(str(error).split())
    wrong = _WRONG_TYPE.search(text)
    if wrong and wrong[2] in _TYPES:
        value = _PYTHON.get(wrong[3], wrong[3].replace("'", '"'))
        return f"{wrong[1]} = {value}: expected {_TYPES[wrong[2]]}; correct it in config.json"
    for pattern, sentence in _SENTENCES:
        match = re.search(pattern, text, re.DOTALL)
        if match:
            return sentence.format(*match.groups(), version=version("transformers"))
    if isinstance(error, KeyError) and text:
        return f"it lacks the entry {text[:100]}"
    return text[:300] or type(error).__name__


class _Retries(logging.Handler):
    """Says in one line of ours that the hub is asked again; drops everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        match = _RETRY.search(record.getMessage())
        if match:
            seconds, number, last = match.groups()
            say(f"the hub does not answer; asking again in {float(seconds):.0f} s ({number} of {last})")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the messages, warnings and bars of transformers and the hub's client out of ours until the block ends."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    before = hub.handlers, hub.propagate, hub.level
    hub.handlers, hub.propagate = [_Retries()], False
    hub.setLevel(logging.WARNING)
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()
            hub.handlers, hub.propagate = before[:2]
            hub.setLevel(before[2])
