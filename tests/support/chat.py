"""Chat templates and small conversations for tests."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from support.tiny import tiny_llama, tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""CHATML that marks its answers by itself."""
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""CHATML that leaves the thoughts out of all answers but the last, as Qwen3's does."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def chat_tokenizer(folder: Path, template: str = CHATML) -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a chat template and the special tokens of ChatML, saved in `folder`."""
    tokenizer = tiny_tokenizer(folder, vocab=500)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def chat_llama(folder: Path, *, window: int = 64, template: str = CHATML) -> Path:
    """A tiny Llama whose tokenizer has a chat template, in `folder`, which is returned."""
    tiny_llama(folder, window=window)
    chat_tokenizer(folder, template)
    return folder
