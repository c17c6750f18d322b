"""How likely a model finds each of several answers to a prompt. What prompts share at their start is read once."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from skipwise.models import sliced_loss
from skipwise.models.chunked_reader import KeyValues, Reader, common_prefix


class ChoicePrompt(NamedTuple):
    """A prompt and the answers to choose from, as token ids; no answer is empty."""

    ids: list[int]
    choices: Sequence[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.ids) + max(map(len, self.choices))


def log_likelihoods(
    reader: Reader, prompts: Sequence[ChoicePrompt], advance: Callable[[int], None] = lambda tokens: None
) -> Iterator[tuple[int, list[float]]]:
    """Compute the log-likelihood of each answer after its prompt, the sum over its tokens.

    Args:
        reader: The model.
        prompts: The prompts with their answers.
        advance: Called with the number of tokens that were read.

    Yields:
        (index of the prompt, a value in nats for each answer), in the order in which they are read.

    Raises:
        SkipwiseError: Not even one prompt fits into memory.
    """
    longest = max((prompt.longest for prompt in prompts), default=0)
    trunk, held = None, list[int]()
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i].ids):
        prompt = prompts[i]
        while True:
            try:
                if reader.whole:
                    yield i, _apart(reader, prompt, advance)
                    break
                trunk = trunk or reader.cache(1, longest)
                with reader.reading():
                    values = _after(reader, prompt, trunk, held, advance)
                held = prompt.ids[:-1]
                yield i, values
                break
            except (MemoryError, RuntimeError) as error:
                reader.shrink(error)
                trunk, held = None, []


@torch.no_grad()
def _after(
    reader: Reader, prompt: ChoicePrompt, trunk: KeyValues, held: list[int], advance: Callable[[int], None]
) -> list[float]:
    """Values of the answers, read one after the other behind the prompt, of which the trunk holds a beginning."""
    device, last = reader.model.device, len(prompt.ids) - 1
    start = common_prefix(held, prompt.ids[:last])
    trunk.cut(start)
    if start < last:
        for _, hidden in reader.read(torch.tensor([prompt.ids[start:last]], device=device), trunk):
            advance(hidden.shape[1])
    values = []
    for choice in prompt.choices:
        trunk.cut(last)
        rows = torch.tensor([[prompt.ids[last], *choice[:-1]]], device=device)
        states = torch.cat([hidden[0] for _, hidden in reader.read(rows, trunk)])  # (C, H)
        values.append(-float(sliced_loss.nll(reader.model, states, torch.tensor(choice, device=device)).sum()))
    return values


def _apart(reader: Reader, prompt: ChoicePrompt, advance: Callable[[int], None]) -> list[float]:
    """Values of the answers for a model that reads a text in one pass only."""
    values = []
    for choice in prompt.choices:
        ids = torch.tensor([[*prompt.ids, *choice]], device=reader.model.device)
        losses = torch.cat([part[0] for part in reader.token_nll(ids, scored=[len(choice)])])
        values.append(-float(losses[-len(choice) :].sum()))
    advance(len(prompt.ids))
    return values
