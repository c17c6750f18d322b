"""Model families, checkpoints in every form, loading, forward passes and losses in bounded memory."""
