"""Let an instruct model write conversations to rehearse while its window is extended, where you have no chat data.

    python examples/write_chats.py smollm2 --out chats.jsonl
    skipwise extend --model smollm2 --target 32k --data shakespeare chats.jsonl --set data.mix='[3, 1]' --out runs/mine

The questions are made of topics and forms; the answers are the model's own, decoded greedily. None of the questions is
one of the task `instructions`. An answer that did not end within the limit is left out.
"""

import argparse
import json
import random
from pathlib import Path

import torch

from skipwise.config import ModelConfig
from skipwise.models.load import load

TOPICS = (
    "sleep|cooking rice|public libraries|learning to swim|recycling|houseplants|saving money|a first job|hiking|chess|"
    "writing letters|the water cycle|volcanoes|photosynthesis|bees|solar power|electric cars|online privacy|email|maps|"
    "museums|making new friends|moving house|a job interview|time management|public speaking|knitting|bicycles|rain|"
    "healthy breakfasts|city parks|long flights|old photographs|family recipes|learning a language|team work|weather|"
    "computer keyboards|bridges|tides|gardening in winter|pets|reading aloud|good manners|train travel|birthdays"
).split("|")
FORMS = (
    "Explain {} to a child in two sentences.",
    "Give me three tips about {}.",
    "Why do people care about {}?",
    "Write a short paragraph about {}.",
    "What are the advantages and disadvantages of {}?",
    "Write a friendly message to a colleague about {}.",
    "What should a beginner know about {}?",
    "Suggest a title for an article about {}.",
)
BATCH = 16


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("chats.jsonl"))
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    arguments = parser.parse_args()
    loaded = load(ModelConfig(path=arguments.model))
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    asked = [form.format(topic) for topic in TOPICS for form in FORMS]
    random.Random(0).shuffle(asked)
    with arguments.out.open("w", encoding="utf-8") as file:
        for start in range(0, min(arguments.count, len(asked)), BATCH):
            turns = [[{"role": "user", "content": text}] for text in asked[start : start + BATCH]]
            options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt", "padding": True}
            prompts = tokenizer.apply_chat_template(turns, **options)
            made = loaded.model.generate(**prompts, max_new_tokens=arguments.tokens, do_sample=False)
            for turn, ids in zip(turns, made[:, prompts["input_ids"].shape[1] :], strict=True):
                ends = (ids == tokenizer.eos_token_id).nonzero().flatten().tolist()
                answer = tokenizer.decode(ids[: ends[0]]).strip() if ends else ""
                if answer:
                    messages = [*turn, {"role": "assistant", "content": answer}]
                    file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
