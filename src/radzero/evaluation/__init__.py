"""Evaluate models on zero-shot benchmarks."""
