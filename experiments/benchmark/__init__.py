"""Speed and memory against the official recipe and others."""

from experiments.benchmark.benchmark import NAME, Settings, main

__all__ = ["NAME", "Settings", "main"]
