"""Evaluation of a model where it is served, through an OpenAI-compatible API."""
