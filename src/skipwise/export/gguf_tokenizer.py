"""Write a fast tokenizer into a GGUF file, such that llama.cpp makes the same tokens with it.

llama.cpp knows a byte-level BPE by the name of its pre-tokenizer, and sentencepiece's BPE by the scores of its pieces.
What it would tokenise otherwise is refused.
"""

import itertools
import json
from typing import Any, NamedTuple

from gguf import GGUFWriter, TokenType

from skipwise.errors import SkipwiseError
from skipwise.models.agreement import padding

_SPACE = "▁"
_GPT2 = "ByteLevel"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
_LLAMA3 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|\p{{N}}{{1,3}}|{_ENDS}"
_QWEN2 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|\p{{N}}|{_ENDS}"
_TEKKEN = rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# (how text is cut, whether a whole word that is a token is taken without merging) → llama.cpp's name of it.
_NAMES = {
    ((_GPT2,), False): "gpt-2",
    (("Digits", _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
    ((_TEKKEN,), False): "tekken",
}


class Vocabulary(NamedTuple):
    """What a GGUF file says about a tokenizer; lists by token id."""

    model: str
    """`gpt2` (byte-level BPE) or `llama` (sentencepiece)."""
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None = None
    scores: list[float] | None = None
    space_prefix: bool = False


def vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer, filled up to the model's `size` rows.

    Errors: SkipwiseError for a tokenizer that llama.cpp does not have.
    """
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    model = written["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if model["type"] != "BPE":
        raise SkipwiseError(f"a GGUF file cannot take a tokenizer of type {model['type']}; BPE is expected")
    if len(tokens) > size:
        raise SkipwiseError(
            f"the tokenizer has {len(tokens)} tokens, the model's embedding only {size}; {padding(len(tokens))}"
        )
    byte_level = "ByteLevel" in json.dumps(written["pre_tokenizer"])
    types = _types(written, tokens, bytes_as_tokens=not byte_level)
    tokens = [*tokens, *(f"[PAD{i}]" for i in range(len(tokens), size))]
    types += [int(TokenType.UNUSED)] * (size - len(types))
    if byte_level:
        return Vocabulary("gpt2", _pre(written), tokens, types, merges=[" ".join(pair) for pair in _merges(model)])
    scores = _scores(model, tokens)
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_prefix=_space_prefix(written))


def write(writer: GGUFWriter, tokenizer: Any, size: int) -> None:
    """Add the tokenizer to a GGUF file: vocabulary, special tokens, what is put around a text, chat template."""
    made = vocabulary(tokenizer, size)
    writer.add_tokenizer_model(made.model)
    writer.add_tokenizer_pre(made.pre)
    writer.add_token_list(made.tokens)
    writer.add_token_types(made.types)
    if made.merges is not None:
        writer.add_token_merges(made.merges)
    if made.scores is not None:
        writer.add_token_scores(made.scores)
        writer.add_add_space_prefix(made.space_prefix)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    around = tokenizer("a", verbose=False)["input_ids"]
    writer.add_add_bos_token(len(around) > 1 and around[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(around) > 1 and around[-1] == tokenizer.eos_token_id)
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def _types(written: dict[str, Any], tokens: list[str], *, bytes_as_tokens: bool) -> list[int]:
    types = [int(TokenType.NORMAL)] * len(tokens)
    if bytes_as_tokens:
        pieces = written["model"]["vocab"]
        for byte in range(256):
            if f"<0x{byte:02X}>" in pieces:
                types[pieces[f"<0x{byte:02X}>"]] = int(TokenType.BYTE)
    for added in written["added_tokens"]:
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    unknown = written["model"].get("unk_token")
    if unknown is not None and unknown in written["model"]["vocab"]:
        types[written["model"]["vocab"][unknown]] = int(TokenType.UNKNOWN)
    return types


def _merges(model: dict[str, Any]) -> list[list[str]]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, a sequence or not."""
    if part is None:
        return []
    return list(part[inner]) if part["type"] == "Sequence" else [part]


def _pre(written: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a byte-level BPE cuts text before merging."""
    cuts: list[str] = []
    prefixed = False
    for step in _steps(written["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "ByteLevel":
            prefixed |= step["add_prefix_space"]
            cuts += [_GPT2] if step.get("use_regex", True) else []
        elif step["type"] == "Digits" and step["individual_digits"]:
            cuts.append("Digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(step["pattern"].get("Regex", ""))
        else:
            cuts.append(f"{step['type']} {json.dumps({key: step[key] for key in step if key != 'type'})}")
    name = _NAMES.get((tuple(cuts), bool(written["model"].get("ignore_merges"))))
    # llama.cpp leaves out the NFC normalisation of Qwen's tokenizer, which changes no text that is composed already.
    normalised = [step["type"] for step in _steps(written["normalizer"], "normalizers") if step["type"] != "NFC"]
    if name is None or prefixed or normalised:
        how = ", ".join([*cuts, *normalised, *(["a space before the text"] if prefixed else [])])
        raise SkipwiseError(f"llama.cpp has no pre-tokenizer that cuts text as this tokenizer does ({how})")
    return name


def _space_prefix(written: dict[str, Any]) -> bool:
    """Whether a space is put before a text. Errors: SkipwiseError where text is changed in another way."""
    prefix, escaped = False, False
    for step in _steps(written["normalizer"], "normalizers") + _steps(written["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace" and step["replacement"] == _SPACE:
            prefix, escaped = prefix or step["prepend_scheme"] != "never", True
        elif step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"].get("String") == " " and step["content"] == _SPACE:
            escaped = True
        elif not (step["type"] == "Split" and step["pattern"].get("String") == " "):
            raise SkipwiseError(f"llama.cpp does not change text as this tokenizer does ({step['type']})")
    if not escaped or not written["model"].get("byte_fallback"):
        raise SkipwiseError("the tokenizer is neither a byte-level BPE nor one of sentencepiece with byte tokens")
    return prefix


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """Scores that make llama.cpp merge in the order of the merges: minus the rank of the piece that is formed.

    Exact when every way to split a piece into two others is a merge, and a piece's merges follow each other, as in
    what transformers makes of a sentencepiece model. Errors: SkipwiseError otherwise.
    """
    pieces, pairs = model["vocab"], [tuple(pair) for pair in _merges(model)]
    formed = [left + right for left, right in pairs]
    order = list(dict.fromkeys(formed))
    runs = sum(1 for _ in itertools.groupby(formed))
    known = set(pairs)
    missing = any(
        piece[:cut] in pieces and piece[cut:] in pieces and (piece[:cut], piece[cut:]) not in known
        for piece in order
        for cut in range(1, len(piece))
    )
    if runs != len(order) or missing:
        raise SkipwiseError("the tokenizer's merges are not those of a sentencepiece model; llama.cpp would merge more")
    ranks = {piece: rank for rank, piece in enumerate(order)}
    return [-float(ranks.get(token, len(order) + number)) for number, token in enumerate(tokens)]
