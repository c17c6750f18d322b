"""Evaluation: task declarations (`tasks/`), the runner, decoding, intervals and paired comparisons."""
