#!/bin/sh
# Extend an instruct model on text alone and on text with conversations, with equal steps and tokens, and ask the original
# and both results the same instructions:   sh examples/compare_instructions.sh [MODEL] [FOLDER]
set -eu
model=${1:-smollm2}
folder=${2:-runs/instructions}
mkdir -p "$folder"
python "$(dirname "$0")/write_chats.py" "$model" --out "$folder/chats.jsonl"
extend() {
  out=$1
  shift
  skipwise extend --model "$model" --target 32k --out "$folder/$out" \
    --set training.steps=24 --set training.batch_size=1 --set training.train_length=1024 \
    --set training.learning_rate=1e-4 --set training.schedule=cosine --set training.warmup_steps=5 \
    --set 'evaluation.tasks=[]' "$@"
}
extend text --data shakespeare
extend conversations --data shakespeare "$folder/chats.jsonl" --set 'data.mix=[1, 1]'
skipwise eval "$model" "$folder/text" "$folder/conversations" --tasks instructions --lengths 512 \
  --set evaluation.chat=true --out "$folder/results.jsonl"
