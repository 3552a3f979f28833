"""Benchmarks for a GPU. They need no more than torch, transformers, peft, pydantic and requests."""
