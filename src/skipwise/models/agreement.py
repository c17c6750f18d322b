"""Do the files of a model agree with each other? Weights, configuration and tokenizer, each pair of them."""

import re
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.utils.progress import say

# Tensors that no forward pass of the language model reads: buffers of older code, heads of
# other trainings, vision and audio.
_HARMLESS = re.compile(
    r"(rotary_emb\.inv_freq|\.masked_bias|(attention|attn)\.bias)$"
    r"|^(v_head|score|mtp)\.|\.(mtp|vision|visual|multi_modal|audio)|^(vision|visual|multi_modal|audio)"
)
_ADAPTER = re.compile(r"\.lora_[AB]\.|\.base_layer\.|^base_model\.model\.")
_QUANTISED = re.compile(r"(qweight|qzeros|scales|weight_scale(_inv)?|absmax|quant_map|weight_packed)$")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def check_report(report: dict[str, Any], config: PreTrainedConfig, place: str) -> None:
    """Check that a file held the weights of the model that its configuration describes, no more and no fewer.

    Args:
        report: What `from_pretrained(output_loading_info=True)` returns beside the model.
        config: The model's configuration.
        place: The file or folder, for the message.

    Raises:
        SkipwiseError: Names a weight of another shape, one that is missing, or one that the model has no place for.
    """
    text = config.get_text_config()
    odd = sorted(report["mismatched_keys"])
    if odd:
        name, shape, wanted = odd[0]
        raise SkipwiseError(
            f"cannot read the weights of {place}: {_quantity(odd)} of another shape than config.json asks for, e.g. "
            f"{name} is {_shape(shape)} in the file and {_shape(wanted)} in the model{_size(text, wanted)}; "
            "config.json and the weights belong to different models"
        )
    unexpected = sorted(name for name in report["unexpected_keys"] if not _HARMLESS.search(name))
    missing = sorted(report["missing_keys"])
    for pattern, what in ((_ADAPTER, "an unmerged LoRA adapter"), (_QUANTISED, "weights quantised in a way")):
        name = next((name for name in unexpected if pattern.search(name)), None)
        if name is not None:
            remedy = (
                "merge it first (peft: merge_and_unload)"
                if pattern is _ADAPTER
                else "that cannot be read here; give the unquantised model"
            )
            joint = ": " if pattern is _ADAPTER else " "
            raise SkipwiseError(f"{place} holds {what}{joint}{remedy}; e.g. the tensor {name}")
    if missing:
        head = missing == ["lm_head.weight"] and not getattr(text, "tie_word_embeddings", False)
        hint = "; if its head is the embedding, set tie_word_embeddings to true in config.json" if head else ""
        raise SkipwiseError(f"{place} lacks {len(missing)} weights of its model, e.g. {missing[0]}{hint}")
    if unexpected:
        layers = [int(match[1]) for name in unexpected if (match := _LAYER.search(f".{name}"))]
        count = int(getattr(text, "num_hidden_layers", None) or 0)
        if layers and count and max(layers) >= count:
            hint = f"num_hidden_layers is {count} and the file has layer {max(layers)}; correct config.json"
        else:
            hint = "correct config.json, or remove what the model does not need from the file"
        raise SkipwiseError(
            f"{place} holds {_quantity(unexpected)} that its configuration does not have, e.g. {unexpected[0]}: {hint}"
        )


def _quantity(names: list[Any]) -> str:
    return "1 weight" if len(names) == 1 else f"{len(names)} weights"


def _shape(sizes: Any) -> str:
    return " × ".join(str(size) for size in sizes)


def _size(text: PreTrainedConfig, wanted: Any) -> str:
    """Which sizes of a configuration a shape comes from, where they can be told."""
    names = ("vocab_size", "hidden_size", "intermediate_size")
    named = [f"{name} {size}" for name in names if (size := getattr(text, name, None)) and size in tuple(wanted)]
    return f" ({', '.join(named)})" if named else ""


@torch.no_grad()
def check_finite(model: PreTrainedModel, place: str, remedy: str = "the file is damaged; download it again") -> None:
    """Check that every weight is a finite number.

    Args:
        model: Any model.
        place: Where its weights come from, for the message.
        remedy: What the user can do about it.

    Raises:
        SkipwiseError: Names the first weight that holds NaN or infinity, and how many values do.
    """
    for name, weight in model.named_parameters():
        # A sum is finite unless a value is not, or it overflows: one pass without a copy for almost every weight.
        if weight.is_meta or not weight.is_floating_point() or torch.isfinite(weight.sum(dtype=torch.float32)):
            continue
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise SkipwiseError(
                f"{place}: {bad:,} of the {weight.numel():,} values of {name} are NaN or infinite; {remedy}"
            )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head of a model is its embedding: one tensor for both."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is embedding.weight


def settle_head(model: PreTrainedModel) -> bool:
    """Make `tie_word_embeddings` of a model's configuration say what its weights say.

    A merged LoRA adapter of a tied model leaves a head of its own beside `tie_word_embeddings: true`. transformers 5
    keeps that head; transformers 4, and GGUF writers that trust the flag, replace it by the embedding in silence.

    Args:
        model: Loaded, or about to be saved.

    Returns:
        Whether the flag had to be changed.
    """
    parts = (model.config, model.config.get_text_config())
    tied = any(getattr(part, "tie_word_embeddings", False) for part in parts)
    if not tied or model.get_output_embeddings() is None or is_tied(model):
        return False
    for part in parts:
        part.tie_word_embeddings = False
    return True


def check_tokens(tokenizer: Any, config: PreTrainedConfig, place: str) -> None:
    """Check that the embedding has a row for every token that a text can become, and for the special ones.

    Special tokens without a row that nothing uses are only named: some text models have one for images.

    Args:
        tokenizer: A fast tokenizer.
        config: The configuration of its model.
        place: The model's folder, hub id or file, for the message.

    Raises:
        SkipwiseError: Names the tokens without a row, and how to give them one.
    """
    text = config.get_text_config()
    rows = getattr(text, "vocab_size", None)
    if not isinstance(rows, int):
        return
    _check_special_ids("config.json", text, ("bos", "eos", "pad"), rows, len(tokenizer), place)
    _check_special_ids("the tokenizer", tokenizer, ("bos", "eos"), rows, len(tokenizer), place)
    without = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not without:
        return
    numbers = sorted(without)
    named = ", ".join(repr(without[number]) for number in numbers[:3]) + (" …" if len(numbers) > 3 else "")
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if all(number in special and without[number] not in template for number in numbers):
        say(f"{place}: the embedding has no row for {named}; texts that hold it cannot be read")
        return
    raise SkipwiseError(
        f"{place}: the tokenizer has {numbers[-1] + 1} tokens and the embedding only {rows} rows, none for {named}; "
        + padding(numbers[-1] + 1)
    )


def check_text(name: str, ids: NDArray[Any], tokenizer: Any, config: PreTrainedConfig) -> None:
    """Check that the embedding has a row for every token of a text.

    Only texts with one of the special tokens that `check_tokens` lets through can fail; the others cost nothing.

    Args:
        name: What to call the text.
        ids: Its tokens, (n,).
        tokenizer: Made them.
        config: The configuration of the model that is to read them.

    Raises:
        SkipwiseError: Names the token.
    """
    rows = int(config.get_text_config().vocab_size)
    if len(tokenizer) > rows and len(ids) and int(ids.max()) >= rows:
        token = tokenizer.convert_ids_to_tokens(int(ids.max()))
        raise SkipwiseError(f"{name} holds {token!r}, which the embedding has no row for; take it out of the text")


def _check_special_ids(owner: str, of: Any, names: tuple[str, ...], rows: int, tokens: int, place: str) -> None:
    """Raise SkipwiseError for a special token of a configuration or tokenizer that the embedding has no row for."""
    for name in names:
        value = getattr(of, f"{name}_token_id", None)
        numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
        if numbers and max(numbers) >= rows:
            raise SkipwiseError(
                f"{place}: {name}_token_id of {owner} is {max(numbers)} and the embedding has only {rows} rows; "
                + padding(max(max(numbers) + 1, tokens))
            )


def padding(tokens: int) -> str:
    """How to give an embedding a row for every token."""
    return (
        f"add rows in Python with model.resize_token_embeddings({tokens}) and model.save_pretrained(folder), "
        "or take the tokenizer that belongs to the model"
    )


def check_range(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Raise SkipwiseError for a weight with values that float16 cannot hold, where `dtype` is float16."""
    if dtype != torch.float16:
        return
    limit = torch.finfo(dtype).max
    for name, value in model.named_parameters():
        largest: Tensor = value.detach().abs().max() if value.numel() else torch.zeros(())
        if largest > limit:
            raise SkipwiseError(f"{name} holds values beyond float16's {limit:g}; export as bfloat16 or float32")
