"""Answer many long prompts greedily. Answers come in the order in which they are finished.

Three things make it many times faster than generating prompt by prompt, with the same answers:

- Prompts are read in sorted order, so that what neighbours share at their start (the filler before a needle) is
  computed once: each edge of their prefix tree costs one reading.
- A prompt is read together with the answer that would be right (its draft). If the model chooses the draft at every
  token, that one pass has decoded the answer. From the first token that differs, decoding continues with the cache.
  This is speculative decoding (arXiv 2211.17192) with the truth as the draft: it equals greedy decoding.
- Prompts are read, and wrong answers decoded, several at a time.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skipwise.errors import is_out_of_memory
from skipwise.models import sliced_loss
from skipwise.models.chunked_reader import KeyValues, Reader, common_prefix
from skipwise.models.forward import greedy
from skipwise.models.memory import free_bytes, key_value_bytes
from skipwise.utils import progress

WASTE = 1.25
"""A batch may read this many times the tokens that its prompts take one after the other."""
CHUNKS = {"cpu": 16}
"""Chunks that one batch may read, by type of device; 4 on others. Reading gains nothing from more than one on a CPU,
but a step of decoding costs the same for few rows as for many, and wrong answers take more than a hundred steps."""


class Prompt(NamedTuple):
    """A prompt and a guess at its answer, as token ids."""

    ids: list[int]
    draft: list[int]
    """What a right answer begins with; any guess is safe, a good one is fast."""

    @property
    def text(self) -> list[int]:
        """The prompt with its draft."""
        return self.ids + self.draft


class PromptGroup(NamedTuple):
    """Prompts that are read in one batch, by index, after a prefix that they share (tokens; 0 for a single one)."""

    members: list[int]
    prefix: int


class Room(NamedTuple):
    """What one batch may take, in tokens: those it reads, and those whose keys and values it holds."""

    read: int
    held: int


@dataclass
class _Job:
    """What every step of `answer` needs."""

    reader: Reader
    prompts: Sequence[Prompt]
    limit: int
    ended: Callable[[int, list[int]], bool]
    advance: Callable[[int], None]

    def finished(self, i: int, new: list[int]) -> bool:
        return len(new) >= self.limit or self.ended(i, new)


def tokens_to_read(reader: Reader, prompts: Sequence[Prompt]) -> int:
    """Count the tokens that `answer` will read at least, for its progress: with drafts and without decoding."""
    texts = sorted(prompt.text for prompt in prompts)
    shared = 0 if reader.whole else sum(common_prefix(a, b) for a, b in itertools.pairwise(texts))
    return sum(map(len, texts)) - shared


def answer(
    reader: Reader,
    prompts: Sequence[Prompt],
    limit: int,
    ended: Callable[[int, list[int]], bool],
    advance: Callable[[int], None] = lambda tokens: None,
) -> Iterator[tuple[int, list[int]]]:
    """Answer prompts greedily.

    A batch that does not fit into memory is halved, with a message.

    Args:
        reader: The model.
        prompts: The prompts with their drafts.
        limit: Most tokens of an answer.
        ended: Called with a prompt's index and its answer so far, after every token. True ends the answer.
        advance: Called with the number of tokens that were read.

    Yields:
        (index of the prompt, tokens of its answer), as they are finished.

    Raises:
        SkipwiseError: Not even one prompt fits into memory.
    """
    job = _Job(reader, prompts, limit, ended, advance)
    if reader.whole:
        yield from _one_by_one(job)
        return
    texts = [prompt.text for prompt in prompts]
    todo = sorted(range(len(texts)), key=texts.__getitem__)
    longest = max(map(len, texts), default=0) + limit
    room = _room(reader, longest)
    trunk, held = reader.cache(1, longest), list[int]()  # `held`: the tokens in the trunk
    while todo:
        group = _next_group(todo, texts, room, limit)
        first = prompts[group.members[0]]
        held = held[: common_prefix(held, first.text)]
        try:
            with reader.reading():
                if len(group.members) == 1:
                    answers = [_single(job, group.members[0], trunk, held)]
                    held = first.ids
                else:
                    trunk.cut(len(held))
                    for _ in _read(job, [first.text[len(held) : group.prefix]], trunk):
                        pass
                    answers = _batch(job, group, trunk)
                    held = first.text[: trunk.length]
        except (MemoryError, RuntimeError) as error:
            room = _less(job, group, room, error)
            trunk, held = reader.cache(1, longest), []
            continue
        todo = todo[len(group.members) :]
        yield from zip(group.members, answers, strict=True)


def _one_by_one(job: _Job) -> Iterator[tuple[int, list[int]]]:
    """For models that read a text in one pass only."""
    for i, prompt in enumerate(job.prompts):
        ids = torch.tensor([prompt.ids], device=job.reader.model.device)
        job.reader.reset()
        yield i, greedy(job.reader.model, ids, job.limit, lambda new, i=i: job.ended(i, new))  # type: ignore[misc]
        job.advance(len(prompt.text))


def _next_group(order: Sequence[int], texts: Sequence[list[int]], room: Room, limit: int) -> PromptGroup:
    """The first prompts of `order` that are cheap to read together."""
    first = texts[order[0]]
    members, prefix, longest, alone = [order[0]], len(first), len(first), len(first)
    for previous, i in itertools.pairwise(order):
        shared, size = common_prefix(texts[previous], texts[i]), len(members) + 1
        new_prefix, new_longest = min(prefix, shared), max(longest, len(texts[i]))
        read = size * (new_longest - new_prefix)
        if read > room.read or size * (new_longest + limit) > room.held:
            break
        if read > WASTE * (alone + len(texts[i]) - shared - new_prefix):
            break
        members.append(i)
        prefix, longest, alone = new_prefix, new_longest, alone + len(texts[i]) - shared
    return PromptGroup(members, prefix if len(members) > 1 else 0)


def _read(job: _Job, rows: list[list[int]], cache: KeyValues) -> Iterator[tuple[int, Tensor]]:
    """`reader.read` of rows of one length, none read when that is 0."""
    if rows[0]:
        for start, hidden in job.reader.read(torch.tensor(rows, device=job.reader.model.device), cache):
            job.advance(hidden.shape[0] * hidden.shape[1])
            yield start, hidden


def _single(job: _Job, i: int, cache: KeyValues, held: list[int]) -> list[int]:
    """The answer to one prompt, whose first `held` tokens are in the cache, which then holds the prompt."""
    prompt = job.prompts[i]
    start = min(len(held), len(prompt.ids) - 1)  # the last token of the prompt is read, for what follows it
    cache.cut(start)
    wanted = len(prompt.ids) - 1 - start
    parts = [hidden[0, max(wanted - place, 0) :] for place, hidden in _read(job, [prompt.text[start:]], cache)]
    new = _accepted(job, i, torch.cat(parts))
    while not job.finished(i, new):
        cache.cut(len(prompt.ids) + len(new) - 1)
        token = torch.tensor([[new[-1]]], device=job.reader.model.device)
        for _, hidden in job.reader.read(token, cache):
            new.append(int(sliced_loss.logits(job.reader.model, hidden[0, -1]).argmax()))
    cache.cut(len(prompt.ids))
    return new


def _batch(job: _Job, group: PromptGroup, trunk: KeyValues) -> list[list[int]]:
    """The answers to prompts whose common prefix the trunk holds."""
    prompts = [job.prompts[i] for i in group.members]
    prefix = min(group.prefix, *(len(prompt.ids) - 1 for prompt in prompts))
    trunk.cut(prefix)
    rests = [prompt.text[prefix:] for prompt in prompts]
    longest = max(map(len, rests))
    cache = trunk.repeated(len(prompts), prefix + longest + job.limit)
    parts: list[list[Tensor]] = [[] for _ in prompts]
    for start, hidden in _read(job, [rest + [0] * (longest - len(rest)) for rest in rests], cache):
        for row, prompt in enumerate(prompts):
            first, last = len(prompt.ids) - 1 - prefix - start, len(rests[row]) - start
            parts[row].append(hidden[row, max(first, 0) : max(last, 0)])
    answers = [_accepted(job, i, torch.cat(states)) for i, states in zip(group.members, parts, strict=True)]
    open_rows = [row for row, i in enumerate(group.members) if not job.finished(i, answers[row])]
    if open_rows:
        with job.reader.stepping():
            _decode(job, group, [answers[row] for row in open_rows], open_rows, cache)
    return answers


def _accepted(job: _Job, i: int, states: Tensor) -> list[int]:
    """The beginning of an answer that one pass over a prompt and its draft gives.

    From the states (D + 1, H) of the prompt's last token and of its draft come as many draft tokens as the model would
    have chosen, and the token after them; fewer if the answer ends.
    """
    draft = job.prompts[i].draft
    choices = sliced_loss.logits(job.reader.model, states).argmax(dim=-1).tolist()
    new: list[int] = []
    for drafted, choice in zip([*draft, None], choices, strict=True):
        new.append(choice)
        if choice != drafted or job.finished(i, new):
            break
    return new


def _decode(job: _Job, group: PromptGroup, answers: list[list[int]], rows: list[int], cache: KeyValues) -> None:
    """Go on with the answers of some rows of a batch, all at once, until the last one has ended.

    What stands behind the end of a row (padding, and a draft's rejected part) stays in the cache, masked.
    """
    device = job.reader.model.device
    indices = [group.members[row] for row in rows]
    ended: set[int] = set()
    lengths = torch.tensor([len(job.prompts[i].ids) + len(new) - 1 for i, new in zip(indices, answers, strict=True)])
    cache = cache.selected(rows, cache.length + job.limit)
    mask = (torch.arange(cache.length)[None] < lengths[:, None]).long().to(device)  # (B, S)
    positions = lengths.to(device)
    rows = list(range(len(rows)))  # the row of `answers` that stands in each row of the cache
    while rows:
        tokens = torch.tensor([answers[row][-1] for row in rows], device=device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        states = job.reader.step(tokens, positions, mask, cache)
        positions = positions + 1
        for row, choice in zip(rows, sliced_loss.logits(job.reader.model, states).argmax(dim=-1).tolist(), strict=True):
            if row not in ended:
                answers[row].append(choice)
                if job.finished(indices[row], answers[row]):
                    ended.add(row)
        going = [place for place, row in enumerate(rows) if row not in ended]
        if len(going) <= len(rows) / 2:  # rows that have ended are computed until they are half of all
            if going:
                cache = cache.selected(going, cache.capacity)
            mask, positions, rows = mask[going], positions[going], [rows[place] for place in going]


def _room(reader: Reader, longest: int) -> Room:
    """A batch that is fast and takes at most half of the free memory.

    That includes the trunk and the copy that decoding makes of its rows.
    """
    if not reader.batches:
        return Room(0, 0)
    free = free_bytes(reader.model.device)
    held = longest if free is None else max(free // 2 // key_value_bytes(reader.model) - longest, 0) // 2
    return Room(CHUNKS.get(reader.model.device.type, 4) * reader.chunk, held)


def _less(job: _Job, group: PromptGroup, room: Room, error: BaseException) -> Room:
    """Half of what a batch took that did not fit; half a chunk when it was one prompt. Errors: as `Reader.shrink`."""
    size = len(group.members)
    if size == 1 or not is_out_of_memory(error):
        job.reader.shrink(error)
        return room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    progress.say(f"out of memory with {size} prompts at once; going on with {size // 2}")
    longest = max(len(job.prompts[i].text) for i in group.members) + job.limit
    return Room(room.read, (size // 2) * longest)
