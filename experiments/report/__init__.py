"""All results on one page, and their numbers in one table."""

from experiments.report.page import main

__all__ = ["main"]
