"""Hugging Face folders, GGUF files, model cards, and their verification in a process without Skipwise."""
