"""Closed forms against linear CNNs that were really trained (paper, Theorems 4.2 and
4.3)."""

from experiments.paper.theory_vs_simulation.experiment import NAME, compute, draw, main
from experiments.paper.theory_vs_simulation.settings import Settings
from experiments.paper.theory_vs_simulation.verdicts import judge, table

__all__ = ["NAME", "Settings", "compute", "draw", "judge", "main", "table"]
