"""Tokenise a large corpus with datatrove, on several cores or through Slurm, into the store that a run opens at once.

    pip install 'skipwise[datatrove]'
    python recipes/tokenise_datatrove.py --model smollm2 --data corpus/*.jsonl.gz --scratch shards --workers 8
    skipwise extend --model smollm2 --data corpus/*.jsonl.gz ...

Each file is a unit of work, and a unit that is finished is not done again: start the same command anew after a crash.
Name the files themselves: a folder of parquet files alone is one unit. The settings of the corpus (`data.field`,
`data.exclude` ...) are given with --set, as in the run that will use the store. --slurm PARTITION submits the work as
an array of jobs instead; the command is then run once more, without it, to merge when they have ended.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from skipwise.config import DataConfig, ModelConfig, parse_settings, validate
from skipwise.data.store_building import Corpus
from skipwise.data.store_shards import check_corpus, merge_shards, write_shards
from skipwise.errors import SkipwiseError
from skipwise.models import checkpoint, sources


class WriteShards(PipelineStep):
    """The step of the pipeline: a task tokenises the files that fall to it."""

    name = "Skipwise shards"
    type = "writer"

    def __init__(self, model: str, data: DataConfig, folder: Path) -> None:
        super().__init__()
        self.model, self.data, self.folder = model, data, folder

    def corpus(self) -> Corpus:
        """The files with the tokenizer, which is loaded in each worker."""
        return Corpus(self.data, checkpoint.tokenizer(sources.find(ModelConfig(path=self.model))))

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Tokenise the files of task `rank`; documents of earlier steps pass through."""
        write_shards(self.corpus(), self.folder, rank, world_size)
        yield from data or ()


def main() -> None:
    """Tokenise, and merge when all is done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="whose tokenizer is used")
    parser.add_argument("--data", required=True, nargs="+", help="files, as data.paths")
    parser.add_argument("--scratch", required=True, type=Path, help="folder for shards, which all workers see")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--tasks", type=int, help="parts of the work; one for each file when absent")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="data.KEY=VALUE")
    parser.add_argument("--slurm", metavar="PARTITION", help="submit to Slurm, and do not merge")
    parser.add_argument("--time", default="24:00:00", help="limit of a Slurm job")
    args = parser.parse_args()
    paths = [str(Path(path).resolve()) if Path(path).exists() else path for path in args.data]
    values = parse_settings(args.set).get("data", {}) | {"paths": paths}
    step = WriteShards(args.model, validate(DataConfig, values, "data"), args.scratch.resolve())
    corpus = step.corpus()
    check_corpus(corpus)
    tasks = args.tasks or len(corpus.texts)
    logs = str(args.scratch.resolve() / "logs" / corpus.fingerprint)
    if args.slurm:
        options = {"time": args.time, "partition": args.slurm, "job_name": "skipwise-tokenise", "cpus_per_task": 2}
        SlurmPipelineExecutor([step], tasks=tasks, workers=args.workers, logging_dir=logs, **options).run()
        print("submitted; run the same command without --slurm to merge when the jobs have ended")
        return
    LocalPipelineExecutor([step], tasks=tasks, workers=args.workers, logging_dir=logs).run()
    store = merge_shards(corpus, step.folder)
    print(f"{len(store):,} documents, {len(store.tokens):,} tokens{store.duplicates_text} in {store.folder}")


if __name__ == "__main__":
    try:
        main()
    except SkipwiseError as error:
        print(f"tokenise_datatrove: {error}", file=sys.stderr)
        sys.exit(2)
