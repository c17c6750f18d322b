"""Evaluations: a loaded model flows in, rows for results.jsonl flow out. One file a task; `run.py` runs them."""
