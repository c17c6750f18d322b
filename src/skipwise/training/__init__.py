"""Training on skipped positions with `transformers.Trainer`, and its checkpoints."""
