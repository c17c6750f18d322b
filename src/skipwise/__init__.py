"""Skipwise: extend the context window of RoPE language models by training on short windows with skipped positions.

The jobs of the command line:

    skipwise.extend(config)                                   extend a model as a `RunConfig` says; a run folder
    skipwise.evaluate(["bundled", "runs/a"], {"lengths": ["4k"], "tasks": ["passkey"]}, "rows.jsonl")   rows of models

The parts, for anyone's own training loop:

    skipwise.scale(config, "yarn", target_length=32768)       a configuration with scaled RoPE
    skipwise.apply(model, "yarn", target_length=32768)        the same for a live model
    skipwise.SkippedPositions(dataset, target_length=32768, train_length=2048)
    skipwise.token_nll(model, input_ids)                      per-token losses of long inputs in bounded memory
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "SkippedPositions",
    "SkipwiseError",
    "__version__",
    "apply",
    "evaluate",
    "extend",
    "scale",
    "token_nll",
]

if TYPE_CHECKING:
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.errors import SkipwiseError
    from skipwise.jobs.evaluate import evaluate
    from skipwise.jobs.extend import extend
    from skipwise.models.forward import token_nll
    from skipwise.models.load import apply
    from skipwise.rope.scale import scale

_HOME = {
    "SkipwiseError": "errors",
    "SkippedPositions": "data.skipped_positions",
    "apply": "models.load",
    "evaluate": "jobs.evaluate",
    "extend": "jobs.extend",
    "scale": "rope.scale",
    "token_nll": "models.forward",
}


def __getattr__(name: str) -> object:
    """Load a part when it is first asked for, so that `import skipwise` stays free of torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'skipwise' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"skipwise.{_HOME[name]}"), name)
