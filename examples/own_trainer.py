"""Use Skipwise in a plain `transformers.Trainer`: scale the RoPE of a model, wrap a dataset, train.

    python examples/own_trainer.py MODEL BOOK.txt [--target 16384] [--steps 20] [--out extended]

MODEL is a folder or hub id, BOOK.txt any long text.
"""

import argparse
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import skipwise

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("model")
parser.add_argument("book", type=Path)
parser.add_argument("--target", type=int, default=16384)
parser.add_argument("--train-length", type=int, default=256)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--out", default="extended")
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32")

# 1. One call scales the RoPE of a live model.
skipwise.apply(model, "yarn", target_length=args.target)

# 2. Wrap any tokenised dataset. The examples are short; their positions reach the target.
tokenised = Dataset.from_dict({"input_ids": [tokenizer(args.book.read_text())["input_ids"]]})
examples = skipwise.SkippedPositions(tokenised, target_length=args.target, train_length=args.train_length)

arguments = TrainingArguments(
    output_dir=args.out,
    max_steps=args.steps,
    per_device_train_batch_size=2,
    learning_rate=2e-5,
    remove_unused_columns=False,  # keep the position_ids of the examples
    report_to="none",
    logging_steps=5,
)
Trainer(model=model, args=arguments, train_dataset=examples).train()
model.save_pretrained(args.out)
tokenizer.save_pretrained(args.out)
