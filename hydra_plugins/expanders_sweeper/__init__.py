"""What the launcher adds to Hydra: names for run folders, and sweeps that are unions of grids.

Hydra finds this package by its place, under `hydra_plugins`, also in the workers of a cluster.
"""

from hydra_plugins.expanders_sweeper.naming import register_resolver
from hydra_plugins.expanders_sweeper.sweeper import GridSweeper

__all__ = ["GridSweeper"]

register_resolver()
